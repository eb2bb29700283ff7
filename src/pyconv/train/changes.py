"""What a training run knows of its images, and what has changed of them since.

It knows names, classes and sizes of all, and what some of them begin with: where two folders of
classes were exchanged, names and sizes may be the same. Nobody reads a million images for that.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..system.reading import reading, unreadable

__all__ = ["Changes", "changes", "describe", "first_names", "record"]

Samples = Sequence[tuple[Path, int]]
Listed = Mapping[str, tuple[str, str, str]]  # class, size and sum of an image, by its name

SHOWN = 3  # names of each kind of change
TOGETHER = 500  # files that a thread looks at before it asks for more
SUMMED, BYTES = 2000, 65536  # images of a split whose first bytes are looked at, and how many


def record(place: Path, samples: Samples, classes: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint keeps of the images of a split: a digest, and the packed list.

    Args:
        place: The folder of the split; names are relative to it.
        samples: The images with their labels.
        classes: The names of the labels.

    Raises:
        OSError: if the system does not find or read one.
    """
    begin = len(os.fspath(place / "-")) - 1  # paths in Path(".") begin with nothing
    every = max(1, len(samples) // SUMMED)

    def look(start: int) -> list[str]:
        fields: list[str] = []
        for index in range(start, min(start + TOGETHER, len(samples))):
            path, label = samples[index]
            size, start_sum = _look(path, index % every == 0)
            fields += os.fspath(path)[begin:], classes[label], size, start_sum
        return fields

    with ThreadPoolExecutor(8) as pool:  # a disk on the network answers slowly
        parts = pool.map(look, range(0, len(samples), TOGETHER))
        # A zero is the one character that no name holds.
        text = "\0".join(field for part in parts for field in part)
    listed = text.encode("utf-8", "surrogateescape")
    return {
        "digest": hashlib.sha256(listed).hexdigest(),
        "list": torch.frombuffer(bytearray(zlib.compress(listed)), dtype=torch.uint8),
    }


def _look(path: Path, sums: bool) -> tuple[str, str]:
    """The size of a file in bytes, and if asked for the sum of what it begins with."""
    if sums:
        with reading(path) as file:
            return str(path.stat().st_size), f"{zlib.crc32(file.read(BYTES)):x}"
    try:
        return str(path.stat().st_size), ""
    except OSError as error:
        raise unreadable(path, error) from error


def _unpack(record: Mapping[str, Any]) -> Listed:
    text = zlib.decompress(record["list"].numpy().tobytes()).decode("utf-8", "surrogateescape")
    fields = text.split("\0")
    rows = zip(*(fields[column::4] for column in range(4)), strict=True)
    return {name: (of, size, start_sum) for name, of, size, start_sum in rows}


@dataclass(frozen=True)
class Changes:
    """The names of the images of a split that are not as they were."""

    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()  # to another class
    replaced: tuple[str, ...] = ()  # by another file

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.moved or self.replaced)

    def are_of(self, names: set[str]) -> bool:
        """Whether nothing has changed but that images of these names are gone or replaced."""
        return not self.added and not self.moved and names.issuperset(self.removed + self.replaced)


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> Changes:
    """What has changed between two results of :func:`record`."""
    if there["digest"] == here["digest"]:
        return Changes()
    before, now = _unpack(there), _unpack(here)

    def both(differs: Callable[[str], bool]) -> tuple[str, ...]:
        return tuple(name for name in now if name in before and differs(name))

    return Changes(
        removed=tuple(name for name in before if name not in now),
        added=tuple(name for name in now if name not in before),
        moved=both(lambda name: before[name][0] != now[name][0]),
        replaced=both(lambda name: _is_other(before[name], now[name])),
    )


def _is_other(before: tuple[str, str, str], now: tuple[str, str, str]) -> bool:
    """Whether the file is another; not every one has a sum."""
    (_, size, start_sum), (_, size_now, sum_now) = before, now
    return size != size_now or ("" not in (start_sum, sum_now) and start_sum != sum_now)


def describe(found: Mapping[str, Changes]) -> str:
    """The changes of some splits in words; empty if there are none."""
    return "; ".join(
        f"{split}/: {', '.join(_parts(each))}" for split, each in found.items() if each
    )


def _parts(found: Changes) -> list[str]:
    kinds = (
        ("removed", found.removed),
        ("added", found.added),
        ("of another class", found.moved),
        ("replaced", found.replaced),
    )
    return [f"{len(names):,} {what} ({first_names(names)})" for what, names in kinds if names]


def first_names(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
