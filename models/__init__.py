"""The built-in model, `built-in.gguf`; its recipe, corpus and checkpoint stay in the repository."""
