"""One file a family of models: what its tensors and its metadata are called in a GGUF file."""
