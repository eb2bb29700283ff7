"""ImageNet-1k's classes as data (provenance: README.md in this folder); knows nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["class_names", "synsets"]


@cache
def _classes() -> tuple[tuple[str, str], ...]:
    text = Path(__file__).with_name("classes.txt").read_text("utf-8")
    rows = (line.split("\t", 1) for line in text.splitlines())
    return tuple((synset, name) for synset, name in rows)


def synsets() -> tuple[str, ...]:
    """The 1000 WordNet ids such as ``n01440764``, in class order, which is sorted order."""
    return tuple(synset for synset, _ in _classes())


def class_names() -> tuple[str, ...]:
    """The 1000 English names in class order, as torchvision's weights list them."""
    return tuple(name for _, name in _classes())
