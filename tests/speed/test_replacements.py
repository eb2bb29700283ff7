"""Layers and blocks with the engine behind them: the plain computation's numbers, and manners."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import (
    assert_equal,
    compiled,
    copies,
    error,
    functions_of,
    last,
    learn,
    plain,
    settled,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.two_tensor import TwoTensor

import pyconv
from pyconv import (
    PyConv1d,
    PyConv2d,
    PyConv3d,
    PyConvBasicBlock1,
    PyConvBasicBlock2,
    PyConvBlock,
    get_model,
    pyconvresnet_tiny,
)
from pyconv.onednn import geometry_of
from pyconv.resnet import in_turn
from pyconv.speed import disabled, pin
from pyconv.speed.algorithms import Algorithm
from pyconv.speed.problem import algorithms_for, problem_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of a busy machine wait for each other, and these maps are small; one seed, too."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def applicable(layer: nn.Module, x: Tensor, device: str) -> list[Algorithm]:
    """The algorithms that suit every grouped level."""
    levels = [level for level in layer.levels if level.groups > 1]  # type: ignore[union-attr]
    problems = [problem_of(x, level.weight, geometry_of(level), "forward") for level in levels]
    lists = [algorithms_for(p._replace(device=device)) for p in problems]
    return [a for a in lists[0] if all(a in others for others in lists)] if lists else []


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    kind = draw(st.sampled_from([PyConv1d, PyConv2d, PyConv2d, PyConv2d, PyConv3d]))
    groups = draw(st.sampled_from([2, 4, 8]))
    kernels = draw(st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3))
    kernels = [min(k, 3) for k in kernels] if kind is PyConv3d else kernels
    torch.manual_seed(draw(st.integers(0, 2**31)))
    layer = kind(
        groups * draw(st.sampled_from([1, 2, 4])),
        [groups * draw(st.sampled_from([1, 2, 4])) for _ in kernels],
        kernels,
        [draw(st.sampled_from([1, groups])) for _ in kernels],
        stride=draw(st.integers(1, 3)),
        dilation=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "zeros", "reflect", "circular"])),
    )
    size = st.integers(7, 12 if kind is not PyConv3d else 8)
    x = torch.randn(2, layer.in_channels, *(draw(size) for _ in range(layer.dims)))
    if kind is PyConv2d and draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    return layer, x


@given(layers(), st.booleans(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))
def test_any_layer_by_any_algorithm(drawn: tuple[nn.Module, Tensor], twice: bool, random) -> None:  # type: ignore[no-untyped-def]
    layer, x = drawn
    choices = applicable(layer, x, "cpu") + applicable(layer, x, "cuda")
    for algorithm in random.sample(choices, min(3, len(choices))):
        pin(layer, str(algorithm))
        assert_equal(layer, x, twice=twice)
        with torch.no_grad(), plain():
            expected = copy.deepcopy(layer).double()(x.double())
        with torch.no_grad():
            assert error(layer(x), expected) < 1e-5
            assert error(layer.double()(x.double()), expected) < 1e-12
            layer.float()
            assert error(layer(x[0]), expected[0]) < 1e-5  # without a batch
    pin(layer, None)
    assert_equal(layer, x, twice=twice)


PYRAMIDS: dict[str, dict[str, Any]] = {
    "stage 1": {"in_channels": 64, "out_channels": 64},
    "stage 1, strided": {"in_channels": 64, "out_channels": 64, "stride": 2},
    "dilated, with biases": {"in_channels": 64, "out_channels": 64, "dilation": 2, "bias": True},
    "stage 2": {
        "in_channels": 128,
        "out_channels": 128,
        "pyconv_kernels": (3, 5, 7),
        "pyconv_groups": (1, 4, 8),
    },
    "HG": {"in_channels": 128, "out_channels": 128, "pyconv_groups": (32,) * 4},
    "HG, strided": {
        "in_channels": 256,
        "out_channels": 256,
        "pyconv_kernels": (3, 5, 7),
        "pyconv_groups": (32, 64, 64),
        "stride": 2,
    },
    "odd": {"in_channels": 60, "out_channels": (20, 12), "pyconv_kernels": (3, 5),
            "pyconv_groups": (5, 4)},
}  # fmt: skip


@compiled
@pytest.mark.parametrize("algorithm", [None, "direct", "depthwise", "blocked:merge=2"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("options", PYRAMIDS.values(), ids=PYRAMIDS)
def test_a_pyramid_learns_at_once(
    options: dict[str, Any], half: bool, algorithm: str | None
) -> None:
    layer, x = PyConv2d(**options), last(4, options["in_channels"], 29, 31)
    fits = algorithm is None or all(
        Algorithm.parse(algorithm).fits(geometry_of(level))  # type: ignore[arg-type]
        for level in layer.levels
        if level.groups > 1  # type: ignore[operator]
    )
    pin(layer, algorithm if fits else None)
    assert "_ConvolutionsBackward" in functions_of(layer(x))
    assert_equal(layer, x, bound=6e-3 if half else 1e-5, autocast=half)


def pooled(channels: int, stride: int) -> nn.Module:
    """A shortcut as the networks have them."""
    conv = nn.Conv2d(64, channels, 1, bias=False)
    return nn.Sequential(nn.MaxPool2d(3, stride, 1), conv, nn.BatchNorm2d(channels))


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "bottleneck": lambda: PyConvBlock(64, 16, pyconv_kernels=(3, 5), pyconv_groups=(1, 4)),
    "strided, pooled": lambda: PyConvBlock(
        64, 64, 2, pooled(256, 2), pyconv_kernels=(3, 5, 7, 9), pyconv_groups=(1, 4, 8, 16)
    ),
    "one grouped level, as in HG": lambda: PyConvBlock(
        64, 32, expansion=2, pyconv_kernels=(3,), pyconv_groups=(8,)
    ),
    "two pyramids": lambda: PyConvBasicBlock1(64, 64, pyconv_kernels=(3, 5), pyconv_groups=(1, 4)),
    "a pyramid and 1x1": lambda: PyConvBasicBlock2(
        64, 64, 2, nn.Conv2d(64, 64, 1, 2), pyconv_kernels=(3, 5), pyconv_groups=(1, 4)
    ),
    "another norm": lambda: PyConvBlock(64, 16, norm_layer=lambda c: nn.GroupNorm(4, c)),
}  # fmt: skip


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("layout", ["channels-last", "contiguous", "small"])
@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_any_block(make: Callable[[], nn.Module], layout: str, training: bool, half: bool) -> None:
    block = settled(make()).train(training)
    x = last(2, 64, 8, 9) if layout == "small" else last(16, 64, 25, 21)
    x = x.contiguous() if layout == "contiguous" else x
    bound, of_gradients = (2e-2, 0.15) if half else (1e-5, 5e-3)
    assert_equal(block, x, bound, of_gradients, autocast=half)
    with torch.no_grad(), plain():
        expected = block.eval()(x)
    with torch.no_grad():
        assert error(block(x), expected) < 1e-5


@compiled
def test_blocks_and_the_stem_are_replaced_at_all() -> None:
    x = last(16, 64, 25, 21)
    for name in ("bottleneck", "two pyramids"):
        found = functions_of(BLOCKS[name]().train()(x))
        assert {"_NormAddReluBackward", "_ConvolutionsBackward"} <= found
        assert "NativeBatchNormBackward0" not in found
    stem = [nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    assert "_NormAddReluBackward" in functions_of(in_turn(stem, x))
    with plain():
        assert "_NormAddReluBackward" not in functions_of(in_turn(stem, x))


@compiled
def test_the_stem() -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(True)])

        def forward(self, x: Tensor) -> Tensor:
            return in_turn(self.parts, x)

    assert_equal(settled(Stem()).train().to(memory_format=torch.channels_last), last(4, 3, 31, 33))


@compiled
def test_a_network_learns_the_same() -> None:
    network = get_model("pyconvresnet18", num_classes=10).train()
    network = network.to(memory_format=torch.channels_last)
    images, labels = last(8, 3, 96, 96), torch.arange(8)

    def learned() -> dict[str, Tensor]:
        learner = copy.deepcopy(network)
        loss = nn.functional.cross_entropy(learner(images), labels)
        loss.backward()
        torch.optim.SGD(learner.parameters(), 0.1).step()
        return learner.state_dict() | {"loss": loss.detach()}

    state = learned()
    for one in (plain, disabled):
        with one():
            expected = learned()
        for key, tensor in expected.items():
            assert (state[key] - tensor).double().norm() <= 1e-2 * tensor.double().norm(), key


class Doubled(nn.Conv2d):
    """A level that computes otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def prepare(module: nn.Module) -> nn.Module:
    module.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return module


