"""A model over HTTP, for other programs: OpenAI's interface, and the parts of llama-server's that fit one model.

`localknobs serve` is the one verb that listens. Nothing here opens a connection of its own.
"""
