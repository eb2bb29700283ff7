"""PyConvSegNet: the published networks to the last digit, and any size, backbone and option."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import segmentation_data
import torch
from photos import one_thread  # noqa: F401
from segmentation_data import backbone, small
from torch import Tensor, nn

import pyconv
from pyconv import PyConvSegNet, get_model, list_models
from pyconv.architectures import ARCHITECTURES
from pyconv.pyconvsegnet import SEGNETS, dilated

GOLDENS = golden.load("segmentation_goldens")
NETWORKS = GOLDENS["networks"]


def on_meta(name: str) -> PyConvSegNet:
    with torch.device("meta"):
        return getattr(pyconv, f"pyconvsegnet_{name}")()


def filled(name: str) -> PyConvSegNet:
    """The network of a name by the rule of the goldens, without initialising it first."""
    model = on_meta(name).double()
    state = {
        key: torch.as_tensor(golden.values(key, t.shape)) for key, t in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_layout_and_parameters_are_those_of_the_published_files(name: str) -> None:
    model, expected = on_meta(name), NETWORKS[name]
    state = model.state_dict()
    assert len(state) == expected["entries"]
    assert sum(p.numel() for p in model.parameters()) == expected["parameters"]
    rows = [[key, list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()]
    assert rows[-len(GOLDENS["head"]) :] == GOLDENS["head"]
    stem = {"conv1": "layer0.0", "bn1": "layer0.1"}
    with torch.device("meta"):
        network = get_model(name).state_dict()
    names = [key.split(".", 1) for key in network if not key.startswith("fc.")]
    names = [f"{stem.get(first, first)}.{rest}" for first, rest in names]
    assert names == [key for key, *_ in rows[: -len(GOLDENS["head"])]]


@pytest.mark.parametrize(
    "name",
    [
        name if name.endswith("50") else pytest.param(name, marks=pytest.mark.slow)
        for name in NETWORKS  # the deeper ones differ in their numbers of blocks, and take a minute
    ],
)
def test_outputs_are_the_originals(name: str) -> None:
    model = filled(name)
    for expected in NETWORKS[name]["forward"]:
        maps: dict[nn.Module, Tensor] = {}
        for layer in (model.layer3, model.layer4):
            layer.register_forward_hook(lambda layer, _, out, maps=maps: maps.update({layer: out}))
        with torch.inference_mode():
            result = model(golden.images(expected["input_shape"]))
            out = result["out"]
            stage3, stage4 = maps[model.layer3], maps[model.layer4]
            aux = model.aux(stage3)
        assert list(result) == ["out"]
        assert list(out.shape) == expected["output_shape"]
        assert float(out.norm()) == pytest.approx(expected["norm"], rel=1e-9)
        assert float(out.mean()) == pytest.approx(expected["mean"], rel=1e-9)
        sample = out[0, 0, ::16, ::24].flatten()[:24]
        assert sample.tolist() == pytest.approx(expected["sample"], rel=1e-9)
        classes = out.argmax(1).numpy().astype(np.uint8).tobytes()
        assert zlib.crc32(classes) == expected["argmax_crc32"]
        for key, found in (("stage3", stage3), ("stage4", stage4), ("aux", aux)):
            shape, norm = expected[key]
            assert list(found.shape) == shape
            assert float(found.norm()) == pytest.approx(norm, rel=1e-9)


def test_every_backbone_of_bottlenecks_has_a_network() -> None:
    assert list_models(task="segmentation") == sorted(SEGNETS)
    assert {name.removeprefix("pyconvsegnet_") for name in SEGNETS} == {
        name for name in ARCHITECTURES if name.endswith(("50", "101", "152"))
    }
    assert not {*list_models()} & {*SEGNETS}  # those are what the other commands take
    for name in SEGNETS:
        assert getattr(pyconv, name) is getattr(pyconv.segmentation, name)
        assert getattr(pyconv, name).__name__ == name
        with torch.device("meta"):
            assert isinstance(get_model(name, num_classes=3, aux=False), PyConvSegNet)


@pytest.mark.parametrize(("height", "width"), [(65, 97), (64, 96), (70, 33), (9, 8), (1, 1)])
def test_any_size_comes_out_as_it_went_in(height: int, width: int) -> None:
    model = small(5).eval()
    with torch.inference_mode():
        out = model(torch.randn(2, 3, height, width))["out"]
    assert out.shape == (2, 5, height, width)


def test_other_sizes_are_corners_of_the_next_one_that_fits() -> None:
    """No pixel is moved: a part of an image on black is found where it is."""
    model, image = small(5).eval(), torch.zeros(1, 3, 65, 97)
    image[..., :60, :92] = torch.randn(1, 3, 60, 92)
    with torch.inference_mode():
        whole, part = model(image)["out"], model(image[..., :60, :92])["out"]
    torch.testing.assert_close(part, whole[..., :60, :92])


def test_the_auxiliary_head_speaks_in_training_alone() -> None:
    model, images = small(5), torch.randn(2, 3, 33, 41)
    result = model.train()(images)
    assert isinstance(result, OrderedDict) and list(result) == ["out", "aux"]
    assert result["out"].shape == result["aux"].shape == (2, 5, 33, 41)
    (result["out"].mean() + 0.4 * result["aux"].mean()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert list(model.eval()(images)) == ["out"]
    assert list(small(5, aux=False).train()(images)) == ["out"]


def test_its_way_of_dilating_is_an_option_of_the_network() -> None:
    """All blocks of stages 3 and 4 dilate, and the pools of their shortcuts do not."""
    model = get_model("pyconvresnet50", output_stride=8)
    whole = dilated(ARCHITECTURES["pyconvresnet50"])
    assert model.strides == whole.strides == (4, 8, 8, 8)

    def facts(net: Any) -> list[Any]:
        stage3, stage4 = net.layer3, net.layer4
        levels = [block.conv2.levels[1] for block in stage3]
        pools = [stage3[0].downsample[0], stage4[0].downsample[0]]
        convs = [block.conv2.dilation[0] for block in stage4]
        return [
            [level.dilation[0] for level in levels],
            [level.padding[0] for level in levels],
            convs,
            [(type(pool).__name__, getattr(pool, "dilation", 1)) for pool in pools],
        ]

    assert facts(whole) == [
        [2] * 6, [4] * 6, [4, 4, 4], [("MaxPool2d", 1), ("MaxPool2d", 1)],
    ]  # fmt: skip
    assert facts(model) == [
        [1, *[2] * 5], [2, *[4] * 5], [2, 4, 4], [("MaxPool2d", 1), ("DilatedMaxPool2d", 2)],
    ]  # fmt: skip
    sixteen = dilated(ARCHITECTURES["resnet50"], output_stride=16)
    assert sixteen.strides == (4, 8, 16, 16)
    assert [block.conv2.dilation for block in sixteen.layer4] == [(2, 2)] * 3
    assert sixteen.layer4[0].downsample[0].stride == (1, 1)


class Own(nn.Module):
    """A network of somebody else's with two stages, as :class:`pyconv.Network` asks for."""

    channels, strides = (8, 12), (2, 4)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            [nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 12, 3, 2, 1)]
        )
        self.stem, self.stages = [self.body[0]], [self.body[1], self.body[2]]


