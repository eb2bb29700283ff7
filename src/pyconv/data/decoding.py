"""Image files decoded: the one place, for evaluation and training alike."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["decode", "decode_fast"]

JPEG_MAGIC = b"\xff\xd8\xff"


def decode(data: bytes, channels: int = 3) -> Image:
    """The picture in an image file: a PIL image in grey (mode L) for 1 channel, else in RGB.

    An orientation stated in EXIF is not applied: the published accuracies were not measured so.

    Raises:
        OSError, ValueError, ...: whatever a damaged file makes a decoder raise.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ValueError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EXIF and palettes, which change no pixel
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise ValueError("it is no image of a kind that PIL knows") from error
        return image.convert("L" if channels == 1 else "RGB")


def decode_fast(data: bytes) -> Image | Tensor:
    """The picture in colour: of a JPEG uint8 ``[3, H, W]`` in half the time, else as `decode`."""
    picture = _decode_jpeg(data) if data.startswith(JPEG_MAGIC) else None
    return decode(data) if picture is None else picture


def _decode_jpeg(data: bytes) -> Tensor | None:
    """A JPEG in colour or grey, decoded without PIL; None where that is not possible."""
    from PIL import Image

    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        picture: Tensor = decode_jpeg(raw, ImageReadMode.UNCHANGED)
    except (ImportError, RuntimeError):  # a torchvision without decoders, a damaged file: ask PIL
        return None
    if len(picture) not in (1, 3):  # CMYK, which Adobe inverts and PIL knows how
        return None
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and picture[0].numel() > 2 * most:  # PIL refuses it: count the same
        return None
    return picture.expand(3, -1, -1)
