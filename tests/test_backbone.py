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
    assert list(features) == ["0", "1", "2", "3"]
    for map_, channels, stride in zip(
        features.values(), backbone.channels, backbone.strides, strict=True
    ):
        assert map_.shape == (2, channels, 64 // stride, 96 // stride)


def test_features_are_the_networks() -> None:
    model = pyconvresnet18().eval()
    x = torch.randn(1, 3, 64, 64)
    features = Backbone(model, stages=(2, 4))(x)
    assert list(features) == ["0", "1"]
    assert torch.equal(features["1"], model.forward_features(x))


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


@pytest.mark.parametrize("name", ["resnet18", "pyconvresnet18", "pyconvresnet_tiny"])
def test_the_map_of_the_stem_is_stage_0(name: str) -> None:
    model = get_model(name).eval()
    x = torch.randn(1, model.conv1.in_channels, 64, 96)
    backbone = Backbone(model, (0, 1, 4))
    stem = model.relu(model.bn1(model.conv1(x)))
    maps = backbone(x)
    assert torch.equal(maps["0"], stem) and torch.equal(
        maps["1"], model.layer1(model.maxpool(stem))
    )
    assert (backbone.channels[0], 64 // backbone.strides[0]) == stem.shape[1:3]
    assert (
        list(Backbone(model, 0).state_dict())
        == [k for k in model.state_dict() if "1." in k[:6]][:6]
    )


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        ({4: "out", 3: "aux"}, ["aux", "out"]),
        ({"layer4": "out", "layer3": "aux"}, ["aux", "out"]),
        ({"relu": "stem", 2: "low"}, ["stem", "low"]),
        (range(2, 5), ["0", "1", "2"]),
    ],
)
def test_maps_have_the_names_that_are_given(stages: dict[int, str], names: list[str]) -> None:
    backbone = Backbone(pyconvresnet_tiny(), stages)
    assert (
        list(backbone(torch.randn(1, 1, 28, 28))) == list(backbone.return_layers.values()) == names
    )


def test_out_channels_is_there_where_it_is_one_number() -> None:
    assert Backbone(pyconvresnet_tiny(), 4).out_channels == 128
    assert Backbone(pyconvresnet18(), (0, 1)).out_channels == 64
    assert not hasattr(Backbone(pyconvresnet_tiny(), (3, 4)), "out_channels")


def test_images_that_are_smaller_than_a_feature_are_refused() -> None:
    backbone = Backbone(pyconvresnet18())
    with pytest.raises(ValueError, match=r"are 31x64 pixels, .* one feature per 32x32. Enlarge"):
        backbone(torch.randn(1, 3, 31, 64))
    for cure in (Backbone(pyconvresnet18(), (1, 2)), Backbone(pyconvresnet18(output_stride=16))):
        cure(torch.randn(2, 3, 31, 64))
    backbone(torch.randn(2, 3, 32, 64))


def test_one_stage_may_be_a_number() -> None:
    assert Backbone(pyconvresnet_tiny(), 3).return_layers == {"layer3": "0"}


def test_what_is_no_network_of_the_zoo_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a Linear lacks stem, stages, channels.*get_model\(\)"):
        Backbone(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stages",
    [
        (),
        (-1, 1),
        (2, 1),
        (1, 1),
        (5,),
        {},
        {5: "out"},
        {"layer5": "out"},
        {1: "a", 2: "a"},
        {1: ""},
    ],
)
def test_stages_that_are_none_are_refused(stages: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must name stages of 0 to 4 in ascending order"):
        Backbone(pyconvresnet_tiny(), stages)
