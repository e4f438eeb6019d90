"""Text: the published sentence encoder all-MiniLM-L6-v2."""
