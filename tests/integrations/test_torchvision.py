"""torchvision's heads take the networks by their own conventions, and train them."""

from __future__ import annotations

import math
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

from pyconv import Backbone, get_model, pyconvresnet18, pyconvresnet_tiny
from pyconv.integrations.torchvision import fpn_backbone, freeze_layers

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "torchvision_heads.py"
NAMES = ("FasterRCNN", "RetinaNet", "MaskRCNN", "SSD", "DeepLabV3", "FCN", "LRASPP")
example: dict[str, Any] = runpy.run_path(str(EXAMPLE))
HEADS: dict[str, Callable[[], nn.Module]] = example["heads"]("pyconvresnet18", 3, 64)


def labelled() -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Two images of 64 pixels with a bright square each."""
    images, targets = torch.rand(2, 3, 64, 64) / 2, []
    for index, image in enumerate(images):
        first = 8 + 16 * index
        mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
        mask[:, first : first + 32, first : first + 32] = 1
        image += mask / 2
        box = torch.tensor([[first, first, first + 32.0, first + 32.0]])
        targets.append({"boxes": box, "labels": torch.tensor([index + 1]), "masks": mask})
    return images, targets


@pytest.mark.parametrize("name", NAMES)
def test_a_head_takes_a_backbone_as_it_is(name: str) -> None:
    """Forward in both modes, and a gradient that reaches the stem."""
    torch.manual_seed(0)
    images, targets = labelled()
    model = HEADS[name]()
    loss: Tensor = example["loss_of"](model.train(), images, targets)
    loss.backward()
    assert math.isfinite(loss.item())
    stem: Any = (model.backbone.body if hasattr(model.backbone, "body") else model.backbone).conv1
    assert stem.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        assert example["drawn"](model, images).shape == (3, 68, 134)


def test_all_heads_are_there() -> None:
    assert tuple(HEADS) == NAMES


@pytest.mark.ecosystem
def test_the_example_learns_its_photographs(tmp_path: Path) -> None:
    picture = tmp_path / "heads.jpg"
    command = [sys.executable, EXAMPLE, "--steps", "12", "--picture", picture]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert tuple(rows) == NAMES
    for name, row in rows.items():
        assert float(row[-1]) < 0.8 * float(row[-3]), name
    assert picture.stat().st_size > 10_000


def test_the_call_of_torchvisions_builder() -> None:
    """Same names and shapes as resnet_fpn_backbone, the same layers frozen."""
    ours = fpn_backbone("resnet18", trainable_layers=2, norm_layer=FrozenBatchNorm2d)
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=2)

    def told(model: nn.Module) -> list[tuple[object, ...]]:
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        return [(name, t.shape, name in trained) for name, t in model.state_dict().items()]

    assert told(ours) == told(theirs) and ours.out_channels == theirs.out_channels
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for name, value in theirs.eval()(x).items():
        torch.testing.assert_close(ours.eval()(x)[name], value)


def test_published_weights_come_with_frozen_norms_and_three_trainable_layers() -> None:
    trained = pyconvresnet_tiny(pretrained=True)
    pyramid: Any = fpn_backbone("pyconvresnet_tiny", weights="DEFAULT")
    assert {type(m) for m in pyramid.body.modules() if "Norm" in type(m).__name__} == {
        FrozenBatchNorm2d
    }
    frozen = {n.split(".")[0] for n, p in pyramid.body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    x = torch.rand(1, 1, 28, 28)
    maps = Backbone(trained.eval())(x)
    for name, value in pyramid.body(x).items():
        torch.testing.assert_close(value, maps[name])
    assert list(pyramid(x)) == ["0", "1", "2", "3", "pool"]
    # Without weights nothing is frozen, as in torchvision's detectors.
    free = fpn_backbone("pyconvresnet_tiny", returned_layers=[2, 4])
    assert all(p.requires_grad for p in free.parameters()) and list(free(x)) == ["0", "1", "pool"]


@pytest.mark.parametrize("layers", range(6))
def test_trainable_layers_are_counted_as_in_torchvision(layers: int) -> None:
    model = pyconvresnet_tiny()
    freeze_layers(model, layers)
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    groups = [{"layer4"}, {"layer3"}, {"layer2"}, {"layer1"}, {"conv1", "bn1"}]
    assert trained == {"fc"}.union(*groups[:layers])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trainable_layers": 6}, "trainable_layers=6 must be a number of 0 to 5"),
        ({"returned_layers": [1, 5]}, r"stages=\(1, 5\) must name stages of 0 to 4"),
        ({"weights": "IMAGENET1K_V9"}, "neither a file nor the name of published weights"),
        ({"replace_stride_with_dilation": [True]}, "must be 3 times True or False"),
    ],
)
def test_what_the_call_cannot_do_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fpn_backbone("pyconvresnet_tiny", **options)


def test_strides_are_replaced_in_one_way_only() -> None:
    with pytest.raises(ValueError, match=r"3 times True or False.*output_stride=16 stay 32"):
        pyconvresnet18(output_stride=16, replace_stride_with_dilation=(False, True, True))


def test_one_map_is_a_backbone_of_a_detector_by_itself() -> None:
    body = Backbone(pyconvresnet18(), 4)
    assert body.out_channels == 512
    anchors = AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),))
    detector = FasterRCNN(body, 3, rpn_anchor_generator=anchors, min_size=64, max_size=64)
    assert set(detector.eval()([torch.rand(3, 64, 64)])[0]) == {"boxes", "labels", "scores"}
    with pytest.raises(ValueError, match="out_channels"):  # torchvision's words
        FasterRCNN(Backbone(pyconvresnet18()), 3)


def test_the_return_layers_of_a_backbone_are_those_that_a_pyramid_takes() -> None:
    body = Backbone(pyconvresnet18())
    pyramid = BackboneWithFPN(body, body.return_layers, list(body.channels), 32)
    detector = FasterRCNN(pyramid, 3, min_size=64, max_size=64).eval()
    assert set(detector([torch.rand(3, 64, 64)])[0]) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize("name", ["resnet18", "pyconvresnet18", "pyconvresnet_tiny"])
def test_tools_that_take_torchvisions_resnet_apart_take_ours(name: str) -> None:
    model = get_model(name, dropout=0.5).eval()
    x = torch.rand(1, model.conv1.in_channels, 64, 48)
    wanted = {"relu": "stem", "layer1": "low", "layer3": "mid", "layer4": "out"}
    maps = Backbone(model, wanted)(x)
    assert list(maps) == ["stem", "low", "mid", "out"]
    for make in (IntermediateLayerGetter, create_feature_extractor):
        for key, value in make(model, dict(wanted))(x).items():
            torch.testing.assert_close(value, maps[key])
    children = list(model.children())
    assert torch.equal(nn.Sequential(*children[:-2])(x), maps["out"])
    pooled = nn.Sequential(*children[:-1])(x).flatten(1)
    torch.testing.assert_close(pooled, model.forward_head(maps["out"], pre_logits=True))
    like = [name for name, _ in torchvision.models.resnet18().named_children()]
    assert [name for name, _ in model.named_children() if name != "dropout"] == like


FLAGS = {32: (False, False, False), 16: (False, False, True), 8: (False, True, True)}


@pytest.mark.parametrize("output_stride", FLAGS)
def test_strides_become_dilations_as_torchvision_spells_it(output_stride: int) -> None:
    ours = pyconvresnet18(replace_stride_with_dilation=FLAGS[output_stride]).eval()
    other = pyconvresnet18(output_stride=output_stride).eval()
    other.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(ours.forward_features(x), other.forward_features(x))


@pytest.mark.parametrize("flags", [(True, False, True), (False, True, False)])
def test_any_stages_may_dilate(flags: tuple[bool, ...]) -> None:
    ours = get_model("resnet50", replace_stride_with_dilation=flags).eval()
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=list(flags)).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    pools = get_model("pyconvresnet18", replace_stride_with_dilation=flags)
    maps = Backbone(pools)(torch.rand(1, 3, 64, 96))
    for value, stride in zip(maps.values(), pools.strides, strict=True):
        assert value.shape[2:] == (64 // stride, 96 // stride)
    assert pools.strides == ours.strides
