"""The proposal network of MTCNN (Zhang et al., 2016), run over the picture in five sizes, with boxes in its pixels.

Module names are those of the published checkpoint. P-Net sees 12 x 12 pixels and is a convolution over the picture, so
height and width may be any. The sizes are means over whole pixels, which every format has, and none computes a size as
a float. Overlapping boxes are suppressed outside of the graph.
"""

import torch
from torch import nn
from torch.nn import functional

CELL, STRIDE = 12, 2  # pixels that one answer sees, and from one answer to the next
MEAN, SCALE = 127.5, 1 / 128


class FaceProposals(nn.Module):
    """Pictures float32 [batch, 3, height, width] of 0 to 255 to boxes [batch, cells, 4] and scores [batch, cells, 1].

    Boxes are x1, y1, x2, y2 in the picture's pixels. Both sides are at least 56: the smallest size has two answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whole = (image - MEAN) * SCALE
        twice = functional.interpolate(whole, scale_factor=2.0, mode="nearest")
        pictures = {
            1.0: whole,
            2 / 3: functional.avg_pool2d(twice, 3),
            1 / 2: functional.avg_pool2d(whole, 2),
            1 / 3: functional.avg_pool2d(whole, 3),
            1 / 4: functional.avg_pool2d(whole, 4),
        }
        boxes, scores = [], []
        for factor, picture in pictures.items():
            found, certain = self._proposals(picture, factor)
            boxes.append(found)
            scores.append(certain)
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)

    def _proposals(self, picture: torch.Tensor, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes [batch, cells, 4] and scores [batch, cells, 1] of a picture that was made smaller by `factor`."""
        features = self.prelu1(self.conv1(picture))
        features = functional.max_pool2d(features, 2)  # trained with half windows at odd edges, which it does without
        features = self.prelu3(self.conv3(self.prelu2(self.conv2(features))))
        scores = self.conv4_1(features).softmax(dim=1)[:, 1:]
        offsets = self.conv4_2(features)
        rows = torch.arange(features.shape[2], device=picture.device, dtype=picture.dtype)
        columns = torch.arange(features.shape[3], device=picture.device, dtype=picture.dtype)
        top = ((STRIDE * rows + 1) / factor)[:, None]
        left = ((STRIDE * columns + 1) / factor)[None, :]
        size = CELL / factor
        x1 = left + size * offsets[:, 0]
        y1 = top + size * offsets[:, 1]
        x2 = left + size + size * offsets[:, 2]
        y2 = top + size + size * offsets[:, 3]
        boxes = torch.stack([x1, y1, x2, y2], dim=-1)
        return boxes.flatten(1, 2), scores.flatten(2).transpose(1, 2)
