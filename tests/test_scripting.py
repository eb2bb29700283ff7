"""torch.jit.script takes layers, networks and backbones, and they compute the same."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pyconv import Backbone, PyConv1d, PyConv2d, PyConv3d, ResNet, get_model, list_models
from pyconv.architectures import ARCHITECTURES

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit"),  # it is deprecated, and in use
    pytest.mark.skipif(
        sys.version_info >= (3, 14),
        reason="PyTorch says of itself that it does not support scripting there",
    ),
]


def assert_scripts(module: nn.Module, x: Tensor) -> None:
    """As it is scripted, saved and loaded, and frozen."""
    scripted, buffer = torch.jit.script(module.eval()), io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    with torch.inference_mode():
        expected = maps(module(x))
        for twin in (scripted, torch.jit.load(buffer), torch.jit.freeze(scripted)):
            found = maps(twin(x))
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                assert (found[name] - value).norm() <= 1e-5 * value.norm()


def maps(out: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return {"": out} if isinstance(out, Tensor) else out


@pytest.mark.parametrize("kind", [PyConv1d, PyConv2d, PyConv3d])
def test_layers(kind: type[PyConv2d]) -> None:
    for batch in ((), (2,)):
        layer = kind(8, 16, (3, 5, 7), (1, 4, 8), bias=True, padding_mode="circular")
        assert_scripts(layer, torch.randn(*batch, 8, *(9,) * layer.dims))


DEEP = ("101", "152")  # rows with more of the same blocks: they take minutes
NAMES = [pytest.param(n, marks=[pytest.mark.slow] * n.endswith(DEEP)) for n in list_models()]


@pytest.mark.parametrize("name", NAMES)
def test_networks(name: str) -> None:
    network = get_model(name, num_classes=4, dropout=0.5)
    assert_scripts(network, torch.randn(2, network.conv1.in_channels, 40, 32))


def test_networks_of_other_options() -> None:
    """Dilated pools, other norms, no classifier, two stages."""
    row = ARCHITECTURES["pyconvresnet18"]
    network = ResNet(
        replace(row, stages=row.stages[:2]),
        norm_layer=lambda channels: nn.GroupNorm(2, channels),
        num_classes=0,
        output_stride=8,
    )
    assert_scripts(network, torch.randn(2, 3, 20, 30))


def test_backbones() -> None:
    backbone = Backbone(get_model("pyconvresnet_tiny"), stages=(2, 4))
    assert_scripts(backbone, torch.randn(2, 1, 28, 28))
