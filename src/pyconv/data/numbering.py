"""The names of classes become positions: the one place that decides their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import imagenet
from .listing import LeftOut, nearest

__all__ = ["Found", "number"]


@dataclass(frozen=True)
class Found:
    """Images with the names of their classes, before the names become positions."""

    samples: Sequence[tuple[Path, str]]
    names: tuple[str, ...]  # of all classes, those without images included
    source: str
    left_out: LeftOut = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # images that a list names and that are not there
    is_list: bool = False  # a list names them
    numbered: bool = False  # the names are positions by intention
    spans: Mapping[Path, tuple[int, int]] | None = None


def number(
    found: Found, wanted: Sequence[str] | int | None, root: Path
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Decide the order of the classes, and the position of every name in it.

    Args:
        found: The images.
        wanted: The names of the model's classes in order, or how many there are; None takes those
            found, in sorted order.
        root: Where the images are, for messages.

    Raises:
        ValueError: if the model does not know a class.
    """
    classes = _classes(found, wanted)
    if isinstance(wanted, int) and len(classes) != wanted:
        raise ValueError(
            f"{root} holds {len(classes)} classes and the model has {wanted}. Evaluate it on "
            f"images of the classes it was trained on; {_cure(found, wanted)}."
        )
    names = {name for _, name in found.samples}
    positions = {name: position for position, name in enumerate(classes)}
    # All by name or all by number: a class may be called "1" and not be at that position.
    named = not names.isdisjoint(classes) or all(map(str.isdecimal, classes))
    if found.numbered or not named:
        positions = {name: int(name) for name in names if name.isdecimal()}
        positions = {name: n for name, n in positions.items() if n < len(classes)}
    if unknown := sorted(names - positions.keys()):
        raise ValueError(
            f"{root} holds images of {unknown[0]!r}, which the model does not know."
            + _meant(unknown[0], classes)
        )
    return classes, positions


def _cure(found: Found, wanted: int) -> str:
    if wanted == len(imagenet.synsets()):
        return "ImageNet's classes are named by synset, such as n01440764"
    if found.is_list:
        return "a list gives their positions, from 0, or names all of them"
    return "one without images is an empty folder"


def _meant(name: str, classes: Sequence[str]) -> str:
    meant = nearest(name, classes)
    if meant is None:
        more = f" and {len(classes) - 3:,} more" if len(classes) > 3 else ""
        return f" Its classes are called {', '.join(classes[:3])}{more}."
    return f" Did you mean {meant!r}?"


def _classes(found: Found, wanted: Sequence[str] | int | None) -> tuple[str, ...]:
    """The order of the classes: as asked for, ImageNet's, by number, or sorted."""
    synsets, names = imagenet.synsets(), set(found.names)
    if wanted is not None and not isinstance(wanted, int):
        return tuple(wanted)
    numbers = {int(name) for name in names if name.isdecimal()}
    all_numbers = len(numbers) == len(names)
    if all_numbers and max(numbers) == len(synsets) and (0 not in numbers or wanted == 1000):
        raise ValueError(
            "The classes are numbered up to 1000. The ids 1 to 1000 of ImageNet's devkit are in "
            "another order than the models' classes. Name them by synset, such as n01440764."
        )
    if found.numbered:
        count = wanted or len(names)
        return tuple(str(number) for number in range(count)) if count != 1000 else synsets
    if wanted == len(synsets) != len(names) and not names.isdisjoint(synsets):
        return synsets
    if wanted == len(synsets) and (names <= set(synsets) or (all_numbers and max(numbers) < 1000)):
        return synsets
    if all_numbers and numbers == set(range(len(synsets))):
        return synsets  # ImageNet-V2, whose folders must not be sorted as text
    return tuple(sorted(names))
