"""What pixels a network expects: sizes and statistics, and how an image is brought there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .decoding import to_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGENET", "Preprocess", "WholeImage", "expected_pixels"]

GREY = ((0.449,), (0.226,))  # mean and standard deviation of ImageNet's images without colour


@dataclass(frozen=True)
class Preprocess:
    """Resize the shorter side, crop the centre, normalise: what a model is evaluated behind.

    Called with a PIL image, or a tensor ``[..., C, H, W]`` of uint8 or of floating numbers from 0
    to 1, gives float32 ``[..., C, crop, crop]``. The two halves are there on their own, so that a
    loader can pass bytes and normalise whole batches: the result is the same to the bit.

    Args:
        crop: Side of the centre crop in pixels.
        resize: Shorter side before the crop in pixels.
        mean, std: Statistics of the channels, of pixels from 0 to 1; default ImageNet's.
    """

    crop: int = 224
    resize: int = 256
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def sized(self, crop: int | None = None, resize: int | None = None) -> Preprocess:
        """The same with another crop; without ``resize``, with the same margin around it.

        Raises:
            ValueError: if the crop does not fit into the resized image.
        """
        crop = self.crop if crop is None else crop
        if resize is None:
            resize = round(crop * self.resize / self.crop)
        if not 0 < crop <= resize:
            raise ValueError(
                f"crop={crop} does not fit into resize={resize}: the crop is taken from the "
                "resized image. Use a smaller crop, or leave resize out."
            )
        return replace(self, crop=crop, resize=resize)

    def for_channels(self, channels: int) -> Preprocess:
        """The same with ImageNet's statistics, where a network takes grey or colour instead."""
        if channels == len(self.mean) or channels not in (1, 3):
            return self
        mean, std = GREY if channels == 1 else (Preprocess.mean, Preprocess.std)
        return replace(self, mean=mean, std=std)

    def pixels(self, image: Image | Tensor) -> Tensor:
        """Resize and crop: ``[..., C, crop, crop]``, bilinear as PIL does it; of PIL's, uint8."""
        from torchvision.transforms.v2 import functional as tv

        if isinstance(image, Tensor):
            image = _in_channels(image, len(self.mean))
        else:
            image = to_bytes(image, len(self.mean))
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


def _in_channels(image: Tensor, channels: int) -> Tensor:
    """A tensor ``[..., C, H, W]`` in grey or colour, as PIL's images are brought there."""
    from torchvision.transforms.v2 import functional as tv

    if image.dtype == torch.uint16:  # as torchvision decodes 16 bits
        image = image.to(torch.float32) / 65535
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(
            f"The image is a tensor of {image.dtype}, which does not say what is white. Give it as "
            "torch.uint8, as torch.uint16, or as floating numbers from 0 to 1."
        )
    have = image.shape[-3] if image.ndim > 2 else 0
    if have == channels:
        return image
    if {have, channels} != {1, 3}:
        raise ValueError(
            f"The image is a tensor {list(image.shape)} and the network takes {channels} channels: "
            f"[..., {channels}, H, W]. Give it in grey or in colour."
        )
    changed: Tensor = tv.rgb_to_grayscale(image, channels)
    return changed


IMAGENET = Preprocess()


@dataclass(frozen=True)
class WholeImage:
    """Normalise, and neither resize nor crop: what a segmentation network sees of an image.

    Called with a PIL image, or a tensor ``[..., C, H, W]`` of uint8 or of floating numbers from 0
    to 1, gives float32 of the same size.

    Args:
        mean, std: Statistics of the channels, of pixels from 0 to 1; default ImageNet's.
    """

    mean: tuple[float, ...] = IMAGENET.mean
    std: tuple[float, ...] = IMAGENET.std

    def __call__(self, image: Image | Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional as tv

        if isinstance(image, Tensor):
            pixels = _in_channels(image, len(self.mean))
        else:
            pixels = tv.pil_to_tensor(to_bytes(image, len(self.mean)))
        return Preprocess(mean=self.mean, std=self.std).normalise(pixels)


def expected_pixels(
    published: Preprocess = IMAGENET,
    channels: int | None = None,
    *,
    crop: int | None = None,
    resize: int | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    network: str = "The network",
) -> Preprocess:
    """What pixels a network expects: those its weights are published with, unless asked otherwise.

    Args:
        published: What the network's weights are published with.
        channels: Channels that the network takes; default as published.
        crop: Side of the centre crop in pixels; default as published.
        resize: Shorter side before the crop in pixels; default in the published proportion.
        mean, std: Statistics of the channels; default as published, and ImageNet's where the
            network takes grey or colour instead.
        network: What to call the network in an error.

    Raises:
        ValueError: if image files do not give these channels, the statistics are of another number
            of channels, or the crop does not fit.
    """
    channels = len(published.mean) if channels is None else channels
    pixels = published.for_channels(channels)
    if channels not in (1, 3):
        raise ValueError(f"{network} takes {channels} channels, and image files give 1 or 3.")
    if mean or std:
        pixels = replace(pixels, mean=mean, std=std)
    if not len(pixels.mean) == len(pixels.std) == channels:
        raise ValueError(
            f"{network} takes images of {channels} channels; --mean and --std have "
            f"{len(pixels.mean)} and {len(pixels.std)}."
        )
    return pixels.sized(crop, resize)
