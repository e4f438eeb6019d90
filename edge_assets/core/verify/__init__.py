"""Is the variant still the model? Parity of its outputs, and its score on the task."""
