"""A face detector with published weights: pictures of any size within a range, boxes and scores out.

The weights in `checkpoints/pnet.safetensors` are those of `facenet_pytorch/data/pnet.pt` in facenet-pytorch 2.6.0, MIT
licence, (c) 2019 Timothy Esler, see `checkpoints/LICENSE.md`; that package ported them from David Sandberg's facenet,
MIT licence as well.

The pictures are composed of the 100 faces of Labeled Faces in the Wild that scikit-image ships, over two photographs
that scikit-learn ships; they are read from the installed packages, and none is part of this repository.
"""
