"""Measure what a change did: perplexity, KL divergence, tasks, needles, speed, before and after, in one report."""
