"""The walls of the house: imports point one way, and importing pyconv stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyconv

ROOT = Path(pyconv.__file__).parent
MODULES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "__init__")

# What each module may import of the house at import time; everything else is above it.
BELOW = {
    module: set(below.split())
    for module, below in {
        "architectures": "",
        "convolution": "machine",
        "lowering": "bypass convolution direct machine",
        "kernels": "",
        "bypass": "",
        "norms": "kernels bypass",
        "direct": "convolution kernels",
        "gradients": "convolution direct lowering bypass",
        "pyramid": "convolution direct gradients lowering",
        "problem": "convolution direct lowering",
        "rule": "lowering machine problem",
        "timing": "gradients lowering problem",
        "choice": "convolution direct gradients kernels lowering problem rule timing",
        "levels": "",
        "layers": "levels choice convolution direct kernels lowering bypass pyramid",
        "files": "",
        "imagenet": "",
        "download": "files",
        "checkpoint": "",
        "cli": "",
        "pointwise": "convolution kernels bypass",
        "fork": "direct kernels bypass",
        "resnet": "architectures fork layers levels norms pointwise",
        "weights": "imagenet",
        "backbone": "resnet",
        "prepared": "bypass convolution direct lowering machine",
        "folding": "bypass layers prepared",
        "observing": "bypass layers prepared problem",
        "optimize": "bypass direct folding layers lowering machine observing prepared problem rule "
        "timing",
        "models": "architectures checkpoint resnet weights",
        "store": "architectures checkpoint download resnet weights",
        "manage": "cli download files models store weights",
        "layouts": "imagenet",
        "data": "layouts weights",
        "metrics": "data",
        "report": "metrics weights",
        "memory": "",
        "machine": "",
        "distributed": "cli machine",
        "scoring": "data distributed memory metrics",
        "evaluate": "checkpoint cli data distributed files layouts machine memory metrics models "
        "report scoring store weights",
        "recipe": "",
        "batches": "data layouts recipe",
        "state": "checkpoint files",
        "watch": "files",
        "learner": "batches checkpoint data distributed machine models recipe resnet weights",
        "claim": "files recipe state",
        "run": "batches checkpoint claim cli data distributed files learner machine recipe scoring "
        "state watch weights",
        "train": "cli distributed files machine memory recipe run weights",
    }.items()
}


def imports(module: str) -> tuple[set[str], set[str]]:
    """What a module imports when it is imported: rooms of the house, and packages."""
    tree = ast.parse((ROOT / f"{module}.py").read_text("utf-8"))
    rooms, packages = set(), set()
    for node in tree.body:  # imports inside functions and TYPE_CHECKING do not count
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            rooms |= {name.split(".")[0] for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
    return rooms, packages


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_is_below_it(module: str) -> None:
    rooms, _ = imports(module)
    assert rooms <= BELOW[module]


def test_the_order_has_no_circle() -> None:
    settled: set[str] = set()
    while settled != set(BELOW):
        free = {module for module, below in BELOW.items() if below <= settled} - settled
        assert free, set(BELOW) - settled
        settled |= free


DOWNLOAD = [f"download/{path.stem}" for path in (ROOT / "download").glob("*.py")]


@pytest.mark.parametrize(
    "module",
    [
        "architectures",
        "levels",
        "weights",
        "imagenet/__init__",
        "cli",
        "files",
        "recipe",
        *DOWNLOAD,
    ],
)
def test_data_and_download_know_nothing_of_torch(module: str) -> None:
    assert not imports(module)[1] & {"torch", "torchvision"}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"evaluate", "train"}))
def test_nothing_below_the_commands_imports_torchvision(module: str) -> None:
    assert "torchvision" not in imports(module)[1]


HEAVY = {"torchvision", "PIL", "requests", "torch._dynamo", "torch._inductor", "matplotlib"}


def test_importing_pyconv_imports_nothing_heavy() -> None:
    code = f"import sys, pyconv; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in pyconv.__all__:
        assert getattr(pyconv, name).__doc__, name
