"""Standard streams that take whatever is printed: printing never costs a result."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["make_sturdy", "message", "sturdy", "write_error"]


class _Sturdy(io.RawIOBase):
    """The file under a text stream; its writes do not fail, and :attr:`error` is why one would."""

    def __init__(self, stream: io.TextIOWrapper, raw: io.RawIOBase) -> None:
        self.stream = stream  # kept: it would close the file when nobody holds it
        self.raw = raw
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def write(self, data: Buffer, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = self.raw.write(left)
                if written is None:  # full for now, and another program has set it non-blocking
                    select.select([], [self.raw], [])
                else:
                    left = left[written:]
        except OSError as error:
            self.error = self.error or error
        return size


def make_sturdy() -> None:
    """Make the standard streams of this process sturdy, unless a program has put others there.

    A letter that the encoding does not know is written as an escape, such as ``\\xf6``. What cannot
    be written is dropped, and :func:`write_error` tells why. A closed one becomes ``os.devnull``.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed: the next file opened would get its number, and foreign output
            file = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(file, True)
            stream = open(file, "w" if number else "r", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
        raw = getattr(stream, "buffer", None)
        raw = getattr(raw, "raw", raw)  # unbuffered, as by python -u, there is no layer between
        if number and isinstance(raw, io.RawIOBase) and not isinstance(raw, _Sturdy):
            with contextlib.suppress(OSError):
                stream.flush()
            setattr(sys, name, _over(stream, raw))


def _over(stream: io.TextIOWrapper, raw: io.RawIOBase) -> io.TextIOWrapper:
    """A sturdy stream that writes as ``stream`` does."""
    return io.TextIOWrapper(
        _Sturdy(stream, raw),  # type: ignore[arg-type]  # as Python itself has it with -u
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


@contextlib.contextmanager
def sturdy() -> Iterator[None]:
    """Within, the standard streams are sturdy; then they are what they were."""
    before = sys.stdin, sys.stdout, sys.stderr
    make_sturdy()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def write_error() -> OSError | None:
    """Why something printed to a sturdy stdout was not written; None where nobody misses it.

    That is where all is written, or where the reader has left, as ``head`` does with enough lines.
    """
    sys.stdout.flush()
    error: OSError | None = getattr(getattr(sys.stdout, "buffer", None), "error", None)
    return None if isinstance(error, BrokenPipeError) else error


def message(text: str) -> None:
    """Write a line on stderr, above a progress bar; nowhere, if it is closed."""
    from tqdm import tqdm  # not before a command minds what fails to be imported

    if sys.stderr is not None:
        tqdm.write(text, file=sys.stderr)
