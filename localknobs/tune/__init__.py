"""Fine-tuning: from examples to an adapter, in a child process that can be killed and goes on where it was."""
