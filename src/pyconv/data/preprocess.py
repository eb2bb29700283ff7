"""What pixels a network expects: sizes and statistics, and how an image is brought there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Images", "Preprocess"]


@dataclass(frozen=True)
class Images:
    """What the images of a data set are scaled to, in pixels, and the statistics of 0..1 pixels."""

    crop: int = 224
    resize: int = 256  # of the shorter side, before the crop
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def of_channels(self, channels: int) -> Images:
        """These sizes with ImageNet's statistics, where a network takes grey or colour instead."""
        if channels == len(self.mean) or channels not in (1, 3):
            return self
        mean, std = ((0.449,), (0.226,)) if channels == 1 else (Images.mean, Images.std)
        return replace(self, mean=mean, std=std)


@dataclass(frozen=True)
class Preprocess:
    """Resize the shorter side, crop the centre, normalise: what a model is evaluated behind.

    Called with a PIL image, or a tensor ``[..., C, H, W]`` of uint8 or of floating numbers from 0
    to 1, gives float32 ``[..., C, crop, crop]``. The two halves are there on their own, so that a
    loader can pass bytes and normalise whole batches: the result is the same to the bit.
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
        """Resize and crop: ``[..., C, crop, crop]``, bilinear as PIL does it; of PIL's, uint8."""
        from torchvision.transforms.v2 import functional as tv

        if not isinstance(image, Tensor):
            image = image.convert("L" if len(self.mean) == 1 else "RGB")
        image = tv.resize(image, [self.resize], antialias=True)
        image = tv.center_crop(image, [self.crop, self.crop])
        return image if isinstance(image, Tensor) else tv.pil_to_tensor(image)

    def normalise(self, pixels: Tensor) -> Tensor:
        """``[..., C, H, W]`` -> float32, channels shifted by mean and scaled by std."""
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1)
        numbers = pixels.to(torch.float32, copy=True)
        if not pixels.is_floating_point():
            numbers.div_(255)
        return numbers.sub_(mean).div_(std)

    def __call__(self, image: Image | Tensor) -> Tensor:
        return self.normalise(self.pixels(image))
