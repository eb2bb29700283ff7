"""Photographs with label maps as they lie on disk: one number for each pixel."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data import ade20k
from ..data.decoding import read_bytes, read_image
from ..data.listing import LeftOut, describe, files_below, is_image
from ..system.files import expanded
from ..system.reading import ContentError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IGNORED", "LabelledPhotos", "find_labelled_photos", "read_labels", "read_names"]

IGNORED = 255  # in label maps: no class
IMAGES = "images"
LABELS = ("annotations", "labels", "masks")
SPLITS = ("validation", "val")
NUMBERS = ("1", "L", "P", "I", "I;16")  # modes of PIL with one number for each pixel


@dataclass(frozen=True)
class LabelledPhotos:
    """Photographs and their label maps."""

    samples: tuple[tuple[Path, Path], ...]  # an image, and its label map
    names: tuple[str, ...]  # of the classes
    first: int = 0  # the number of the first class in label maps
    left_out: tuple[str, ...] = ()  # what is not counted, in sentences with counts and examples

    @property
    def finding(self) -> str:
        """What was found, in one line."""
        count = f"{len(self.samples):,} images with label maps of {len(self.names):,} classes"
        return f"{count}, numbered from {self.first}"

    def read(self, index: int) -> tuple[Image, Tensor]:
        """An image, and the class of each pixel, -1 where there is none.

        Raises:
            OSError: if the system does not read one of them.
            ValueError: if one of them is no image, or the two do not fit each other.
        """
        path, labelled = self.samples[index]
        image, labels = read_image(path), read_labels(labelled, len(self.names), self.first)
        if labels.shape != (image.height, image.width):
            height, width = labels.shape
            raise ContentError(
                f"it has {image.width}x{image.height} pixels, and its label map {labelled} "
                f"{width}x{height}"
            )
        return image, labels


def find_labelled_photos(root: str | Path, names: Sequence[str] | None = None) -> LabelledPhotos:
    """Find photographs and label maps, as ADE20K's scene parsing benchmark has them.

    ``root`` holds ``images/validation/NAME.jpg`` and ``annotations/validation/NAME.png``; without
    ``names`` the classes are ADE20K's, which label maps count from 1, and 0 is none. With ``names``
    they count from 0. Beside ``images`` the folder may be called ``labels`` or ``masks`` as well,
    and both may do without ``validation``, or call it ``val``. 255 is no class.

    Raises:
        ValueError: if there are no such folders, or no image has a label map.
    """
    root = expanded(root)
    places = _places(root)
    left_out: LeftOut = {}
    images, maps = (_by_name(place, left_out) for place in places)
    both = [name for name in images if name in maps]
    left_out["without a label map"] = [images[name] for name in images if name not in maps]
    left_out["without an image"] = [maps[name] for name in maps if name not in images]
    if not both:
        raise ValueError(
            f"No image in {places[0]} has a label map of its name in {places[1]}: "
            f"{next(iter(images), 'no image')}.jpg belongs to {next(iter(images), 'it')}.png."
        )
    return LabelledPhotos(
        tuple((images[name], maps[name]) for name in both),
        ade20k.class_names() if names is None else tuple(names),
        1 if names is None else 0,
        describe(left_out),
    )


def _places(root: Path) -> tuple[Path, Path]:
    """The folders of the images and of the label maps."""
    if not root.is_dir():
        raise ValueError(f"There is no folder {root}. Give the folder of images and label maps.")
    beside = next((root / name for name in LABELS if (root / name).is_dir()), None)
    images = root / IMAGES
    if beside is None or not images.is_dir():
        raise ValueError(
            f"{root} holds no folders {IMAGES} and {LABELS[0]}, such as those of ADE20K's "
            "ADEChallengeData2016. Give the folder that holds both."
        )
    for split in SPLITS:
        if (images / split).is_dir() and (beside / split).is_dir():
            return images / split, beside / split
    return images, beside


def _by_name(place: Path, left_out: LeftOut) -> Mapping[str, Path]:
    """The pictures below a folder by their paths without suffix, in order."""
    pictures = [path for path in files_below(place, left_out) if is_image(path)]
    return {path.relative_to(place).with_suffix("").as_posix(): path for path in pictures}


def read_labels(path: str | Path, classes: int, first: int = 0) -> Tensor:
    """The class of each pixel, int64 ``[H, W]``, from a label map; -1 where there is none.

    Args:
        path: A picture with one number for each pixel, such as a PNG in grey or with a palette.
        classes: How many there are.
        first: The number of the first one; smaller numbers, and 255, are none.

    Raises:
        OSError: if the system does not read it.
        ContentError: if it is no label map, or holds numbers that are no class.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2 import functional as tv

    data = read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in NUMBERS:
                raise ContentError(
                    f"the label map {path} is a picture in colour ({image.mode}), and should hold "
                    "one number for each pixel"
                )
            numbers: Tensor = tv.pil_to_tensor(image)[0].long()
    except ContentError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ContentError(f"the label map {path} is no image that can be decoded") from error
    labels: Tensor = (numbers - first).masked_fill(numbers == IGNORED, -1).clamp(min=-1)
    if int(labels.max()) >= classes:
        wrong = torch.unique(numbers[labels >= classes]).tolist()
        few = ", ".join(map(str, wrong[:3])) + (", ..." if len(wrong) > 3 else "")
        raise ContentError(
            f"the label map {path} holds {few}, and the classes are {first} to "
            f"{first + classes - 1}"
        )
    return labels


def read_names(path: str | Path) -> tuple[str, ...]:
    """The names of classes in a text file, one a line, in their order.

    Raises:
        OSError: if the system does not read it.
        ValueError: if it is no such file.
    """
    try:
        lines = read_bytes(expanded(path)).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8. Write one name of a class a line."
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) < 2 or len(set(names)) < len(names):
        what = "holds a name twice" if len(names) > 1 else "holds less than two names"
        raise ValueError(f"{path} {what}. Write one name of a class a line.")
    return names
