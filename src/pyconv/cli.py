"""The frame that the commands share: exit codes, one-line failures, result files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "WRONG",
    "parser",
    "run",
    "say",
    "write_json",
    "write_text",
]

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line and the way to the help."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}. See '{self.prog} --help'.\n")
        sys.exit(WRONG)


def parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with examples under its help."""
    return _Parser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(
    prog: str, command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None
) -> int:
    """Run a command; turn what a user can cause into one line on stderr and an exit code.

    0 done, 1 failed, 2 wrong usage or bad input, 130 interrupted.
    """
    try:
        return command(argv)
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{prog}: interrupted.\n")
        return INTERRUPTED
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return WRONG
    except OSError as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return FAILED


def say(text: str) -> None:
    """Print a result on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result file whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
