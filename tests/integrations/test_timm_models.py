"""What timm's own tests check of its models, on all pyramidal networks and its ResNet beside."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models import FeatureInfo
from torch import Tensor
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import pyconv
import pyconv.integrations.timm

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore:.*torch.jit"),  # it is deprecated, and in use
]
ALL = ["resnet50", *pyconv.list_models("pyconv*")]
# 101 and 152 are rows with more of the same blocks.
KINDS = [name for name in ALL if not name.endswith(("101", "152"))]


def create(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def images(model: Any, side: int = 64) -> Tensor:
    channels, *size = model.default_cfg["input_size"]
    torch.manual_seed(1)
    return torch.randn(2, channels, *(min(each, side) for each in size))


@pytest.mark.parametrize("name", ALL)
def test_forward_and_backward(name: str) -> None:
    model = create(name, num_classes=42)
    x = images(model)
    assert model(x).shape == (2, 42) and model(x).isfinite().all()
    model.train()(x).mean().backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", ALL)
def test_the_cfg_says_what_the_model_has(name: str) -> None:
    model = create(name)
    cfg, x = model.default_cfg, images(model, 224)[:1]
    for key in (cfg["classifier"], cfg["first_conv"]):
        assert f"{key}.weight" in model.state_dict()
    assert model.get_submodule(cfg["first_conv"]).in_channels == cfg["input_size"][0]
    assert model.get_classifier().out_features == cfg["num_classes"] == model.num_classes
    with torch.inference_mode():
        features = model.forward_features(x)
        assert features.shape[1:] == (model.num_features, *cfg["pool_size"])
        model.reset_classifier(0)
        assert model(x).shape == (1, model.num_features)
        model.reset_classifier(0, "")
        assert torch.equal(model(x), features)
        bare = create(name, num_classes=0, global_pool="")
        assert bare(x).shape == features.shape
    assert f"{cfg['classifier']}.weight" not in bare.state_dict()


@pytest.mark.parametrize("name", ALL)
def test_features_are_as_announced(name: str) -> None:
    model = create(name, features_only=True)
    x = images(model)
    maps, info = model(x), model.feature_info
    assert [each.shape[1] for each in maps] == info.channels()
    sides = [-(-x.shape[-1] // reduction) for reduction in info.reduction()]
    assert [each.shape[-1] for each in maps] == sides
    getter = create(name, features_only=True, feature_cls="getter")
    getter.model.load_state_dict(model.state_dict(), strict=False)
    for one, other in zip(maps, getter(x), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", KINDS)
def test_intermediates_before_and_after_pruning(name: str) -> None:
    model = create(name)
    x = images(model)
    info = FeatureInfo(model.feature_info, tuple(range(len(model.feature_info))))
    with torch.inference_mode():
        last, maps = model.forward_intermediates(x)
        torch.testing.assert_close(last, model.forward_features(x))
        assert [each.shape[1] for each in maps] == info.channels()
        for index in range(len(maps)):
            pruned = create(name)
            assert pruned.prune_intermediate_layers([index]) == [index]
            assert sum(p.numel() for p in pruned.parameters()) < sum(
                p.numel() for p in model.parameters()
            )
            (only,) = pruned.forward_intermediates(x, [index], intermediates_only=True)
            torch.testing.assert_close(only, maps[index])


@pytest.mark.parametrize("name", KINDS)
def test_fx_forward_and_backward(name: str) -> None:
    model = create(name, num_classes=5)
    x = images(model)
    train, evaluation = get_graph_node_names(model)
    traced = create_feature_extractor(
        model, train_return_nodes=[train[-1]], eval_return_nodes=[evaluation[-1]]
    ).eval()
    (out,) = traced(x).values()
    torch.testing.assert_close(out, model(x), rtol=1e-3, atol=1e-3)
    (out,) = traced.train()(x).values()
    out.mean().backward()
    assert not [key for key, p in traced.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", KINDS)
def test_scripted_as_timm_scripts(name: str) -> None:
    with timm.layers.set_scriptable(True):
        model = create(name)
    x = images(model)
    with torch.inference_mode():
        out = torch.jit.script(model)(x)
        torch.testing.assert_close(out, model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "pyconvresnet50"])
def test_built_on_a_device_in_a_dtype(name: str) -> None:
    model = create(name, device="cpu", dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(p.is_meta for p in create(name, device="meta").parameters())


@pytest.mark.parametrize("name", ["resnet50", "pyconvresnet50", "pyconvresnet18"])
def test_groups_of_parameters_are_in_the_order_of_depth(name: str) -> None:
    model = create(name)
    matcher = model.group_matcher(coarse=False)
    groups = timm.models.group_parameters(model, matcher, reverse=True)
    order = list(dict.fromkeys(groups[key] for key, _ in model.named_parameters()))
    assert order == sorted(order) == list(range(len(order)))
    blocks = sum(len(model.get_submodule(f"layer{n}")) for n in range(1, 5))
    assert len(order) == blocks + 2  # and the stem, and the classifier