def hook(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, args, out: 2 * out)
    return module


def watch(module: nn.Module) -> nn.Module:
    module.register_full_backward_hook(lambda module, grads, out: (2 * grads[0],))
    return module


def thrice(module: nn.Module, x: Tensor) -> Tensor:
    return 3 * type(module).forward(module, x)


def patch(module: nn.Module) -> nn.Module:
    module.forward = partial(thrice, module)  # type: ignore[method-assign]
    return module


def change(path: str, act: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def changed(model: nn.Module) -> nn.Module:
        act(model.get_submodule(path))
        return model

    return changed


def replace(path: str, new: nn.Module) -> Callable[[nn.Module], nn.Module]:
    def changed(model: nn.Module) -> nn.Module:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, new)
        return model

    return changed


def set_to(**options: Any) -> Callable[[nn.Module], nn.Module]:
    def changed(module: nn.Module) -> nn.Module:
        vars(module).update(options)
        return module

    return changed


CHANGES: dict[str, Callable[[nn.Module], nn.Module]] = {
    **{
        f"{act.__name__} {path}": change(path, act)
        for act in (prepare, hook, watch, patch)
        for path in ("conv1", "conv2", "conv2.conv2_1", "conv2.conv2_2", "bn1", "bn3", "relu",
                     "downsample", "downsample.2")
        # PyTorch itself refuses a ReLU in place behind a backward hook.
        if act is not watch or path not in ("bn1", "relu")
    },
    "another level of conv2": replace("conv2.conv2_1", Doubled(64, 16, 3, padding=1, bias=False)),
    "conv2 with a level that is none": replace(
        "conv2.conv2_1", nn.Sequential(nn.Conv2d(64, 16, 3, padding=1, bias=False), nn.Tanh())
    ),
    "conv2 of two dilations": change("conv2.conv2_2", set_to(dilation=(2, 2), padding=(4, 4))),
    "conv2 padded by name": change("conv2.conv2_2", set_to(padding="same")),
    "conv2 mirrored": change("conv2.conv2_2", set_to(padding_mode="reflect")),
    "another activation": replace("relu", nn.SiLU()),
    "a norm without statistics": replace("bn1", nn.BatchNorm2d(64, track_running_stats=False)),
}  # fmt: skip


