"""What docstrings need not say twice.

The fields of a dataclass or named tuple are described by what stands beside them in the source: the
help of a flag, as in ``pyconv.train.Recipe``, or the comment behind or above a field. The factories
of the zoo share a docstring, which is shown once.
"""

import dataclasses
import inspect
import re
from typing import Any

from sphinx.application import Sphinx

from pyconv.architectures import ARCHITECTURES

FIRST = "pyconvresnet50"


def comment(cls: type, field: str) -> str:
    """The comment behind a field, or the lines of comment above it."""
    owner = next(base for base in cls.__mro__ if field in base.__annotations__)
    source = inspect.getsource(owner)
    behind = re.search(rf"^    {field}: .*?  # (.+)$", source, re.MULTILINE)
    above = re.search(rf"((?:^    # .*\n)+)^    {field}: ", source, re.MULTILINE)
    found = behind or above
    return " ".join(re.sub(r"^ +# ", "", found[1], flags=re.MULTILINE).split()) if found else ""


def fields(cls: type) -> dict[str, str]:
    """The fields of a class, and what is said of them."""
    if dataclasses.is_dataclass(cls):
        helps = {field.name: field.metadata.get("help", "") for field in dataclasses.fields(cls)}
    else:
        helps = dict.fromkeys(getattr(cls, "_fields", ()), "")
    return {name: text or comment(cls, name) for name, text in helps.items()}


def describe(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    if what == "class" and (found := fields(thing)):
        lines += ["Attributes:"]
        lines += [f"    {field}: {text[:1].upper()}{text[1:]}" for field, text in found.items()]
        lines += [""]
    plain = name.rpartition(".")[2]
    if what == "function" and plain in ARCHITECTURES and plain != FIRST:
        lines[1:] = ["", f"Arguments and errors are those of :func:`{FIRST}`.", ""]


def skip(app: Sphinx, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what Python itself says of the fields of named tuples."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", describe, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}
