"""One model in one worker process."""
