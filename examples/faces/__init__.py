"""A face detector with published weights: pictures of any size within a range, boxes and scores out.

The weights in `checkpoints/pnet.pt` are the file `facenet_pytorch/data/pnet.pt` of facenet-pytorch 2.6.0, MIT licence,
(c) 2019 Timothy Esler, see `checkpoints/LICENSE.md`; they come from David Sandberg's facenet, MIT licence as well. The
pictures are composed of the 100 faces of Labeled Faces in the Wild that scikit-image ships, over two photographs that
scikit-learn ships; they are read from the installed packages, and none is part of this repository.
"""
