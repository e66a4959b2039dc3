"""The header of a model file, read in plain Python: bounded, without the weights, safe on hostile files."""

from localknobs.gguf_info.checks import check_can_load, check_is_model, read_headers, shard_paths
from localknobs.gguf_info.header import ArrayInfo, Header, Kind, Metadata, Scalar, TensorInfo
from localknobs.gguf_info.reader import parse_header, read_header

__all__ = [
    "ArrayInfo", "Header", "Kind", "Metadata", "Scalar", "TensorInfo",
    "check_can_load", "check_is_model", "parse_header", "read_header", "read_headers", "shard_paths",
]  # fmt: skip
