"""Imports point one way, importing pyconv stays light, and the zoo does without its engine."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyconv

ROOT = Path(pyconv.__file__).parent
PROJECT = Path(__file__).parent.parent

# What the modules of a folder, or a module beside them, may import of the others.
BELOW = {
    "system": "",
    "levels": "",
    "architectures": "",
    "renamed": "",
    "replaceable": "",
    "onednn": "system",
    "layers": "levels onednn renamed replaceable",
    "resnet": "architectures layers levels renamed replaceable",
    "backbone": "resnet",
    "convert": "backbone layers levels resnet",
    "pyconvsegnet": "architectures backbone layers levels resnet",
    "data": "system",
    "weights": "architectures data pyconvsegnet resnet system",
    "models": "architectures backbone data pyconvsegnet renamed resnet system weights",
    "viz": "architectures backbone data layers system weights",
    "evaluate": "architectures backbone data models resnet system weights",
    "predict": "data models system weights",
    "segmentation": "backbone data evaluate models predict pyconvsegnet system weights",
    "train": "architectures backbone data evaluate models resnet system viz weights",
    "integrations": "architectures backbone data layers levels models resnet speed system weights",
    "speed": "layers levels onednn replaceable resnet system",
}
# These may import pyconv.speed, by its one door.
COMMANDS = {"evaluate.__main__", "segmentation.__main__", "train.__main__"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {name_of(p): p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"}


def imports(name: str, lazy: bool = True) -> tuple[set[str], set[str]]:
    """What a module imports, inside functions as well if ``lazy``: its own kind, and packages."""
    path = PATHS[name]
    tree = ast.parse(path.read_text("utf-8"))
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    ours, packages = set(), set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{target}.{alias.name}".lstrip(".")
                ours.add(inner if inner in PATHS else target)
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
    return ours - {name}, packages


def folder(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", PATHS)
def test_a_module_imports_only_what_is_below_it(name: str) -> None:
    allowed = {folder(name), *BELOW[folder(name)].split()}
    for other in imports(name)[0]:
        if folder(other) == "speed" and name in COMMANDS:
            assert other == "speed"
        else:
            assert folder(other) in allowed, f"{name} imports {other}"


def test_there_is_no_circle() -> None:
    """Imports inside functions are counted, and so is a package that a module in it comes from."""
    below = {name: imports(name)[0] & PATHS.keys() for name in PATHS}
    # A package whose __init__ gathers its own modules is not above itself.
    settled: set[str] = set()
    while settled != below.keys():
        free = {name for name, others in below.items() if others <= settled} - settled
        assert free, {name: below[name] - settled for name in below.keys() - settled}
        settled |= free


def test_few_modules_lie_at_the_top_and_none_is_long() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 12
    for path in PATHS.values():
        assert len(path.read_text("utf-8").splitlines()) <= 400, path


@pytest.mark.parametrize(
    "name", ["levels", "architectures", *(n for n in PATHS if n.startswith("weights.drive"))]
)
def test_rows_levels_and_the_download_know_nothing_of_torch(name: str) -> None:
    assert not imports(name)[1] & {"torch", "torchvision"}


@pytest.mark.parametrize(
    "name", [n for n in PATHS if folder(n) not in ("evaluate", "predict", "train")]
)
def test_heavy_packages_are_imported_when_they_are_used(name: str) -> None:
    heavy = {"torchvision", "PIL", "matplotlib"}
    # This one exists for torchvision, and nothing of the house imports it.
    heavy -= {"torchvision"} if name == "integrations.torchvision" else set()
    # The transfer itself is only imported to download.
    heavy |= set() if name == "weights.drive.transfer" else {"requests"}
    assert not imports(name, lazy=False)[1] & heavy


HEAVY = {"torchvision", "PIL", "requests", "torch._dynamo", "torch._inductor", "matplotlib"}


def test_importing_pyconv_imports_nothing_heavy() -> None:
    code = f"import sys, pyconv; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in pyconv.__all__:
        assert getattr(pyconv, name).__doc__, name


def test_nobody_outside_asks_for_the_class_of_a_network() -> None:
    for name, path in PATHS.items():
        if name != "resnet":
            assert not re.search(r"isinstance\([^)]*\bResNet\b", path.read_text("utf-8")), name


def test_without_the_engine_all_is_there_but_slower(tmp_path: Path) -> None:
    """The folder and its line are gone; CI runs the whole suite on such a copy."""
    script = PROJECT / ".ci" / "without-speed"
    subprocess.run(["bash", script, tmp_path / "copy"], cwd=PROJECT, check=True)
    copy = tmp_path / "copy"
    assert not (copy / "src/pyconv/speed").exists() and not (copy / "tests/speed").exists()
    code = (
        "import torch, pyconv\n"
        "assert not hasattr(pyconv, 'speed')\n"
        "print(pyconv.pyconvresnet_tiny(pretrained=True).eval()(torch.ones(1, 1, 28, 28)).argmax())"
    )
    environment = os.environ | {"PYTHONPATH": str(copy / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = subprocess.run(
        [sys.executable, "-m", "pyconv.evaluate", "--sample", "--optimize"],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 2 and "--optimize needs pyconv.speed" in told.stderr
    shutil.rmtree(copy)
