"""What the commands share: their parser, flags from dataclasses, exit codes, one-line failures."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field, fields, replace
from functools import partial
from importlib import metadata
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from . import start, streams
from .failures import library

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import DataclassInstance

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "WRONG",
    "add_fields",
    "deliver",
    "exit_code",
    "flag",
    "parser",
    "read_fields",
    "run",
    "say",
    "unwritten",
]

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, start.INTERRUPTED
MISTAKES = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError)  # the user's

EXIT_CODES = "0 done, 1 failed, 2 wrong usage or bad input, 130 interrupted"
VARIABLES = """\
environment:
  PYCONV_HOME       the cache; default: pyconv in the folder of torch.hub
  PYCONV_OFFLINE=1  download nothing
  PYCONV_DRIVE_URL  a mirror in place of https://drive.google.com
"""

Output = tuple["Path | None", Callable[["Path"], None]]  # a file asked for, and what writes it
Row = TypeVar("Row", bound="DataclassInstance")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose error is one line that names the help."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}. See '{self.prog} --help'.\n")
        sys.exit(WRONG)


def parser(
    prog: str, description: str, examples: str, exit_codes: str = EXIT_CODES
) -> argparse.ArgumentParser:
    """An argument parser whose help ends with examples, exit codes and environment variables."""
    made = _Parser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}\nexit codes: {exit_codes}\n\n{VARIABLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"{prog} {_versions()}")
    return made


def _versions() -> str:
    """The versions that a report of a fault needs. Nothing is imported: it may be broken."""
    ours = sys.modules[__name__.partition(".")[0]].__version__

    def of(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    others = ", ".join(f"{name} {of(name)}" for name in ("torch", "torchvision"))
    return f"{ours} ({others}, Python {platform.python_version()})"


def flag(default: Any, text: str) -> Any:
    """A dataclass field that :func:`add_fields` makes a flag of, with its help."""
    return field(default=default, metadata={"help": text})


def add_fields(
    parser: argparse.ArgumentParser,
    cls: type[DataclassInstance],
    title: str,
    types: Mapping[str, Callable[[str], Any]] | None = None,
) -> None:
    """Give a parser a group of flags, one for each field of a dataclass.

    Args:
        parser: The parser.
        cls: A dataclass whose fields are made by :func:`flag`. Tuples are written with commas.
        title: The heading of the group in the help.
        types: Functions that read the text of some flags; by default the annotation decides.
    """
    group = parser.add_argument_group(title)
    hints = get_type_hints(cls)
    for each in fields(cls):
        name, hint = each.name, hints[each.name]
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(each)}
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(hint) is Literal:
            options["choices"] = get_args(hint)
        else:
            item = next((a for a in get_args(hint) if isinstance(a, type)), hint)
            options["type"] = (types or {}).get(name) or (
                partial(_items, item) if get_origin(hint) is tuple else item
            )
            options["metavar"] = name.rpartition("_")[2].upper()
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def _help(flag: Field[Any]) -> str:
    """The help of a flag, with its default."""
    text, default = str(flag.metadata["help"]), flag.default
    if "default:" in text or default is None:
        return text.replace("%", "%%")
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text}; default: {shown}".replace("%", "%%")


def _items(item: type[Any], text: str) -> tuple[Any, ...]:
    """The items of a list with commas, which may be empty."""
    try:
        return tuple(item(word) for word in text.split(",") if word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 30,60,80") from None


def read_fields(args: argparse.Namespace, base: Row) -> Row:
    """``base`` with the values that were given as flags."""
    given = {f.name: getattr(args, f.name) for f in fields(base) if hasattr(args, f.name)}
    return replace(base, **given)


def run(
    prog: str, command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None
) -> int:
    """Run a command; its exit code. Errors that a user can cause become one line on stderr.

    Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 130 interrupted. Printing makes no
    command fail before its end: then a result that stdout did not take is an error, unless the
    reader of a pipe has left, who has what it wanted.
    """
    with start.ready():
        try:
            code = _run(prog, command, argv)
        except SystemExit as leaving:  # after --help, or a mistake in the words
            if leaving.code or streams.write_error() is None:
                raise
            code = DONE
        error = streams.write_error()
        if error is not None:
            sys.stderr.write(f"{prog}: stdout could not be written: {error.strerror}.\n")
        return code or (DONE if error is None else FAILED)


def _run(
    prog: str, command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None
) -> int:
    try:
        return command(argv)
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{prog}: interrupted.\n")
        return INTERRUPTED
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return exit_code(error)
    except (ImportError, RuntimeError) as error:
        if (reason := library(error)) is None:
            raise
        sys.stderr.write(f"{prog}: {reason}\n")
        return FAILED


def exit_code(error: Exception) -> int:
    """The exit code of a command after an error: 2 where the user can mend it, else 1."""
    return WRONG if isinstance(error, MISTAKES) else FAILED


def deliver(text: str, *outputs: Output) -> None:
    """Write a result to the files that are asked for, then print it.

    Raises:
        OSError: in words, what could not be written; all else is.
    """
    failures = unwritten(*outputs)
    say(text)
    if failures:
        raise OSError("; ".join(failures))


def unwritten(*outputs: Output) -> list[str]:
    """Write to the files that are asked for; in words, what could not be written."""
    failures = []
    for path, write in outputs:
        try:
            if path is not None:
                write(path)
        except (OSError, ValueError) as error:  # a letter that no encoding knows is one
            reason = getattr(error, "strerror", None) or error
            failures.append(f"{path} could not be written: {reason}")
    return failures


def say(text: str) -> None:
    """Print a result on stdout, which takes it in any case: see :func:`run`."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
