"""Measurement: interleaved child processes, warm-up to a steady state, honest percentiles."""
