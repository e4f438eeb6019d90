"""ExecuTorch: programs lowered to a backend, and their schemes."""
