"""Files read: a fault of the system is told from one of the content."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .failures import is_memory

__all__ = ["ContentError", "reading", "unreadable"]

CURES = {
    errno.EACCES: "Get the permission to read it",
    errno.EPERM: "Get the permission to read it",
    errno.EMFILE: "Allow more open files (ulimit -n)",
    errno.ENFILE: "Allow more open files, or close other programs",
    errno.ENOMEM: "Free memory, or raise the limit of this process (ulimit -v)",
}
TRY_AGAIN = "Try again; if it stays, see to the disk or the network that it lies on"


class ContentError(ValueError):
    """The bytes of a file could be read and are not what they should be; ``__cause__`` says why."""


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[BinaryIO]:
    """An open file to parse, in which a fault of the system is told from one of the content.

    What the body raises is the content's only if every byte that it asked for was there. Parsers
    hide an error of the disk behind their own; the file remembers it.

    Raises:
        ContentError: from whatever the body raised, where the system is not to blame.
        OSError: if the system does not open or read it, memory runs out, or it is changed
            meanwhile; of the same class, in the system's words. FileNotFoundError among them.
        ValueError: if it is a pipe or a device.
    """
    path = Path(path)
    try:
        file = _Watched(path)
    except OSError as error:
        raise unreadable(path, error) from error
    with io.BufferedReader(file) as buffered:
        if not stat.S_ISREG(file.before.st_mode):
            raise ValueError(f"{path} is a pipe or a device. Give the path of a file.")
        failed = None
        try:
            yield buffered
        except Exception as error:  # a parser can fail in any way
            failed = error
        if file.refused is not None:
            raise unreadable(path, file.refused) from failed
        if file.is_changed():
            raise OSError(f"{path} was changed while it was read. Try again.") from failed
        if failed is not None and is_memory(failed):
            raise unreadable(path, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))) from failed
        if failed is not None:
            raise ContentError(f"{type(failed).__name__}: {failed}") from failed


class _Watched(io.FileIO):
    """A file that remembers which error of the system reading it met."""

    def __init__(self, path: Path) -> None:
        # Without waiting for whoever writes to a pipe; files know no waiting.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        super().__init__(path, "rb", opener=lambda path, _: os.open(path, flags))
        self.before = os.fstat(super().fileno())
        self.refused: OSError | None = None

    def fileno(self) -> int:
        raise io.UnsupportedOperation("reading by the descriptor would not be watched")

    def readinto(self, buffer, /):  # type: ignore[no-untyped-def]  # as its base's
        with self._watching():
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with self._watching():
            return super().readall()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.refused = error
            raise

    def is_changed(self) -> bool:
        """Whether it was written to since it was opened."""
        now = os.fstat(super().fileno())
        before = self.before
        return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def unreadable(path: str | Path, error: OSError) -> OSError:
    """The same error of the system, saying that nothing is known to be wrong with the file."""
    if isinstance(error, FileNotFoundError):
        text = f"There is no file {path}."
    elif isinstance(error, IsADirectoryError):
        text = f"{path} is a folder. Give the path of a file."
    else:
        cure = CURES.get(error.errno or 0, TRY_AGAIN)
        text = (
            f"{path} cannot be read: {error.strerror or error}. Nothing is known to be wrong with "
            f"the file. {cure}."
        )
    told = type(error)(text)
    told.errno = error.errno
    return told
