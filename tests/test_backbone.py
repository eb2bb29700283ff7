"""Feature maps for other tasks, attached to a network from outside."""

from __future__ import annotations

import copy

import pytest
import torch

from pyconv import Backbone, get_model, list_models, pyconvresnet18, pyconvresnet_tiny


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_names_channels_and_strides_hold(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        model = get_model(name, output_stride=output_stride)
        backbone = Backbone(model)
        features = backbone(torch.empty(2, model.conv1.in_channels, 64, 96))
    assert list(features) == ["layer1", "layer2", "layer3", "layer4"]
    for map_, channels, stride in zip(
        features.values(), backbone.channels, backbone.strides, strict=True
    ):
        assert map_.shape == (2, channels, 64 // stride, 96 // stride)


def test_features_are_the_networks() -> None:
    model = pyconvresnet18().eval()
    x = torch.randn(1, 3, 64, 64)
    features = Backbone(model, stages=(2, 4))(x)
    assert list(features) == ["layer2", "layer4"]
    assert torch.equal(features["layer4"], model.forward_features(x))


def test_parameters_are_shared_and_later_stages_left_out() -> None:
    model = pyconvresnet_tiny()
    backbone = Backbone(model, stages=(1, 3))
    own, shared = model.state_dict(), backbone.state_dict()
    assert set(shared) == {key for key in own if not key.startswith(("layer4", "fc"))}
    assert all(shared[key].data_ptr() == own[key].data_ptr() for key in shared)


def test_backbones_compile_trace_export_and_copy() -> None:
    backbone = Backbone(pyconvresnet_tiny()).eval()
    x = torch.randn(1, 1, 28, 28)
    expected = backbone(x)
    exported = torch.export.export(backbone, (x,)).module()
    for twin in (torch.fx.symbolic_trace(backbone), exported, copy.deepcopy(backbone)):
        for key, value in twin(x).items():
            torch.testing.assert_close(value, expected[key])


def test_one_stage_may_be_a_number() -> None:
    assert Backbone(pyconvresnet_tiny(), 3).return_layers == {"layer3": "layer3"}


def test_what_is_no_network_of_the_zoo_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a Linear lacks stem, stages, channels.*get_model\(\)"):
        Backbone(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("stages", [(), (0, 1), (2, 1), (1, 1), (5,)])
def test_stages_that_are_none_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must name stages of 1 to 4 in ascending order"):
        Backbone(pyconvresnet_tiny(), stages)


def test_a_detector_of_torchvision_takes_it() -> None:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    backbone = Backbone(pyconvresnet18(), stages=(2, 3, 4))
    pyramid = BackboneWithFPN(
        backbone,
        return_layers={name: str(i) for i, name in enumerate(("layer2", "layer3", "layer4"))},
        in_channels_list=list(backbone.channels),
        out_channels=32,
    )
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,)), ((1.0,),) * 4)  # FPN adds a level
    detector = RetinaNet(pyramid, 3, anchor_generator=anchors, min_size=64, max_size=96).eval()
    with torch.inference_mode():
        found = detector([torch.rand(3, 64, 80)])
    assert set(found[0]) == {"boxes", "scores", "labels"}
