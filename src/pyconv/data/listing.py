"""What lies in folders: files, folders and what is hidden; and what was left out, in words."""

from __future__ import annotations

import difflib
import errno
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from .decoding import image_suffixes

__all__ = ["LeftOut", "describe", "entries", "files_below", "is_image", "is_litter", "nearest"]

LITTER = {"__MACOSX", "@eaDir", "lost+found"}  # folders that systems leave behind
RESOURCE = "._"  # what a Mac writes beside each file

NO_IMAGE = "which the installed Pillow does not read"
HIDDEN = "hidden"

LeftOut = dict[str, list[Path]]  # why files are left out, and which


def is_image(path: Path | PurePosixPath) -> bool:
    """Whether the installed Pillow reads files of this suffix as pictures."""
    return path.suffix.lower() in image_suffixes()


def is_litter(name: str) -> bool:
    """Whether a name is hidden, or that of a folder that systems leave behind."""
    return name.startswith(".") or name in LITTER


def _is_hidden(name: str) -> bool:
    """Whether somebody hid it, rather than a system left it behind."""
    return name.startswith(".") and not name.startswith(RESOURCE)


def entries(place: Path, left_out: LeftOut) -> tuple[list[Path], list[Path]]:
    """The folders and the files of a folder, sorted, without what systems leave behind.

    Hidden folders and images are added to ``left_out``; nobody looks into these folders.
    """
    folders: list[Path] = []
    files: list[Path] = []
    with os.scandir(place) as found:
        for entry in sorted(found, key=lambda entry: entry.name):
            path = place / entry.name
            if not is_litter(entry.name):
                (folders if _is_folder(entry) else files).append(path)
            elif _is_hidden(entry.name) and (_is_folder(entry) or is_image(path)):
                left_out.setdefault(HIDDEN, []).append(path)
    return folders, files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one. What leads nowhere is a file that is not read."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself
            raise
        return False


def files_below(place: Path, left_out: LeftOut, above: Sequence[Path] = ()) -> list[Path]:
    """The files in a folder and in those inside, sorted, without what systems leave behind.

    ``above`` are the folders on the way to it, links resolved.
    """
    above = [*above, place.resolve()]
    folders, files = entries(place, left_out)
    for folder in folders:
        if folder.is_symlink() and any(o.is_relative_to(folder.resolve()) for o in above):
            left_out.setdefault("leading back to a folder above", []).append(folder)
        else:
            files += files_below(folder, left_out, above)
    return files


def describe(left_out: Mapping[str, Iterable[Path]]) -> tuple[str, ...]:
    """One sentence for each reason and suffix, with the count and the first file."""
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for reason, paths in left_out.items():
        for path in paths:
            kind = "folder" if path.is_dir() else f"{path.suffix.lower()} file".strip()
            groups[kind, reason].append(path)
    return tuple(
        f"1 {kind} is left out, {reason}: {paths[0]}"
        if len(paths) == 1
        else f"{len(paths):,} {kind}s are left out, {reason}; the first is {paths[0]}"
        for (kind, reason), paths in groups.items()
    )


def nearest(name: str, names: Collection[str]) -> str | None:
    """The name that was probably meant: without regard to case, blanks, ``_`` and ``-``."""

    def plain(text: str) -> str:
        return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())

    known = {plain(each): each for each in names}
    found = difflib.get_close_matches(plain(name), known, 1)
    return known[found[0]] if found else None
