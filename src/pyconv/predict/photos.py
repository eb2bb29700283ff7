"""The photographs that paths mean: files as they are, folders with all that is inside."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..data.listing import NO_IMAGE, LeftOut, describe, files_below, is_image
from ..system.files import existing

__all__ = ["find_photos"]


def find_photos(paths: Iterable[str]) -> tuple[list[Path], tuple[str, ...]]:
    """The files that paths mean, and what is left out in folders, in sentences.

    A folder means the images in it and in the folders inside, sorted. A file is taken whatever its
    suffix.

    Raises:
        ValueError: if something is not there, or a folder holds no image.
    """
    photos: list[Path] = []
    left_out: LeftOut = {}
    for text in paths:
        path = existing(text)
        if path is None:
            raise ValueError(f"There is no file or folder {text}.")
        if not path.is_dir():
            photos.append(path)
            continue
        files = files_below(path, left_out)
        images = [file for file in files if is_image(file)]
        left_out.setdefault(NO_IMAGE, []).extend(file for file in files if not is_image(file))
        if not images:
            more = "".join(f" {sentence}." for sentence in describe(left_out)[:1])
            raise ValueError(f"There are no images in the folder {path}.{more}")
        photos += images
    return photos, describe(left_out)
