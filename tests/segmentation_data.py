"""Photographs with label maps, and a small network for pixels, for the tests of segmentation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import photos
import torch
from PIL import Image
from torch import Tensor, nn

from pyconv import Architecture, PyConvSegNet, ResNet, Stage, Stem
from pyconv.pyconvsegnet import dilated

# A network with all the paper's parts that computes in milliseconds.
SMALL = Architecture(
    "small",
    "bottleneck",
    1,
    tuple(
        Stage(1, planes, 2, kernels, groups)
        for planes, kernels, groups in [
            (16, (3, 5), (1, 4)),
            (16, (3, 5), (1, 4)),
            (32, (3, 5), (1, 4)),
            (32, (3,), (1,)),
        ]
    ),
    Stem(width=8, kernel=3, pool=False),
    pool_shortcut=True,
)


def small(num_classes: int = 150, aux: bool = True) -> PyConvSegNet:
    """A segmentation network by the name ``segmentation_data:small``, of random weights."""
    torch.manual_seed(0)
    return PyConvSegNet(dilated(SMALL), num_classes, aux=aux)


def backbone(**options: object) -> ResNet:
    return ResNet(SMALL, **options)  # type: ignore[arg-type]


class Plain(nn.Module):
    """A network that gives logits and no dict, of a convolution alone."""

    def __init__(self, num_classes: int = 7) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.num_classes = num_classes
        self.conv = nn.Conv2d(3, num_classes, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def label_map(seed: int, width: int, height: int, numbers: Iterable[int]) -> Image.Image:
    """A map of patches, each of one of the numbers."""
    numbers = np.array(list(numbers), dtype=np.uint8)
    coarse = np.random.RandomState(seed).choice(numbers, (4, 5))
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)


def ade20k(root: Path, count: int = 7) -> Path:
    """A folder as ADE20K's scene parsing benchmark has it, with so many small images."""
    for n in range(count):
        width, height = 60 + n, 48
        name = f"ADE_val_{n + 1:08d}"
        data = photos.encode(photos.picture(n, width, height), quality=90)
        photos.write(root / f"images/validation/{name}.jpg", data)
        labels = label_map(n, width, height, range(151))
        photos.write(root / f"annotations/validation/{name}.png", photos.encode(labels, "PNG"))
    photos.write(root / "images/training/ADE_train_00000001.jpg", b"not looked at")
    photos.write(root / "objectInfo150.txt", b"Idx\tRatio\n")
    return root
