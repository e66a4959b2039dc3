"""Weights on disk to weights on disk: merge, convert, quantize."""
