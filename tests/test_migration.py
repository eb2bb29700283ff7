"""What code for the original says, this library does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pyconv
from pyconv import (
    PyConv2,
    PyConv3,
    PyConv4,
    PyConvBasicBlock1,
    PyConvBasicBlock2,
    PyConvBlock,
    PyConvHGResNet,
    PyConvResNet,
    get_model,
    get_pyconv,
    pyconvresnet18,
)

PAGE = Path(__file__).parents[1] / "docs" / "migration.md"


def layout(module: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in module.state_dict().items()]


def test_the_calls_of_the_page_work() -> None:
    (code,) = re.findall(r"^```py\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    made: dict[str, Any] = {}
    exec(code, made)
    assert layout(made["model"]) == layout(made["same"]) and made["same"].dropout.p == 0.2


def test_names_that_the_page_lists_are_there() -> None:
    names = set(
        re.findall(r"`(PyConv\w+|get_pyconv|(?:pyconvhg|pyconv)?resnet\d+)\b", PAGE.read_text())
    )
    assert len(names) > 10
    for name in names:
        assert hasattr(pyconv, name), name


@pytest.mark.parametrize("layer", [PyConv2, PyConv3, PyConv4])
def test_layers_by_the_number_of_their_levels(layer: Any) -> None:
    kernels = {PyConv2: (3, 5), PyConv3: (3, 5, 7), PyConv4: (3, 5, 7, 9)}[layer]
    made = layer(inplans=64, planes=64, stride=2)
    assert layout(made) == layout(get_pyconv(64, 64, kernels, 2))
    assert [level.groups for level in made.levels] == [1, 4, 8, 16][: len(kernels)]
    assert made(torch.zeros(1, 64, 9, 9)).shape == (1, 64, 5, 5)
    given = layer(32, 32, kernels[:1], 1, [8])
    assert isinstance(given, nn.Conv2d) and given.groups == 8


@pytest.mark.parametrize(
    ("make", "block", "layers", "name"),
    [
        (PyConvResNet, PyConvBlock, [3, 4, 6, 3], "pyconvresnet50"),
        (PyConvResNet, PyConvBasicBlock2, [2, 2, 2, 2], "pyconvresnet18"),
        (PyConvHGResNet, PyConvBlock, (3, 4, 23, 3), "pyconvhgresnet101"),
    ],
)
def test_networks_by_block_and_depths(make: Any, block: type, layers: Any, name: str) -> None:
    with torch.device("meta"):
        assert layout(make(block, layers, num_classes=3)) == layout(get_model(name, num_classes=3))
    with pytest.raises(ValueError, match="number of blocks of each of the 4 stages"):
        make(block, [3, 4, 6])
    with pytest.raises(ValueError, match=r"such as pyconv\.PyConvBlock"):
        make(nn.Linear, layers)


def test_arguments_by_their_names_in_the_original() -> None:
    for block in (PyConvBlock, PyConvBasicBlock1, PyConvBasicBlock2):
        assert layout(block(inplanes=64, planes=64)) == layout(block(64, 64))
    assert layout(get_pyconv(inplans=8, planes=16, pyconv_kernels=[5])) == [
        ("weight", torch.Size([16, 8, 5, 5]))
    ]
    dropout = pyconvresnet18(num_classes=2, dropout_prob0=0.3).dropout
    assert isinstance(dropout, nn.Dropout) and dropout.p == 0.3
    with pytest.raises(TypeError, match="dropout_prob0= is another name of dropout=: give one"):
        pyconvresnet18(dropout_prob0=0.3, dropout=0.2)
