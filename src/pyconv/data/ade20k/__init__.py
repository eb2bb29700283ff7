"""ADE20K's classes as data (provenance: README.md in this folder); knows nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["class_names", "colors"]

FOLDER = Path(__file__).parent

Color = tuple[int, int, int]


@cache
def class_names() -> tuple[str, ...]:
    """The names of the 150 classes in order; label maps count them from 1."""
    return tuple((FOLDER / "names.txt").read_text("utf-8").splitlines())


@cache
def colors() -> tuple[Color, ...]:
    """The colour of each class: red, green and blue from 0 to 255."""
    lines = (FOLDER / "colors.txt").read_text("utf-8").splitlines()
    rows = (tuple(map(int, line.split())) for line in lines)
    return tuple((red, green, blue) for red, green, blue in rows)
