"""The network: the original's numbers, its options, and the tools that people put it through."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from golden import fill, images, load
from torch import nn
from torch.nn import functional as F

from pyconv import (
    PyConvBasicBlock1,
    PyConvBasicBlock2,
    PyConvBlock,
    ResNet,
    get_model,
    list_models,
    pyconvhgresnet50,
    pyconvresnet18,
    pyconvresnet50,
    pyconvresnet_tiny,
    resnet18,
    resnet50,
)
from pyconv.architectures import Architecture, Stage, Stem

# One row of each kind of block, small enough to compute quickly.
KINDS = {
    kind: Architecture(
        title=kind,
        block=kind,
        expansion=4 if kind == "bottleneck" else 1,
        stages=tuple(Stage(2, 8, 2, (3, 5), (1, 2)) for _ in range(4)),
        stem=Stem(width=8, kernel=3, stride=2, pool=False),
        pool_shortcut=True,
        num_classes=5,
    )
    for kind in ("bottleneck", "basic1", "basic2")
}


def close(value: torch.Tensor, expected: object, scale: float = 1.0) -> None:
    target = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(value, target, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.parametrize("name", load("forward_goldens"))
def test_logits_and_features_are_the_originals(name: str) -> None:
    model = fill(get_model(name)).eval()
    for golden in load("forward_goldens")[name]:
        x = images(golden["input_shape"])
        with torch.inference_mode():
            features = [x := model.forward_stem(x)] + [x := stage(x) for stage in model.stages]
            logits = model.forward_head(x)
        close(logits[:, :8], golden["logits_first8"])
        close(logits.norm(), golden["logits_norm"])
        assert logits.argmax(1).tolist() == golden["logits_argmax"]
        for number, feature in enumerate(features[1:], 1):
            expected = golden["features"][f"layer{number}"]
            assert list(feature.shape) == expected["shape"]
            close(feature.norm(), expected["norm"])
            close(feature.mean(), expected["mean"])


def test_a_training_step_is_the_originals() -> None:
    golden = load("train_step_golden")
    model = fill(get_model(golden["model"], num_classes=golden["num_classes"])).train()
    loss = F.cross_entropy(model(images(golden["input_shape"])), torch.tensor(golden["target"]))
    loss.backward()
    close(loss, golden["loss"])
    norms = {key: p.grad.norm() for key, p in model.named_parameters() if p.grad is not None}
    assert list(norms) == list(golden["grad_norms"])
    for key, norm in norms.items():
        close(norm, golden["grad_norms"][key])


@pytest.mark.parametrize("name", ["resnet18", "pyconvresnet18", "pyconvresnet_tiny"])
def test_heads_and_features_as_timm_users_know_them(name: str) -> None:
    model = get_model(name, num_classes=7).eval()
    x = torch.randn(2, model.conv1.in_channels, 64, 48)
    features = model.forward_features(x)
    assert features.shape[:2] == (2, model.num_features)
    torch.testing.assert_close(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    classifier = model.get_classifier()
    assert isinstance(classifier, nn.Linear)
    assert classifier.out_features == model.num_classes == 7
    model.reset_classifier(3)
    assert model(x).shape == (2, 3) and not model.fc.training
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert torch.equal(model(x), pooled)
    model.reset_classifier(np.int64(5))  # type: ignore[arg-type]
    assert model(x).shape == (2, 5)
    for none in (-3, True, 2.5):
        with pytest.raises(ValueError, match=r"num_classes=.* must be a whole number"):
            model.reset_classifier(none)


def test_what_was_built_without_memory_can_be_initialised_in_place() -> None:
    """As FSDP does it: every value is new, also of the classifier and of running statistics."""
    with torch.device("meta"):
        model = get_model("pyconvresnet18", num_classes=1000)
    model.to_empty(device="cpu")
    kept = dict(model.named_parameters())
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 7)
    model.reset_parameters()
    twin = get_model("pyconvresnet18", num_classes=1000)
    for key, expected in twin.state_dict().items():
        tensor = model.state_dict()[key].double()
        if expected.ndim < 2 and key != "fc.bias":  # norms: constants
            assert torch.equal(tensor, expected.double()), key
        else:
            torch.testing.assert_close(tensor.std(), expected.double().std(), rtol=0.2, atol=0)
    assert all(kept[name] is parameter for name, parameter in model.named_parameters())
    assert model(torch.randn(2, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize("name", ["resnet50", "pyconvresnet50", "pyconvhgresnet50"])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_output_stride_keeps_the_layout_and_bounds_the_map(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        model, plain = get_model(name, output_stride=output_stride), get_model(name)
        features = model.forward_features(torch.empty(1, 3, 96, 160))
    assert features.shape[2:] == (96 // output_stride, 160 // output_stride)
    assert model.strides == tuple(min(s, output_stride) for s in (4, 8, 16, 32))
    layout = {key: t.shape for key, t in model.state_dict().items()}
    assert layout == {key: t.shape for key, t in plain.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet18", "pyconvresnet18", "pyconvresnet_tiny"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_features_hold_the_strided_ones(name: str, output_stride: int) -> None:
    """Away from the border, every k-th feature of the dilated network is the strided one's."""
    torch.manual_seed(0)
    strided = get_model(name).double().eval()
    for module in strided.modules():  # running statistics that move every value
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
    dilated = get_model(name, output_stride=output_stride).double().eval()
    dilated.load_state_dict(strided.state_dict())
    # Zeros around what differs: padding then meets what padding would have put there.
    x = torch.zeros(1, strided.conv1.in_channels, 256, 256, dtype=torch.float64)
    x[:, :, 96:160, 96:160] = torch.randn(64, 64, dtype=torch.float64)
    with torch.inference_mode():
        coarse, fine = strided.forward_features(x), dilated.forward_features(x)
    step = strided.strides[-1] // dilated.strides[-1]
    assert dilated.strides[-1] == min(output_stride, strided.strides[-1])
    sampled = fine[:, :, ::step, ::step]
    middle = slice(coarse.shape[2] // 4, 3 * coarse.shape[2] // 4)
    torch.testing.assert_close(sampled[:, :, middle, middle], coarse[:, :, middle, middle])


@pytest.mark.parametrize("kind", KINDS)
def test_zero_init_makes_every_block_its_shortcut(kind: str) -> None:
    model = ResNet(KINDS[kind], zero_init_residual=True).eval()
    for stage in model.stages:
        for block in list(stage.children())[1:]:
            x = torch.rand(1, 8 * KINDS[kind].expansion, 6, 6)
            assert torch.equal(block(x), x)
    assert not torch.equal(ResNet(KINDS[kind])(torch.rand(2, 3, 64, 64)), torch.zeros(2, 5))


def test_zero_init_needs_a_norm_with_a_weight() -> None:
    with pytest.raises(ValueError, match=r"zero_init_residual=True needs norms with a weight"):
        resnet18(zero_init_residual=True, norm_layer=lambda c: nn.BatchNorm2d(c, affine=False))


def test_initial_values_are_kaimings() -> None:
    torch.manual_seed(0)
    conv = pyconvresnet50().layer2[0].conv2.levels[1]
    assert conv.groups == 4
    deviation = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
    assert conv.weight.std().item() == pytest.approx(deviation, rel=0.05)


def test_options_do_what_they_say() -> None:
    model = pyconvresnet_tiny(in_channels=5, num_classes=3, dropout=0.5)
    x = torch.randn(4, 5, 28, 28)
    assert model.eval()(x).shape == (4, 3)
    assert torch.equal(model(x), model(x))
    model.dropout.train()
    assert not torch.equal(model(x), model(x))
    grouped = pyconvresnet_tiny(norm_layer=lambda channels: nn.GroupNorm(8, channels))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in grouped.modules())
    assert grouped(torch.randn(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": -1}, "num_classes=-1 must be a whole number, at least 0"),
        ({"num_classes": 2.5}, "num_classes=2.5 must be a whole number"),
        ({"in_channels": 0}, "in_channels=0 must be a whole number, at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 must be a probability"),
        ({"output_stride": 4}, "output_stride=4 must be 32, 16 or 8"),
    ],
)
def test_options_out_of_range_say_the_range(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resnet18(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 40)])
def test_any_size_of_image(size: tuple[int, int]) -> None:
    for model in (resnet18(), pyconvresnet18()):
        assert model.eval()(torch.randn(1, 3, *size)).shape == (1, 1000)