def block_to_change() -> nn.Module:
    kernels, groups = (3, 5, 7, 9), (1, 4, 8, 8)
    return PyConvBlock(64, 64, 1, pooled(256, 1), pyconv_kernels=kernels, pyconv_groups=groups)


@pytest.mark.parametrize("act", CHANGES.values(), ids=CHANGES)
def test_what_users_made_of_a_block_is_kept(act: Callable[[nn.Module], nn.Module]) -> None:
    block = act(block_to_change()).train()
    x = last(8, 64, 24, 25)
    found = learn(block, x)
    with plain():
        expected = learn(block, x)
    assert found.keys() == expected.keys()
    for name, target in expected.items():
        assert error(found[name], target) < 1e-2, name


@compiled
def test_parameters_of_other_classes_and_frozen_ones() -> None:
    layer, x = PyConv2d(64, 64), last(4, 64, 29, 31)
    layer.levels[1].weight.requires_grad_(False)
    assert_equal(layer, x)
    layer.requires_grad_(False)
    assert_equal(layer, x)
    pair = copy.deepcopy(layer)
    weight = pair.levels[0].weight.detach()
    pair.levels[0].weight = nn.Parameter(TwoTensor(weight, weight.clone()))
    out = pair(x)
    assert type(out) is TwoTensor  # it went through PyTorch's operators
    assert error(out.a, layer(x)) < 1e-5
    with torch.no_grad():
        assert layer(x).grad_fn is None


