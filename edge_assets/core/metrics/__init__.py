"""Metrics: what is kept of every sample, and the value that follows from it."""
