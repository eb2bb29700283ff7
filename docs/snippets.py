"""The Python of README.md and of these pages, a module for each page.

python docs/snippets.py FOLDER && mypy --strict FOLDER && pyright --project FOLDER

A page is read from top to bottom: what one block imports or makes, the next ones use. A block that
cannot run here, such as one that wants a GPU, has the reason in a comment above it:

    <!-- not run: wants a GPU -->
    ```python
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parent
PAGES = [
    DOCS.parent / "README.md",
    *sorted(path for path in DOCS.rglob("*.md") if not {"_build", "gallery"} & set(path.parts)),
]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^```(?P<language>py\w*)\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
# Pyright's. A block that readers save as a file of its own repeats the imports of the page.
CONFIGURATION = '{"typeCheckingMode": "strict", "reportDuplicateImport": false}\n'


class Block(NamedTuple):
    """Python of a page. The language ``py`` is Python that needs packages without types."""

    line: int  # of the page, from 0, at which the code begins
    language: str
    code: str
    not_run: str | None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield Block(line, found["language"], found["code"], found["reason"])


def module(page: Path, chosen: Iterator[Block]) -> str:
    """Blocks of a page as one module, each line with the number that it has there."""
    lines = ["" for _ in page.read_text("utf-8").splitlines()]
    for block in chosen:
        code = block.code.splitlines()
        lines[block.line : block.line + len(code)] = code
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path) -> None:
    """Write the modules, and what pyright needs to be strict with them."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        name = "_".join(page.relative_to(DOCS.parent).with_suffix("").parts).lower()
        typed = (block for block in blocks(page) if block.language == "python")
        (folder / f"page_{name.replace('-', '_')}.py").write_text(module(page, typed), "utf-8")
    (folder / "pyrightconfig.json").write_text(CONFIGURATION, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