@pytest.mark.parametrize(
    "model", [resnet18, pyconvresnet18, pyconvresnet_tiny, pyconvresnet50, pyconvhgresnet50]
)
def test_traced_exported_copied_and_pickled_models_compute_the_same(model: type[ResNet]) -> None:
    network = model(num_classes=4).eval()
    x = torch.randn(2, network.conv1.in_channels, 64, 64)
    with torch.inference_mode():
        expected = network(x)
        twins = {
            "fx": torch.fx.symbolic_trace(network),
            "export": torch.export.export(network, (x,)).module(),
            "deepcopy": copy.deepcopy(network),
            "pickle": pickle.loads(pickle.dumps(network)),
            "trace": torch.jit.trace(network, x),
        }
        for name, twin in twins.items():
            torch.testing.assert_close(
                twin(x), expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_stages_that_users_replace_keep_their_place() -> None:
    network, x = pyconvresnet_tiny().eval(), torch.randn(2, 1, 28, 28)
    expected, second = network(x), network.layer2
    del network.layer2
    network.layer2 = second  # now the last of the children
    torch.testing.assert_close(network(x), expected)


def test_exported_models_take_any_batch() -> None:
    network = pyconvresnet_tiny().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        network, (torch.randn(2, 1, 28, 28),), dynamic_shapes=({0: batch},)
    )
    x = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(program.module()(x), network(x))


def test_exported_models_take_sides_that_are_multiples_of_32() -> None:
    network = pyconvresnet18(num_classes=4).eval()
    sides = {dim: 32 * torch.export.Dim(name, min=2, max=8) for dim, name in ((2, "h"), (3, "w"))}
    program = torch.export.export(network, (torch.randn(1, 3, 64, 96),), dynamic_shapes=(sides,))
    x = torch.randn(1, 3, 160, 64)
    torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [PyConvBlock, PyConvBasicBlock1, PyConvBasicBlock2])
def test_blocks_stand_on_their_own(block: type[PyConvBlock]) -> None:
    shortcut = nn.Conv2d(32, 16 * block.expansion, 1, stride=2)
    layer = block(32, 16, 2, shortcut, pyconv_kernels=(3, 5), pyconv_groups=(1, 4))
    assert layer(torch.randn(2, 32, 9, 9)).shape == (2, 16 * block.expansion, 5, 5)


def test_a_plain_resnet_is_torchvisions() -> None:
    """Same keys, same numbers: the rows hold for networks the paper did not change, too."""
    from torchvision.models import resnet50 as theirs

    ours, other = resnet50().eval(), theirs().eval()
    ours.load_state_dict(other.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), other(x))


def test_every_network_says_what_it_gives() -> None:
    for name in list_models():
        with torch.device("meta"):
            model = get_model(name)
            x = torch.empty(1, model.conv1.in_channels, 64, 64)
            x = model.forward_stem(x)
            for stage, channels, stride in zip(
                model.stages, model.channels, model.strides, strict=True
            ):
                x = stage(x)
                assert x.shape[1:] == (channels, 64 // stride, 64 // stride), name
