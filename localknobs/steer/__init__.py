"""Control vectors: directions between two lists of prompts, made into a file, and what they do to answers."""
