"""Files that other tools read say the same as pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pyconv

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")


def only(pattern: str, text: str) -> str:
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


def test_one_version_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert only(r"^version: (.+)$", citation) == pyconv.__version__
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.findall(r"^## \[\d.+\] - (.+)$", changes, re.MULTILINE)[0]
    assert only(r'^date-released: "(.+)"$', citation) == newest


def test_what_is_imported_is_declared() -> None:
    block = only(r"^dependencies = \[\n((?:.+\n)+)\]", PROJECT)
    extras = only(r"^\[project.optional-dependencies\]\n((?:.+\n)+?)dev = ", PROJECT)
    declared = {name.lower() for name in re.findall(r'"([\w-]+)', block + extras)}
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= sys.stdlib_module_names | {"_typeshed", "typing_extensions"}  # for type checkers
    assert "PIL" in imported
    found = metadata.packages_distributions()
    missing = {
        name
        for name in imported
        if not declared & {each.lower() for each in found.get(name, [name])}
    }
    assert not missing


def test_the_workflow_runs_what_is_claimed() -> None:
    pythons = re.findall(r"3\.\d+", only(r"^ +python: \[(.+)\]$", WORKFLOW))
    assert pythons[0] == only(r'^requires-python = ">=(.+)"', PROJECT)
    assert pythons == re.findall(r"Python :: (3\.\d+)", PROJECT)
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert pythons == only(r"for version in (.+?);", makefile).split()
    oldest, newest = only(r"^ +torch: \[(.+)\]$", WORKFLOW).split(", ")
    assert oldest.strip('"') == only(r'"torch>=([\d.]+)"', PROJECT) + ".*"
    assert newest == '""'  # whatever pip takes


def test_the_workflow_asks_what_the_script_knows() -> None:
    script = (ROOT / ".ci/run").read_text("utf-8")
    for variable in re.findall(r"^ +([A-Z]+): ", WORKFLOW, re.MULTILINE):
        assert f"${{{variable}:" in script, variable


def test_what_is_packed_is_there() -> None:
    block = only(r"sdist\]\ninclude = \[([^\]]+)\]", PROJECT)
    names = re.findall(r'"(.+?)"', block)
    assert "CITATION.cff" in names
    assert [name for name in names if not (ROOT / name).exists()] == []
