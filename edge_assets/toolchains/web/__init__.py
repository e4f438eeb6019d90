"""Browsers: ONNX Runtime Web in headless Chromium, and the bundle that is released."""
