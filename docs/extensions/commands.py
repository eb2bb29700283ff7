"""The directive ``help``: what a command says of itself, such as ``pyconv-weights download``."""

import os
import subprocess
import sys
from pathlib import Path

import tomllib
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PROJECT = Path(__file__).parents[2]
SCRIPTS = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]


def help_of(command: str, *words: str) -> str:
    """The text of ``--help``, as wide as a page."""
    module = SCRIPTS[command].partition(":")[0]
    done = subprocess.run(
        [sys.executable, "-m", module, *words, "--help"],
        env=os.environ | {"COLUMNS": "92", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


class Help(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        text = help_of(*self.arguments[0].split())
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("help", Help)
    return {"parallel_read_safe": True}
