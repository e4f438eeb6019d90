"""Three more architectures for the quantization benchmark, on the digits example's images.

network   a residual CNN of plain convolutions, a depthwise CNN after MobileNet V1, a small ViT
specs     each as a ModelSpec, offered every scheme
train     trains one and keeps its checkpoint
"""
