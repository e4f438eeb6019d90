"""ONNX: export from PyTorch, ONNX Runtime's sessions, and the schemes that change an ONNX graph."""
