"""Write api.md from the docstrings of the public names, so that it cannot say anything else.

python docs/api.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

PACKAGES = {
    "pyconv": "What `import pyconv` gives",
    "pyconv.speed": "How it is computed",
    "pyconv.weights.checkpoint": "Reading checkpoints",
    "pyconv.weights.drive": "Downloading",
    "pyconv.data": "Images and preprocessing",
    "pyconv.predict": "Prediction",
    "pyconv.evaluate": "Evaluation",
    "pyconv.train": "Training",
    "pyconv.viz": "Pictures",
}


def names(package: str) -> list[str]:
    """The public names of a package, dotted and in order."""
    return [
        f"{package}.{name}"
        for name in sorted(importlib.import_module(package).__all__, key=str.lower)
    ]


def section(package: str, title: str) -> list[str]:
    lines = [f"## {title}", "", "| name | |", "|---|---|"]
    for dotted in names(package):
        module, _, name = dotted.rpartition(".")
        thing = getattr(importlib.import_module(module), name)
        if name == "main" or not thing.__doc__:
            continue  # the commands have their guides, and names of types no docstring
        first = inspect.cleandoc(thing.__doc__).split("\n\n")[0].replace("\n", " ")
        first = re.sub(r":\w+:`~?", "`", first).replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{dotted}` | {first} |")
    return [*lines, ""]


def page() -> str:
    head = [
        "# Reference",
        "",
        "The first paragraph of each docstring; `help(name)` has the rest.",
        "",
    ]
    return "\n".join(head + [line for row in PACKAGES.items() for line in section(*row)])


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
