"""One module per format: what builds it, and `open_session` to run it."""