@compiled
@pytest.mark.parametrize("stride", [1, 4])
def test_levels_of_other_dilations(stride: int) -> None:
    """As a segmenter makes them of a pyramid."""
    layer = PyConv2d(64, 64, (3, 5, 7, 9), (4, 4, 8, 16), stride=stride)
    for level, dilation in zip(layer.levels, (2, 2, 1, 1), strict=True):
        assert isinstance(level, nn.Conv2d)
        level.dilation = (dilation, dilation)
        level.padding = (dilation * (level.kernel_size[0] // 2),) * 2
    for size in (42, 43):
        assert_equal(layer, last(4, 64, size, size))


@pytest.mark.parametrize("last_channels", [True, False])
def test_autocast_and_empty_batches(last_channels: bool) -> None:
    for layer in (PyConv2d(64, 64), PyConv2d(256, 64, 7, 64)):
        x = torch.randn(2, layer.in_channels, 56, 56)
        x = x.contiguous(memory_format=torch.channels_last) if last_channels else x
        with torch.no_grad():
            assert layer(x[:0]).shape == (0, 64, 56, 56)
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(x).dtype == torch.bfloat16
        layer(x[:0].requires_grad_()).sum().backward()


def test_a_layer_and_an_input_of_different_dtypes_are_refused_as_by_pytorch() -> None:
    for algorithm in (None, "tiled:2x2", "direct"):
        layer = PyConv2d(64, 64)
        pin(layer, algorithm)
        with pytest.raises(RuntimeError, match="type"):
            layer(last(2, 64, 30, 40).bfloat16())
        with pytest.raises(RuntimeError, match=r"expected input|channels"):
            layer(last(2, 32, 50, 60))


@compiled
def test_transforms_and_tangents_go_through_the_plain_forward() -> None:
    layer = PyConv2d(64, 64)
    block = BLOCKS["bottleneck"]().train()
    x, along = last(4, 64, 24, 24), last(4, 64, 24, 24)

    def energy(image: Tensor) -> Tensor:
        return layer(image[None]).square().mean()

    def found() -> list[Tensor]:
        per_sample = torch.func.vmap(torch.func.grad(energy))(x)
        jvp = torch.func.jvp(torch.func.grad(energy), (x[0],), (along[0],))
        with forward_ad.dual_level():
            dual = forward_ad.unpack_dual(block(forward_ad.make_dual(x, along))).tangent
        nested = torch.vmap(layer)(torch.stack([x, along]))
        return [per_sample, *jvp, dual, nested]

    for algorithm in (None, "tiled:2x2", "direct"):
        pin(layer, algorithm)
        values = found()
        with plain():
            targets = found()
        for value, target in zip(values, targets, strict=True):
            assert error(value, target) < 1e-4


@pytest.mark.parametrize("algorithm", [None, "tiled:2x2", "depthwise", "blocked:merge=2"])
def test_copies_traces_and_exports(algorithm: str | None, tmp_path: Path) -> None:
    """Copies keep what is pinned; whoever records a network sees plain convolutions."""
    tiny, x = pyconvresnet_tiny().eval(), torch.randn(3, 1, 28, 28)
    pin(tiny, algorithm)
    expected = tiny(x)
    for twin in copies(tiny):
        assert torch.equal(twin(x), expected)
        level = vars(twin.layer1[0].conv1.levels[1])
        assert str(level.get("pinned_algorithm")) == str(algorithm)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(tiny, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "tiny.pt2")
    assert "pyconv" not in str(program.graph) and "aten.conv2d" in str(program.graph)
    traced = torch.fx.symbolic_trace(tiny)
    for twin in (torch.export.load(tmp_path / "tiny.pt2").module(), traced):
        assert error(twin(x[:2]), expected[:2]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("tuned", [False, True])
def test_compiles_as_one_graph_and_trains(tuned: bool) -> None:
    block = BLOCKS["one grouped level, as in HG"]().train()
    network = nn.Sequential(PyConv2d(32, 64, pyconv_groups=(1, 4, 8, 8)), block)
    x = torch.randn(2, 32, 12, 12)
    expected = learn(network, x)
    torch.compiler.reset()
    twin = copy.deepcopy(network)
    with pyconv.speed.autotune(tuned):
        out = torch.compile(twin, fullgraph=True, backend="aot_eager")(x)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        (out * weight + out.tanh()).double().sum().backward()
    assert error(out, expected["out"]) < 1e-5
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None
        assert error(parameter.grad, expected[name]) < 1e-3, name


def test_data_parallel_training_steps_as_alone(tmp_path: Path) -> None:
    alone = PyConv2d(32, 32, pyconv_groups=(1, 4, 8, 8))
    pin(alone, "tiled:2x2")
    group = torch.distributed
    group.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped, x = DistributedDataParallel(copy.deepcopy(alone)), torch.randn(2, 32, 9, 9)
        for model in (alone, wrapped):
            (model(x) ** 2).sum().backward()
        for a, b in zip(alone.parameters(), wrapped.parameters(), strict=True):
            assert a.grad is not None and b.grad is not None
            torch.testing.assert_close(a.grad, b.grad)
    finally:
        group.destroy_process_group()


@pytest.mark.parametrize(
    "text",
    ["", "fast", "tiled", "blocked", "blocked:4", "tiled:axb", "native:2x2", "tiled:0x2",
     "tiled:1x1", "blocked:merge=1", "direct:merge=2"],
)  # fmt: skip
def test_an_algorithm_that_does_not_exist_is_named_with_those_that_do(text: str) -> None:
    with pytest.raises(ValueError, match=r"no algorithm\. Use 'native'"):
        pin(PyConv2d(64, 64), text)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [("blocked:merge=3", {}), ("tiled:2", {}), ("tiled:2x2", {"dilation": 2})],
)
def test_pinning_what_cannot_be_pins_nothing(algorithm: str, options: dict[str, int]) -> None:
    layer = PyConv2d(64, 64, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pyconv_levels\.1 .* cannot be computed as"):
        pin(layer, algorithm)
    assert not any("pinned_algorithm" in vars(m) for m in layer.modules())


@given(layers())
@settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
def test_algorithms_are_written_as_they_are_read(drawn: tuple[nn.Module, Tensor]) -> None:
    for algorithm in [*applicable(*drawn, "cpu"), *applicable(*drawn, "cuda")]:
        assert Algorithm.parse(str(algorithm)) == algorithm
