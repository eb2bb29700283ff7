"""What editors and type checkers see: names that are made at run time are declared for them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pyconv
from pyconv.architectures import ARCHITECTURES, Architecture
from pyconv.models import factories, segmentation
from pyconv.pyconvsegnet import SEGNETS
from pyconv.weights.rows import ENUMS

ROOT = Path(__file__).parent.parent

USER = """\
from pyconv import PyConvResNet50_Weights, ResNet, get_model, pyconvresnet50, register_model
from pyconv import Architecture, Backbone, Network, PyConv2d, Stage, Stem, get_pyconv, list_models
from pyconv import PyConvSegNet, pyconvsegnet_pyconvresnet50
from pyconv.segmentation import overlay, predict
from torch import Tensor, nn
from typing import Any
import pyconv

weights = PyConvResNet50_Weights.IMAGENET1K_V2
model: ResNet = pyconvresnet50(weights=weights, num_classes=3)
backbone = Backbone(model)
names: list[str] = list_models()
pyconv.evaluate.evaluate
pyconv.data.Preprocess(crop=3)


@register_model
def mine(num_classes: int) -> ResNet:
    return pyconvresnet50(num_classes=num_classes)


same: ResNet = mine(num_classes=3)
stages: list[nn.Sequential] = [model.layer1, model.layer2, model.layer3, model.layer4]
model.fc = nn.Linear(model.fc.in_features, 10)  # a new classifier
model.fc = nn.Identity()  # none
weight: Tensor = model.conv1.weight
pyramid: PyConv2d | nn.Conv2d = get_pyconv(64, 64, (3, 5))
fast: ResNet = pyconv.optimize(model)
folded: Backbone = pyconv.optimize(backbone, compile=False)
compiled: nn.Module = pyconv.optimize(model, compile=True)
options: dict[str, Any] = {"num_classes": 3}
segmenter: PyConvSegNet = pyconvsegnet_pyconvresnet50(weights_backbone="DEFAULT", aux=False)
same_network: PyConvSegNet = PyConvSegNet(model, num_classes=3)
classes: Tensor = predict(segmenter, weight)
both: tuple[Tensor, Tensor] = predict(segmenter, weight, probabilities=True)
overlay(weight, classes).save("picture.png")
networks = get_model("resnet18", pretrained=True, in_channels=1), get_model("nets:mine", **options)
"""
WRONG = {
    "pyconvresnet50(classes=3)": 'Unexpected keyword argument "classes"',
    "pyconvresnet50(num_classes='3')": 'incompatible type "str"; expected "int | None"',
    "mine(classes=3)": 'Unexpected keyword argument "classes"',
    "get_model('resnet18', num_clases=3)": 'Unexpected keyword argument "num_clases"',
    "get_model('resnet18', num_classes='3')": 'incompatible type "str"; expected "int | None"',
    "same = pyconv.optimize(model, compile=True)": 'expression has type "Frozen"',
    "layer: PyConv2d = pyconv.optimize(PyConv2d(64, 64))": "expression has type Module",
    "PyConvResNet50_Weights.IMAGENET1K_V3": 'has no attribute "IMAGENET1K_V3"',
    "pyconvsegnet_pyconvresnet50(classes=3)": 'Unexpected keyword argument "classes"',
    "from pyconv import pyconvresnet51": 'has no attribute "pyconvresnet51"',
    "from pyconv import PyConvResNet51_Weights": 'has no attribute "PyConvResNet51_Weights"',
}


@pytest.mark.skipif(not hasattr(pyconv, "optimize"), reason="the pages use pyconv.speed")
def test_a_type_checker_knows_what_users_write(tmp_path: Path) -> None:
    """The snippets of all pages are strictly typed; so is the code above, but for its mistakes."""
    subprocess.run([sys.executable, ROOT / "docs/snippets.py", tmp_path], check=True)
    (tmp_path / "user.py").write_text(USER + "\n".join(WRONG))
    command = "-m mypy . --strict --config-file= --hide-error-context --cache-dir"
    done = subprocess.run(
        [sys.executable, *command.split(), ROOT / ".mypy_cache/users"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(Path(pyconv.__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    first = len(USER.splitlines()) + 1
    expected = [f"user.py:{number}: error: " for number in range(first, first + len(WRONG))]
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected, (
        done.stdout
    )
    for line, words in zip(lines, WRONG.values(), strict=True):
        assert words in line


@pytest.mark.parametrize(
    ("module", "names", "kind"),
    [(factories, ARCHITECTURES, "Factory"), (segmentation, SEGNETS, "SegmentationFactory")],
)
def test_every_row_is_declared_for_type_checkers(
    module: ModuleType, names: dict[str, Architecture], kind: str
) -> None:
    file = f"models/{Path(module.__file__ or '').name}"
    tree = ast.parse(Path(module.__file__ or "").read_text("utf-8"))
    branches = [node for node in tree.body if isinstance(node, ast.If)]
    blocks = [node.body for node in branches if ast.unparse(node.test) == "TYPE_CHECKING"]
    lines = [line for block in blocks for line in block if isinstance(line, ast.AnnAssign)]
    declared = {ast.unparse(line) for line in lines}
    expected = {f"{name}: {kind}" for name in names}
    missing = expected - declared
    add = "\n    ".join(sorted(missing))
    assert not missing, f"add to the block 'if TYPE_CHECKING:' of {file}:\n    {add}"
    left = declared - expected
    assert not left, f"remove from the block 'if TYPE_CHECKING:' of {file}: {left}"


def test_names_follow_from_the_rows() -> None:
    for name in ARCHITECTURES:
        assert name in factories.__all__
        assert name in pyconv.__all__
        assert getattr(pyconv, name) is getattr(factories, name)
    for enum in ENUMS:
        assert enum.__name__ in pyconv.__all__
        assert getattr(pyconv, enum.__name__) is getattr(pyconv.weights, enum.__name__) is enum


def test_a_new_row_is_all_that_a_network_needs(tmp_path: Path) -> None:
    """In a copy of the package with one more row, and no other change."""
    source = Path(pyconv.__file__).parent
    copy = tmp_path / "pyconv"
    for path in source.rglob("*"):
        if path.suffix in (".py", ".json", ".txt", ".cpp", ".h") and "sample" not in path.parts:
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    with (copy / "architectures.py").open("a", encoding="utf-8") as file:
        file.write('ARCHITECTURES["pyconvresnet26"] = _pyconvresnet(18)\n')
    code = (
        "import pyconv, inspect; from pyconv import *\n"
        "assert 'pyconvresnet26' in pyconv.__all__ and 'pyconvresnet26' in pyconv.list_models()\n"
        "assert pyconvresnet26.__name__ == 'pyconvresnet26' and pyconvresnet26.__doc__\n"
        "assert 'num_classes' in inspect.signature(pyconvresnet26).parameters\n"
        "assert type(pyconv.get_model('pyconvresnet26', num_classes=2)).__name__ == 'ResNet'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
