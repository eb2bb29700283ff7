"""ImageNet-1k's facts as data (provenance: README.md in this folder); knows nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["class_names", "synsets", "val_labels", "word"]

FOLDER = Path(__file__).parent


@cache
def _classes() -> tuple[tuple[str, str], ...]:
    text = (FOLDER / "classes.txt").read_text("utf-8")
    rows = (line.split("\t", 1) for line in text.splitlines())
    return tuple((synset, name) for synset, name in rows)


def synsets() -> tuple[str, ...]:
    """The 1000 WordNet ids such as ``n01440764``, in class order, which is sorted order."""
    return tuple(synset for synset, _ in _classes())


def class_names() -> tuple[str, ...]:
    """The 1000 English names in class order, as torchvision's weights list them."""
    return tuple(name for _, name in _classes())


@cache
def _words() -> dict[str, str]:
    return dict(_classes())


def word(name: str) -> str:
    """The English name of a class that is named by its synset; any other name as it is."""
    return _words().get(name, name)


@cache
def val_labels() -> tuple[int, ...]:
    """The classes of the 50,000 validation images: entry 0 is ILSVRC2012_val_00000001's."""
    packed = (FOLDER / "val_labels.bin").read_bytes()
    words = (int.from_bytes(packed[i : i + 5], "big") for i in range(0, len(packed), 5))
    return tuple(word >> shift & 0x3FF for word in words for shift in (30, 20, 10, 0))
