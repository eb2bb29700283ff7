"""Pages that lie elsewhere in the project, and the links to them.

On a git host, ``docs/changelog.md`` is a link to the file; in the site it shows the file. Links in
the sources lead to files, so that they work on a git host too.
"""

import os
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx_gallery.scrapers import figure_rst

DOCS = Path(__file__).parents[1]
PROJECT = DOCS.parent
SHOWN = {
    "changelog": PROJECT / "CHANGELOG.md",
    "contributing": PROJECT / "CONTRIBUTING.md",
    "logbook": PROJECT / "benchmarks/history.md",
}
INSTEAD = {file: DOCS / f"{page}.md" for page, file in SHOWN.items()}
INSTEAD[PROJECT / "README.md"] = DOCS / "index.md"
# In the order in which they are best read.
TUTORIALS = ("photograph", "finetune", "pyramids", "detector", "segmenter", "check_a_number")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def figures(block: Any, state: dict[str, Any], conf: dict[str, Any]) -> str:
    """The figures that a block of a tutorial made, whether through pyplot or not."""
    names, paths = state["example_globals"], []
    shown = names.setdefault("_shown", [])
    for figure in [each for each in names.values() if isinstance(each, Figure)]:
        if figure not in shown:
            shown.append(figure)
            paths.append(next(state["image_path_iterator"]))
            figure.savefig(paths[-1], dpi=100, bbox_inches="tight")
    plt.close("all")
    return str(figure_rst(paths, conf["src_dir"]))


class TutorialOrder:
    """The place of a tutorial among the others, by the name of its file."""

    def __init__(self, folder: str) -> None: ...

    def __call__(self, name: str) -> int:
        return TUTORIALS.index(Path(name).stem)


def page_of(file: Path) -> Path:
    """The page of the site that shows a file of the project."""
    if file.parent == DOCS / "tutorials":
        name = "index" if file.stem == "README" else file.stem
        return DOCS / f"gallery/{name}.rst"
    return INSTEAD.get(file, file)


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    file = SHOWN.get(docname, page)
    if file.exists():

        def moved(link: re.Match[str]) -> str:
            target = page_of((file.parent / link[1]).resolve())
            return os.path.relpath(target, page.parent)

        source[0] = LINK.sub(moved, file.read_text("utf-8"))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
