"""The fields of dataclasses are described by what stands beside them in the source.

That is the help of a flag, as in ``pyconv.train.Recipe``, or the comment behind or above a field.
"""

import dataclasses
import inspect
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import import_object


def comment(owner: type, field: str) -> str | None:
    """The comment behind a field, or the lines of comment above it."""
    source = inspect.getsource(owner)
    behind = re.search(rf"^    {field}: .*?  # (.+)$", source, re.MULTILINE)
    above = re.search(rf"((?:^    # .*\n)+)^    {field}: ", source, re.MULTILINE)
    if behind:
        return behind[1]
    return re.sub(r"^ +# ", "", above[1], flags=re.MULTILINE).strip() if above else None


def describe(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    if what != "attribute" or any(lines):
        return
    owner, _, field = name.rpartition(".")
    cls = import_object(owner)
    if not dataclasses.is_dataclass(cls):
        return
    for base in cls.__mro__:
        found = {f.name: f for f in dataclasses.fields(base)} if dataclasses.is_dataclass(base) else {}
        if field in found:
            text = found[field].metadata.get("help") or comment(base, field)
            if text:
                lines[:] = [text[0].upper() + text[1:].rstrip(".") + "."]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", describe)
    return {"parallel_read_safe": True}
