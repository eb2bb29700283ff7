"""Image folders in, uint8 batches out: layouts, labels, preprocessing, loaders.

torchvision is imported when images are first touched, so that ``import pyconv`` stays as light as
``import torch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .weights import Images

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageList", "Preprocess", "find_images", "make_loader"]

SUFFIXES = {".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Preprocess:
    """Resize the shorter side, crop the centre, normalise: what a model is evaluated behind.

    Called with a PIL image or a uint8 tensor ``[C, H, W]``, gives float32 ``[C, crop, crop]``. The
    two halves are there on their own, so that a loader can pass bytes and normalise whole batches:
    the result is the same to the bit.
    """

    crop: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Images, crop: int | None = None, resize: int | None = None) -> Preprocess:
        """The published preprocessing, or another crop with the same margin around it.

        Raises:
            ValueError: if the crop does not fit into the resized image.
        """
        crop = images.crop if crop is None else crop
        if resize is None:
            resize = round(crop * images.resize / images.crop)
        if not 0 < crop <= resize:
            raise ValueError(
                f"crop={crop} does not fit into resize={resize}: the crop is taken from the "
                "resized image. Use a smaller crop, or leave resize out."
            )
        return cls(crop, resize, images.mean, images.std)

    def pixels(self, image: Image | Tensor) -> Tensor:
        """Resize and crop: uint8 ``[C, crop, crop]``, bilinear as PIL does it."""
        from torchvision.transforms.v2 import functional as tv

        if not isinstance(image, Tensor):
            image = image.convert("L" if len(self.mean) == 1 else "RGB")
        image = tv.resize(image, [self.resize], antialias=True)
        image = tv.center_crop(image, [self.crop, self.crop])
        return image if isinstance(image, Tensor) else tv.pil_to_tensor(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 ``[..., C, H, W]`` -> float32, channels shifted by mean and scaled by std."""
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1)
        return pixels.float().div_(255).sub_(mean).div_(std)

    def __call__(self, image: Image | Tensor) -> Tensor:
        return self.normalise(self.pixels(image))


@dataclass(frozen=True)
class ImageList:
    """Labelled images: a label is a position in ``classes``."""

    classes: tuple[str, ...]
    samples: tuple[tuple[Path, int], ...]


def find_images(root: str | Path) -> ImageList:
    """The images of a folder that holds one folder per class, classes in sorted order.

    Raises:
        ValueError: if there is no such folder, or there are no images in its folders.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}. Give the folder that holds the images.")
    folders = sorted(place for place in root.iterdir() if place.is_dir())
    samples = tuple(
        (path, label)
        for label, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    )
    if not samples:
        raise ValueError(
            f"There are no images in the folders of {root}. It should hold one folder per class, "
            "with the images of the class inside."
        )
    return ImageList(tuple(folder.name for folder in folders), samples)


class _Pixels(Dataset[tuple[Tensor, Tensor]]):
    """Decoded, resized and cropped images with their labels."""

    def __init__(self, samples: Sequence[tuple[Path, int]], preprocess: Preprocess) -> None:
        self.samples, self.preprocess = samples, preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        path, label = self.samples[index]
        with Image.open(path) as image:
            return self.preprocess.pixels(image), torch.tensor(label)


def make_loader(
    images: ImageList, preprocess: Preprocess, batch_size: int = 64, workers: int = 0
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of uint8 ``[N, C, crop, crop]`` with their labels ``[N]``, in order, each once."""
    dataset = _Pixels(images.samples, preprocess)
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers)
