"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .reading import unreadable

__all__ = [
    "existing",
    "expanded",
    "naming",
    "remove_leftovers",
    "replacing",
    "require_writable",
    "write_json",
    "write_result",
    "write_text",
]

NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}")  # names that replacing() writes to first


def expanded(path: str | Path) -> Path:
    """A path that a user gave, with its ``~`` replaced by the home folder.

    Raises:
        ValueError: if it begins with a ``~`` that stands for no folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no such user, or one without a home, as in some containers
        raise ValueError(f"{path} has no home folder behind its ~. Give the full path.") from error


def existing(text: str) -> Path | None:
    """The path of a file or folder that a user named, ``~`` expanded; None where nothing is there.

    Raises:
        OSError: if the system does not say whether it is there, such as in a forbidden folder.
    """
    path = Path(text)
    try:
        path = path.expanduser()
        path.stat()
    except (RuntimeError, ValueError):  # no such user; a NUL
        return None
    except OSError as error:
        if error.errno in NOTHING_THERE:
            return None
        raise unreadable(path, error) from error
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of ``path`` once it is complete and on the disk.

    A symbolic link at ``path`` is replaced, not followed.

    Raises:
        OSError: if it cannot be written, such as on a full disk; the file at ``path`` is intact.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with naming(path, temporary):
        file = temporary.open("xb")
    try:
        with naming(path, temporary):
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Within, an OSError names the file: that of a full disk does not by itself.

    Nor does one of a ``temporary`` file in its place, which users do not know.
    """
    unknown = (None, None if temporary is None else str(temporary))
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in unknown:
            error.filename = str(path)
            del error.filename2  # of a rename the same again
        raise


def remove_leftovers(folder: Path, names: Collection[str]) -> None:
    """Remove what a kill inside :func:`replacing` left beside files of these names.

    No other process may be writing into the folder.
    """
    for path in folder.iterdir():
        found = TEMPORARY.fullmatch(path.name)
        if found and found[1] in names:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode(errors="surrogateescape"))  # names of files need not be UTF-8


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def require_writable(path: Path) -> None:
    """Check, before hours of work, that a file can be written, or appended to, at ``path``.

    Raises:
        ValueError: if it cannot.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} to write {path.name} into.")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if path.is_file():
            path.open("ab").close()
        if not path.is_symlink() and (path.is_file() or not path.exists()):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}. Give another.") from error


def write_result(path: Path, content: Mapping[str, Any] | str) -> None:
    """Write text, or JSON, to a path that the user gave.

    A file is replaced whole, as by :func:`write_text`. A device, such as ``/dev/null``, or the
    target of a link is written in place.
    """
    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    data = text.encode(errors="surrogateescape")  # file names need not be valid UTF-8
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        path.write_bytes(data)
    else:
        with replacing(path) as file:
            file.write(data)
