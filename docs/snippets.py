"""Write the Python of README.md and of these pages into a folder, a module for each page.

python docs/snippets.py FOLDER && mypy --strict FOLDER && pyright --project FOLDER

A page is read from top to bottom: what one snippet imports or makes, the next ones use.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
CONFIGURATION = '{"typeCheckingMode": "strict"}\n'  # pyright's


def snippets(page: Path) -> str:
    """The Python of a page, each line with the number that it has there."""
    lines = ["" for _ in page.read_text("utf-8").splitlines()]
    text = page.read_text("utf-8")
    for found in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first = text.count("\n", 0, found.start(1))
        code = found[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path) -> None:
    """Write the modules, and what pyright needs to be strict with them."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        module = f"{page.parent.name if page.parent == DOCS else 'root'}_{page.stem.lower()}.py"
        (folder / module).write_text(snippets(page), "utf-8")
    (folder / "pyrightconfig.json").write_text(CONFIGURATION, "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
