"""Image files decoded: the one place, for evaluation, training and prediction alike."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..system.reading import ContentError, reading

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["decode", "decode_fast", "image_suffixes", "read_bytes", "read_image", "to_bytes"]

JPEG_MAGIC = b"\xff\xd8\xff"

# What PIL only knows by name, needs another program for, or what holds measurements.
NO_PICTURES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"}
DEEP_GREY = ("PNG", "PPM")  # which state the range of 16 bits that PIL gives as mode I
TIFF_BITS, TIFF_WHITE = 258, 262  # tags: bits of a number; 0 where 0 is white


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes, in small letters, of the pictures that the installed Pillow reads."""
    from PIL import Image

    known = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in known.items() if kind not in NO_PICTURES)


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: if the system does not read it, in a sentence: nothing is known to be wrong with
            the file.
        ValueError: if it is a pipe or a device.
    """
    with reading(path) as file:
        return file.read()


def read_image(path: str | Path, channels: int = 3) -> Image:
    """The picture in a file, as of :func:`decode`.

    Raises:
        OSError: if the system does not read it, in a sentence: nothing is known to be wrong with
            the file.
        ContentError: if all of it was read, and is no image that can be decoded.
        ValueError: if it is a pipe or a device.
    """
    return decode(read_bytes(path), channels)


def decode(data: bytes, channels: int = 3) -> Image:
    """The picture in an image file: a PIL image in grey (mode L) for 1 channel, else in RGB.

    Of an animation it is the first frame. Transparency, and an orientation stated in EXIF, are not
    applied: the published accuracies were not measured so. Deeper pixels are scaled, as by
    :func:`to_bytes`.

    Raises:
        ContentError: if the bytes are no image that can be decoded, or state no range.
        MemoryError: if memory is too small for it.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ContentError("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of EXIF and palettes, which change no pixel
        try:
            image = Image.open(io.BytesIO(data))
            image.load()
            return to_bytes(image, channels)
        except UnidentifiedImageError as error:
            raise ContentError("it is no image of a kind that PIL knows") from error
        except (ContentError, MemoryError):
            raise
        except Exception as error:  # a damaged file can make a decoder fail in any way
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of loading the decoder: the bytes themselves are all here
            raise ContentError(str(error) or type(error).__name__) from error


def to_bytes(image: Image, channels: int = 3) -> Image:
    """A PIL image in grey (mode L) for 1 channel, else in RGB, where PIL would cut off deep pixels.

    Numbers of 12 or 16 bits are scaled by that range; floating ones are black at 0, white at 1.

    Raises:
        ContentError: if the image states no range.
    """
    if image.mode == "LAB":
        raise ContentError("its colours are LAB, which PIL does not convert. Save it in RGB")
    if image.mode[0] in "IF":
        image = _scaled(image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _scaled(image: Image) -> Image:
    """An image of deep grey in 8 bits."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(TIFF_WHITE) == 0:
        raise ContentError("its white is the number 0. Save it with 8 bits a channel")
    if image.mode == "F":
        values = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.float32)
        if not ((values >= 0) & (values <= 1)).all():
            raise ContentError(
                "its floating numbers are not from 0 to 1, so what is white is not known. Save it "
                "with 8 bits a channel"
            )
        return image.point(lambda value: value * 255 + 0.5).convert("L")
    if image.mode == "I" and image.format not in DEEP_GREY:
        raise ContentError(
            "its whole numbers state no range, so what is white is not known. Save it with 8 or "
            "16 bits a channel, without sign"
        )
    # The high byte of 16 bits, as PIL takes it of colours.
    high = 1 / 16 if tags.get(TIFF_BITS) == (12,) else 1 / 256
    return image.convert("I").point(lambda value: value * high).convert("L")


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