def test_any_network_of_the_contract_can_be_the_backbone() -> None:
    own = Own()
    model = PyConvSegNet(own, 3)
    assert model.first_conv == "layer0.0"
    assert model.layer2 is own.body[2]
    assert model.train()(torch.randn(2, 1, 18, 22))["aux"].shape == (2, 3, 18, 22)
    tiny = PyConvSegNet(pyconv.pyconvresnet_tiny(), 3).eval()
    assert tiny(torch.randn(1, 1, 28, 30))["out"].shape == (1, 3, 28, 30)
    assert pyconv.Backbone(model, (1, 2)).strides == (2, 4)  # it keeps the contract itself


def test_the_backbones_norm_is_the_heads() -> None:
    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(4, channels)

    model = PyConvSegNet(backbone(norm_layer=norm), 3)
    kinds = {type(m) for m in model.modules() if "Norm" in type(m).__name__}
    assert kinds == {nn.GroupNorm}


def test_a_new_classifier_is_one_of_both_heads() -> None:
    model = small(5)
    model.reset_classifier(9)
    assert model.num_classes == 9 and model.get_classifier().out_channels == 9
    assert model.train()(torch.randn(2, 3, 17, 17))["aux"].shape[1] == 9


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: PyConvSegNet(nn.Linear(1, 1), 3), "lacks stem, stages, channels, strides"),
        (lambda: small(0), "num_classes=0 must be a whole number, at least 1"),
        (lambda: PyConvSegNet(backbone(), 3, dropout=1.0), "dropout=1.0 must be a probability"),
    ],
)
def test_wrong_options_are_one_sentence(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


def test_it_is_exported_for_any_size() -> None:
    model, images = small(5).eval(), torch.randn(1, 3, 65, 73)
    size = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(model, (images,), dynamic_shapes=(size,)).module()
    with torch.inference_mode():
        for x in (images, torch.randn(1, 3, 50, 81)):
            torch.testing.assert_close(program(x)["out"], model(x)["out"])


def test_onnx_computes_the_same(tmp_path: Path) -> None:
    """Of an image whose sides are not 8k + 1."""
    import onnxruntime

    model, images = small(5).eval(), torch.randn(1, 3, 60, 73)
    path = tmp_path / "model.onnx"
    program = torch.export.export(model, (images,))
    torch.onnx.export(program, (), path, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.as_tensor(out), model(images)["out"], rtol=1e-4, atol=1e-5)


def test_the_named_module_is_a_network_for_the_command() -> None:
    assert isinstance(get_model("segmentation_data:small", num_classes=2), PyConvSegNet)
    assert segmentation_data.Plain()(torch.zeros(1, 3, 5, 5)).shape == (1, 7, 5, 5)
