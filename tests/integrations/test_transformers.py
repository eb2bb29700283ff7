"""transformers takes the networks through timm, as it takes timm's ResNet, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.parametrize("name", ["resnet50", "pyconvresnet50", "pyconvhgresnet50"]),
]


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 64, 64)


@pytest.fixture
def config(name: str) -> Any:
    from transformers import TimmBackboneConfig

    import pyconv.integrations.timm  # noqa: F401

    return TimmBackboneConfig(
        backbone=name, use_pretrained_backbone=False, out_indices=[1, 2, 3, 4]
    )


def test_a_backbone_from_its_config(name: str, config: Any, x: Tensor) -> None:
    import timm
    from transformers import AutoBackbone, TimmBackbone

    backbone = TimmBackbone(config).eval()
    assert type(AutoBackbone.from_config(config)) is TimmBackbone
    assert list(backbone.channels) == [256, 512, 1024, 2048]
    assert list(backbone.out_features) == ["layer1", "layer2", "layer3", "layer4"]
    twin = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    twin.load_state_dict(backbone._backbone.state_dict())
    with torch.inference_mode():
        for one, other in zip(backbone(x).feature_maps, twin(x), strict=True):
            torch.testing.assert_close(one, other)


def test_a_detector_on_it_learns_and_is_saved(config: Any, x: Tensor, tmp_path: Path) -> None:
    from transformers import DetrConfig, DetrForObjectDetection

    small = {"d_model": 32, "num_queries": 5, "num_labels": 3}
    for part in ("encoder", "decoder"):
        small |= {f"{part}_layers": 1, f"{part}_ffn_dim": 32, f"{part}_attention_heads": 2}
    model = DetrForObjectDetection(DetrConfig(backbone_config=config, **small))
    out = model(x)
    assert out.logits.shape == (2, 5, 4) and out.pred_boxes.shape == (2, 5, 4)
    out.logits.square().mean().backward()
    backbone = {key: p for key, p in model.named_parameters() if "layer4" in key}
    assert backbone and all(p.grad is not None for p in backbone.values())
    model.save_pretrained(tmp_path)
    again = DetrForObjectDetection.from_pretrained(tmp_path)
    assert again.state_dict().keys() == model.state_dict().keys()
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(x).logits, model.eval()(x).logits)


@pytest.mark.usefixtures("config")  # which registers the names
def test_a_classifier(name: str, x: Tensor) -> None:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, num_labels=3))
    assert model.eval()(x).logits.shape == (2, 3)
