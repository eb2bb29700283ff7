"""Errors of PyTorch, of the system and of other libraries in the words of a user."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["ContentError", "explain", "is_memory", "library", "reading", "unreadable"]

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, MPS, the CPU
CURES = {
    errno.EACCES: "Get the permission to read it",
    errno.EPERM: "Get the permission to read it",
    errno.EMFILE: "Allow more open files (ulimit -n)",
    errno.ENFILE: "Allow more open files, or close other programs",
    errno.ENOMEM: "Free memory, or raise the limit of this process (ulimit -v)",
}
BOTH = "torch torchvision"  # only builds that were made for each other work together
INSTALL = {"torch": BOTH, "torchvision": BOTH, "PIL": "pillow", "google_crc32c": "google-crc32c"}
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


def explain(error: RuntimeError | MemoryError, cure: str, after: str = "") -> str | None:
    """The message for an error that can be expected of PyTorch; None for any other.

    Args:
        error: The error.
        cure: What to do if memory ran out, as a sentence.
        after: What to do after a loader process was lost, as a sentence.
    """
    text = str(error)
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return _of_the_compiler(text)
    if "DataLoader worker" in text:
        reason = text[text.index("DataLoader worker") :].splitlines()[0].rstrip(" .")
        lost = f"A loader process is lost ({reason}). If memory is short, lower --workers."
        return f"{lost} {after}".rstrip()
    return f"Memory ran out. {cure}" if is_memory(error) else None


def _of_the_compiler(text: str) -> str:
    """The message for an error of torch.compile, whose text is many lines."""
    if "InvalidCxxCompiler" in text:
        return "There is no C++ compiler to compile with. Install g++, or leave --compile out."
    first = next((line for line in text.splitlines() if line.strip()), "no reason given")
    return f"The network cannot be compiled ({first.strip()[:200]}). Leave --compile out."


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the CPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)


def library(error: BaseException) -> str | None:
    """The message for a library that is missing or does not work; None for any other error."""
    lines = str(error).splitlines() or [""]
    mismatch = next((line for line in lines if "torchvision::" in line), None)
    if mismatch is not None:  # "operator torchvision::nms does not exist", and its like
        name, said = "torchvision", mismatch.rpartition("Error: ")[2]
    elif isinstance(error, ImportError):
        name, said = (error.name or "").partition(".")[0], lines[0]
    elif isinstance(error, OSError) and error.errno is None:  # of the dynamic linker
        name, said = "torch", lines[0]
    else:
        return None
    if name in ("", __name__.partition(".")[0]):
        return None  # our own fault
    return (
        f"{name} is missing or does not work here ({said.rstrip('.')}). Install it anew: "
        f"pip install --force-reinstall {INSTALL.get(name, name)}"
    )
