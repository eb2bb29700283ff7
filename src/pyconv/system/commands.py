"""The frame that the commands share: exit codes, one-line failures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields, replace
from functools import partial
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

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "WRONG",
    "add_fields",
    "exit_code",
    "parser",
    "read_fields",
    "run",
    "say",
]

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
MISTAKES = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError)  # of the user

Row = TypeVar("Row", bound="DataclassInstance")


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


def add_fields(
    parser: argparse.ArgumentParser,
    cls: type[DataclassInstance],
    title: str,
    types: Mapping[str, Callable[[str], Any]] | None = None,
) -> None:
    """Give a parser one flag for each field of a dataclass, helped by its metadata.

    Lists are written with commas; ``types`` reads fields in another way than their annotation.
    """
    group = parser.add_argument_group(title)
    hints = get_type_hints(cls)
    for field in fields(cls):
        name, hint = field.name, hints[field.name]
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(field)}
        if hint is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(hint) is Literal:
            options["choices"] = get_args(hint)
        else:
            kind = next((a for a in get_args(hint) if isinstance(a, type)), hint)
            options["type"] = (types or {}).get(name) or (
                partial(_items, kind) if get_origin(hint) is tuple else kind
            )
            options["metavar"] = name.rpartition("_")[2].upper()
        group.add_argument(f"--{name.replace('_', '-')}", **options)


def _help(field: Field[Any]) -> str:
    text, default = str(field.metadata["help"]), field.default
    if "default:" in text or default is None:
        return text.replace("%", "%%")
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return f"{text}; default: {shown}".replace("%", "%%")


def _items(kind: type[Any], text: str) -> tuple[Any, ...]:
    """A list with commas between its items, which may be empty."""
    try:
        return tuple(kind(item) for item in text.split(",") if item)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 30,60,80") from None


def read_fields(args: argparse.Namespace, base: Row) -> Row:
    """``base`` with the fields that were given as flags."""
    given = {f.name: getattr(args, f.name) for f in fields(base) if hasattr(args, f.name)}
    return replace(base, **given)


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
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return exit_code(error)


def exit_code(error: Exception) -> int:
    """What a command leaves with after a failure."""
    return WRONG if isinstance(error, MISTAKES) else FAILED


def say(text: str) -> None:
    """Print a result on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
