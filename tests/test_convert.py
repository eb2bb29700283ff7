"""convert(): other people's networks keep working, and get no more parameters than they had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from pyconv import PyConv2d, convert
from pyconv.data import find_images
from pyconv.levels import plan_in_place_of
from pyconv.weights.rows import sample_file

NETWORKS = {  # how many 3x3 convolutions are eligible
    "resnet18": 16, "vgg11": 7, "densenet121": 58, "squeezenet1_0": 8, "mobilenet_v2": 0,
    "efficientnet_b0": 0, "regnet_y_400mf": 0, "shufflenet_v2_x1_0": 0, "resnext50_32x4d": 0,
}  # fmt: skip


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_torchvision_computes_maps_of_the_same_sizes(name: str) -> None:
    model = torchvision.models.get_model(name).eval()
    before, pyramids = count(model), NETWORKS[name]
    found = convert(model)
    assert len(found.changed) == pyramids
    assert (found.before, found.after) == (before, count(model))
    assert (found.after < before) == (pyramids > 0)
    assert all(each.after <= each.before for each in found.changed)
    assert sum(isinstance(m, PyConv2d) for m in model.modules()) == pyramids
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)


def test_the_groups_are_the_papers_where_they_divide() -> None:
    model = torchvision.models.resnet18()
    convert(model)
    for block in (model.layer1[0], model.layer4[1]):
        levels = block.conv2.levels
        assert [level.groups for level in levels] == [1, 4, 8, 16]
        assert [level.kernel_size[0] for level in levels] == [3, 5, 7, 9]
    assert model.layer2[0].conv1.levels[0].stride == (2, 2)


widths = st.integers(1, 300)


@given(widths, widths, st.sampled_from([1, 2, 4]))
def test_a_plan_for_any_width_costs_at_most_the_convolution(
    inputs: int, outputs: int, groups: int
) -> None:
    levels = plan_in_place_of(groups * inputs, groups * outputs, (3, 5, 7, 9), 3, groups)
    if levels is None:
        return
    layer = PyConv2d(groups * inputs, *zip(*levels, strict=True), device="meta")
    assert layer.out_channels == groups * outputs and len(levels) > 1
    conv = nn.Conv2d(groups * inputs, groups * outputs, 3, groups=groups, bias=False, device="meta")
    assert count(layer) <= count(conv)


@pytest.mark.parametrize("width", [24, 27, 58, 116, 320])
def test_widths_that_are_no_powers_of_two_have_a_plan(width: int) -> None:
    levels = plan_in_place_of(width, width, (3, 5, 7, 9), 3, 1)
    assert levels is not None and len(levels) >= 2


class ReadsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.conv.weight.norm()


class Own(nn.Conv2d):
    pass


def conv(**options: int) -> nn.Conv2d:
    return nn.Conv2d(16, 16, 3, **{"padding": 1, **options})


def hooked() -> nn.Module:
    module = conv()
    module.register_forward_hook(lambda *args: None)
    return module


def sharing() -> nn.Module:
    first, second = conv(), conv()
    second.weight = first.weight
    return nn.Sequential(first, second)


KEPT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "read": (ReadsWeight, "ReadsWeight reads its weight"),
    "own class": (lambda: Own(16, 16, 3, padding=1), "a class of its own (Own)"),
    "valid padding": (lambda: conv(padding=0), "its padding changes the size"),
    "hook": (hooked, "it has hooks"),
    "computed weight": (lambda: weight_norm(conv()), "a class of its own"),
    "shared weight": (sharing, "another module shares its weight"),
    "groups": (lambda: conv(groups=4), "it has groups; where= can ask"),
    "5x5": (lambda: nn.Conv2d(16, 16, 5, padding=2), "not 3x3"),
    "few channels": (lambda: nn.Conv2d(1, 16, 3, padding=1), "no pyramid of equal or fewer"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_other_code_looks_into_is_kept_and_said(name: str) -> None:
    make, reason = KEPT[name]
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), make())
    before = {key: type(module) for key, module in model.named_modules()}
    found = convert(model)
    assert not found.changed and reason in str(found)
    assert {key: type(module) for key, module in model.named_modules()} == before


def test_a_pyramid_takes_over_what_the_convolution_was() -> None:
    old = nn.Conv2d(
        32, 64, 3, stride=2, padding=2, dilation=2, padding_mode="reflect", dtype=torch.float64
    )
    model = nn.ModuleDict({"stem": conv(), "one": old, "again": old}).eval()
    model["one"].requires_grad_(False)
    (changed,) = convert(model).changed
    new = model["one"]
    assert new is model["again"] is changed.layer and not new.training
    assert all(not p.requires_grad and p.dtype == torch.float64 for p in new.parameters())
    assert new.levels[1].bias is not None and new.levels[1].padding_mode == "reflect"
    x = torch.randn(1, 32, 15, 22, dtype=torch.float64)
    assert new(x).shape == old(x).shape


def test_where_asks_for_the_stem_for_groups_and_for_names() -> None:
    def make() -> nn.Module:
        return nn.Sequential(conv(), conv(groups=2), conv())

    assert [c.name for c in convert(make()).changed] == ["2"]
    assert [c.name for c in convert(make(), where="[01]").changed] == ["0", "1"]
    assert [c.name for c in convert(make(), where=lambda n, c: c.groups == 2).changed] == ["1"]
    assert convert(make(), where="0").kept == dict.fromkeys("12", "where= does not name it")


def test_groups_of_the_callers_that_do_not_fit_keep_the_convolution() -> None:
    model = nn.Sequential(conv(), conv(), nn.Conv2d(18, 18, 3, padding=1))
    found = convert(model, (3, 5), (1, 4))
    assert [c.name for c in found.changed] == ["1"]
    assert "4 groups do not divide in_channels=18" in found.kept["2"]
    assert "more parameters" in convert(nn.Sequential(conv(), conv()), (3, 9), (1, 1)).kept["1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernels": (3, 4)}, "is not an odd positive number"),
        ({"kernels": ()}, "pyconv_kernels is empty"),
        ({"groups": (1, 2)}, "pyconv_groups has 2 entries"),
        ({"where": "layer9.*"}, r"where='layer9\.\*' names none of the 2 convolutions"),
    ],
)
def test_a_wrong_wish_is_refused_and_changes_nothing(
    arguments: dict[str, tuple[int, ...]], message: str
) -> None:
    model = nn.Sequential(conv(), conv())
    with pytest.raises(ValueError, match=message):
        convert(model, **arguments)  # type: ignore[arg-type]
    assert type(model[1]) is nn.Conv2d


@pytest.mark.parametrize("model", ["resnet18", nn.Sequential, None])
def test_what_is_no_module_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match=r"takes an nn\.Module, not .*Build the model first"):
        convert(model)


def test_a_convolution_alone_has_no_place_to_be_replaced_in() -> None:
    with pytest.raises(ValueError, match=r"Build pyconv\.PyConv2d in its stead"):
        convert(conv())


@pytest.mark.parametrize(
    ("name", "pyramids"),
    [("resnet10t", 10), ("darknet17", 10), ("test_efficientnet", 3), ("test_nfnet", 0)],
)
def test_a_network_of_timm_computes_maps_of_the_same_sizes(name: str, pyramids: int) -> None:
    model = timm.create_model(name, num_classes=10).eval()
    found = convert(model)
    assert len(found.changed) == pyramids and found.after == count(model) <= found.before
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 10)


class UNet(nn.Module):
    """Two scales and their bridge: one logit per pixel."""

    def __init__(self) -> None:
        super().__init__()

        def double(first: int, second: int) -> nn.Module:
            convs = nn.Conv2d(first, second, 3, padding=1), nn.Conv2d(second, second, 3, padding=1)
            norms = nn.BatchNorm2d(second), nn.BatchNorm2d(second)
            return nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU())

        self.fine, self.coarse, self.join = double(3, 16), double(16, 32), double(48, 16)
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.coarse(F.max_pool2d(fine, 2))
        logits: Tensor = self.out(
            self.join(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0)], 1))
        )
        return logits


LEARNERS: dict[str, Callable[[], nn.Module]] = {
    "torchvision": lambda: torchvision.models.resnet18(num_classes=10),
    "timm": lambda: timm.create_model("test_resnet", num_classes=10),
    "U-Net": UNet,
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_converted_network_learns_real_images(name: str) -> None:
    """Photographs of the sample: their classes, or where the garment is."""
    torch.manual_seed(0)
    samples = find_images(sample_file("images")).samples[::50]
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path, _ in samples]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    y = torch.tensor([label for _, label in samples])
    garment = (x.mean(1, keepdim=True) > 0.1).float()
    model = LEARNERS[name]()
    assert convert(model).changed
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    losses = []
    for _ in range(16):
        out = model(x)
        loss = (
            F.binary_cross_entropy_with_logits(out, garment)
            if out.dim() == 4
            else F.cross_entropy(out, y)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    pyramids = [m for m in model.modules() if isinstance(m, PyConv2d)]
    assert all(p.grad is not None and p.grad.any() for m in pyramids for p in m.parameters())
