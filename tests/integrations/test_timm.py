"""The networks in timm: created, read out and trained as timm's own are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import pyconv
from pyconv import Architecture, Stage, Stem, get_model, pyconvresnet18
from pyconv.models.registry import REGISTRY

timm = pytest.importorskip("timm", reason="it is an extra")
optim = pytest.importorskip("timm.optim", reason="it is an extra")
plugin = pytest.importorskip("pyconv.integrations.timm", reason="it needs timm")

SMALL = "pyconvresnet18"
CHANNELS, STRIDES = [64, 64, 128, 256, 512], [2, 4, 8, 16, 32]


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 64, 64)


def create(name: str = SMALL, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def test_stages_are_counted_as_those_of_a_backbone() -> None:
    model = create()
    backbone = pyconv.Backbone(model, (0, 1, 2, 3, 4))
    rows = zip(backbone.return_layers, backbone.channels, backbone.strides, strict=True)
    wanted = [(row["module"], row["num_chs"], row["reduction"]) for row in model.feature_info]
    assert list(rows) == wanted


def test_all_pyramidal_networks_are_there_and_those_of_timm_stay() -> None:
    assert sorted(timm.list_models("pyconv*", exclude_filters="")) == pyconv.list_models("pyconv*")
    assert type(create("resnet18", num_classes=2)).__module__.startswith("timm.")
    published = timm.list_pretrained("pyconv*")
    assert {"pyconvresnet50.in1k", "pyconvresnet50.augment_in1k"} <= set(published)


def test_names_of_parameters_and_numbers_are_the_zoos(x: Tensor) -> None:
    ours, theirs = pyconvresnet18().eval(), create()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), ours(x))
        if hasattr(pyconv, "optimize"):  # with pyconv.speed
            fast = pyconv.optimize(theirs)
            torch.testing.assert_close(fast(x), ours(x), rtol=1e-3, atol=1e-4)


def test_published_weights_come_through_our_own_download(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = get_model("pyconvresnet_tiny", pretrained=True).state_dict()
    for tag in ("", ".fashion_mnist"):
        theirs = timm.create_model("pyconvresnet_tiny" + tag, pretrained=True)
        assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items())
    few = timm.create_model("pyconvresnet_tiny", pretrained=True, num_classes=3, in_chans=3)
    assert torch.equal(few.layer4[0].bn1.weight, ours["layer4.0.bn1.weight"])
    assert few.conv1.weight.shape[1] == 3 and few.fc.out_features == 3
    monkeypatch.setenv("PYCONV_OFFLINE", "1")
    with pytest.raises(pyconv.weights.drive.DownloadError, match="PYCONV_OFFLINE"):
        timm.create_model("pyconvresnet50.augment_in1k", pretrained=True)


def test_weights_from_elsewhere_are_timms_to_load(tmp_path: Path) -> None:
    ours = pyconvresnet18()
    torch.save(ours.state_dict(), tmp_path / "best.pth")
    overlay = {"file": str(tmp_path / "best.pth")}
    theirs = timm.create_model(SMALL, pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(theirs.conv1.weight, ours.conv1.weight)


def test_the_pixels_that_a_network_expects() -> None:
    config = timm.data.resolve_data_config({}, model=create("pyconvresnet50"))
    assert config["interpolation"] == "bilinear" and config["crop_pct"] == 224 / 256
    assert config["input_size"] == (3, 224, 224) and config["mean"] == (0.485, 0.456, 0.406)
    assert create("pyconvresnet_tiny").default_cfg["input_size"] == (1, 28, 28)


@pytest.mark.parametrize("kind", ["list", "dict", "hook", "fx", "getter"])
def test_features(kind: str, x: Tensor) -> None:
    model = create(features_only=True, feature_cls=kind, out_indices=(1, 3, 4))
    out = model(x)
    maps = list(out.values()) if isinstance(out, dict) else out
    assert [tuple(each.shape[1:]) for each in maps] == [(64, 16, 16), (256, 4, 4), (512, 2, 2)]
    assert model.feature_info.channels() == [64, 256, 512]
    assert model.feature_info.reduction() == [4, 16, 32]


@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride(stride: int, x: Tensor) -> None:
    model = create(features_only=True, output_stride=stride)
    assert model.feature_info.reduction() == [min(each, stride) for each in STRIDES]
    assert [64 // each.shape[-1] for each in model(x)] == model.feature_info.reduction()


def test_intermediates_are_the_features(x: Tensor) -> None:
    model = create()
    last, maps = model.forward_intermediates(x)
    assert [each.shape[1] for each in maps] == CHANNELS
    torch.testing.assert_close(last, model.forward_features(x))
    torch.testing.assert_close(last, maps[-1])
    (second,) = model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(second, maps[1])
    with pytest.raises(ValueError, match="the maps are NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_pruned_to_what_some_features_need(x: Tensor) -> None:
    model = create()
    expected = model.forward_intermediates(x, [2], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([2]) == [2]
    torch.testing.assert_close(model(x), expected)
    assert model.num_features == 128 and not list(model.layer4.parameters())


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax"])
def test_the_head(pool: str, x: Tensor) -> None:
    model = create(num_classes=5, global_pool=pool)
    assert model(x).shape == (2, 5)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert features.shape == (2, model.head_hidden_size)
    assert model.get_classifier(name_only=True) == "fc" and model.get_classifier() is model.fc
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and not model.fc.training
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 512, 2, 2)


def test_checkpointing_gives_the_same_gradients(x: Tensor) -> None:
    plain, saving = create().train(), create().train()
    saving.load_state_dict(plain.state_dict())
    saving.set_grad_checkpointing()
    for model in (plain, saving):
        model(x).square().sum().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_drop_path_leaves_out_blocks_in_training_alone(x: Tensor) -> None:
    plain, dropping = create(), create(drop_path_rate=0.9)
    dropping.load_state_dict(plain.state_dict())
    torch.testing.assert_close(dropping(x), plain(x))
    outs = [copy.deepcopy(dropping).train()(x) for _ in range(4)]
    assert any(not torch.equal(outs[0], out) for out in outs[1:])


def test_groups_of_parameters_by_depth() -> None:
    model = create()
    groups = optim.param_groups_layer_decay(model, layer_decay=0.5)
    scales = {group["lr_scale"] for group in groups}
    assert len(scales) == 10  # stem, eight blocks, classifier
    assert model.no_weight_decay() == set()


def test_scripted_and_averaged(x: Tensor) -> None:
    model = create()
    averaged = timm.utils.ModelEmaV3(model)
    averaged.update(model)
    with torch.no_grad():
        torch.testing.assert_close(averaged.module(x), model(x))
        scripted = torch.jit.script(model)
        torch.testing.assert_close(scripted(x), model(x), rtol=1e-4, atol=1e-4)


@mock.patch.dict(REGISTRY)
def test_a_network_of_a_users_own() -> None:
    stages = tuple(Stage(1, planes, 2, (3, 5), (1, 4)) for planes in (16, 32))
    row = Architecture("Own", "basic2", 1, stages, Stem(width=16, pool=False), pool_shortcut=True)
    pyconv.register_model("own_pyramids", row)
    plugin.register("own_pyramids")
    model = create("own_pyramids", features_only=True, out_indices=(1, 2))
    assert [each.shape[1] for each in model(torch.randn(1, 3, 32, 32))] == [16, 32]
    with pytest.raises(ValueError, match="timm has a network named 'own_pyramids' already"):
        plugin.register("own_pyramids")
    pyconv.register_model("own_factory", lambda **options: nn.Identity())
    with pytest.raises(ValueError, match="does not take timm's arguments"):
        plugin.register("own_factory")
    with pytest.raises(ValueError, match="Did you mean 'pyconvresnet50'"):
        plugin.register("pyconvresnt50")
