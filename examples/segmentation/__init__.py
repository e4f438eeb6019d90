"""Segmentation: a small U-Net for pictures of shapes over textures, trained by a script in this folder."""
