"""Experiments: their configurations, the folder each has, what is written down of its jobs, and Comet."""
