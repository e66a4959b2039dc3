"""Two models, or one with two settings, answer the same prompt; a person says which answer is better."""
