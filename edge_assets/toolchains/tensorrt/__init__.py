"""TensorRT: engines in rebuild kits, their QDQ graphs, and Torch-TensorRT."""
