"""What the pages name is there: names of Python, commands; and no page is too long to read."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import snippets

import pyconv

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
SCRIPTS = re.findall(r'^([\w-]+) = "pyconv\.[\w.]+:main"', PROJECT, re.MULTILINE)
APPENDIX = {"benchmark-tables", "logbook", "changelog"}
WORDS = 1500


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or an attribute of something that is there."""
    thing: object = pyconv
    path = "pyconv"
    for part in dotted.split(".")[1:]:
        path = f"{path}.{part}"
        if not hasattr(thing, part):
            try:
                importlib.import_module(path)
            except ImportError:
                fields = getattr(thing, "__annotations__", {})
                return part in fields
        thing = getattr(thing, part)
    return True


@pytest.mark.skipif(not hasattr(pyconv, "speed"), reason="the pages name pyconv.speed")
@pytest.mark.parametrize("page", snippets.PAGES, ids=lambda page: page.stem)
def test_names_in_prose_are_names_of_the_package(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    names = set(re.findall(r"`(pyconv(?:\.[A-Za-z_]\w*)+)", text))
    wrong = {name for name in names if not resolves(name)}
    assert not wrong


@pytest.mark.parametrize("page", snippets.PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_read_in_one_go(page: Path) -> None:
    if page.stem not in APPENDIX and page.parent.name != "reference":
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        assert len(text.split()) <= WORDS


def test_every_command_shows_its_help() -> None:
    page = (ROOT / "docs/reference/commands.md").read_text("utf-8")
    assert len(SCRIPTS) >= 3
    for script in SCRIPTS:
        assert f"```{{help}} {script}\n" in page, f"add {script} to docs/reference/commands.md"


def test_every_page_is_in_a_section_of_the_site() -> None:
    index = (ROOT / "docs/index.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", index, re.MULTILINE), (
            f"add {page.stem} to a list at the end of docs/index.md"
        )
