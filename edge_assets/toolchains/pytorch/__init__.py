"""PyTorch: eager sessions, TorchScript, static int8 by FX, and quantization-aware training."""
