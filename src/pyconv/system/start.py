"""The start of a command, while PyTorch is imported: what goes wrong then is one line as well.

``pyconv/__init__.py`` imports this module before PyTorch, which takes seconds. In a process that is
no command of this library, nothing happens.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

from . import streams
from .failures import library

__all__ = ["ready"]

COMMANDS = {  # by the module of each
    "pyconv.evaluate": "pyconv-eval",
    "pyconv.predict": "pyconv-predict",
    "pyconv.segmentation": "pyconv-segment",
    "pyconv.train": "pyconv-train",
    "pyconv.weights": "pyconv-weights",
}
INTERRUPTED = 130


def _command() -> str | None:
    """The command that Python was started for; None in other programs and in child processes."""
    first = sys.argv[0] if getattr(sys, "argv", None) else ""
    if first == "-m":  # Python is still on its way to the module
        words = (word.removeprefix("-m") for word in sys.orig_argv)
        return next((COMMANDS[word] for word in words if word in COMMANDS), None)
    name = Path(first).stem
    # A spawned process gets the words of its parent, but was not started with them.
    return name if name in COMMANDS.values() and first in sys.orig_argv else None


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave at once: nothing has begun. Raised within an import, an exception can get lost."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{PROG}: interrupted.\n".encode())
    os._exit(INTERRUPTED)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line which library is missing; Python then ends with exit code 1."""
    reason = library(error)
    if reason is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(f"{PROG}: {reason}\n")


@contextlib.contextmanager
def ready() -> Iterator[None]:
    """Within, a command is under way: Ctrl-C raises KeyboardInterrupt, and streams are sturdy."""
    starting = signal.getsignal(signal.SIGINT) is _leave
    if starting:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with streams.sturdy():
            yield
    finally:
        if starting:  # and nothing is left to do
            signal.signal(signal.SIGINT, _leave)


PROG = _command()
if PROG is not None:
    streams.make_sturdy()
    sys.excepthook = _report
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, _leave)
