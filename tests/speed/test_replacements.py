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
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.two_tensor import TwoTensor

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
from pyconv.speed import autotune, disabled, optimize, pin
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
    assert [Algorithm.parse(str(algorithm)) for algorithm in choices] == choices
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


PYRAMIDS: dict[str, Callable[[], PyConv2d]] = {
    "stage 1": lambda: PyConv2d(64, 64),
    "stage 1, strided": lambda: PyConv2d(64, 64, stride=2),
    "dilated, with biases": lambda: PyConv2d(64, 64, dilation=2, bias=True),
    "stage 2": lambda: PyConv2d(128, 128, (3, 5, 7), (1, 4, 8)),
    "HG": lambda: PyConv2d(128, 128, pyconv_groups=(32,) * 4),
    "HG, strided": lambda: PyConv2d(256, 256, (3, 5, 7), (32, 64, 64), stride=2),
    "odd": lambda: PyConv2d(60, (20, 12), (3, 5), (5, 4)),
}


@compiled
@pytest.mark.parametrize("algorithm", [None, "direct", "depthwise", "blocked:merge=2"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("make", PYRAMIDS.values(), ids=PYRAMIDS)
def test_a_pyramid_learns(make: Callable[[], PyConv2d], half: bool, algorithm: str | None) -> None:
    layer = make()
    x = last(3, layer.in_channels, 29, 31)
    grouped = [geometry_of(level) for level in layer.levels if level.groups > 1]  # type: ignore[arg-type,operator]
    fits = algorithm is None or all(map(Algorithm.parse(algorithm).fits, grouped))
    pin(layer, algorithm if fits else None)
    assert "_ConvolutionsBackward" in functions_of(layer(x))
    assert_equal(layer, x, bound=6e-3 if half else 1e-5, autocast=half)
    if algorithm == "direct" and not half:
        assert_equal(layer, x, twice=True)


def pooled(channels: int, stride: int) -> nn.Module:
    """A shortcut as the networks have them."""
    conv = nn.Conv2d(64, channels, 1, bias=False)
    return nn.Sequential(nn.MaxPool2d(3, stride, 1), conv, nn.BatchNorm2d(channels))


TWO: dict[str, Any] = {"pyconv_kernels": (3, 5), "pyconv_groups": (1, 4)}
FOUR: dict[str, Any] = {"pyconv_kernels": (3, 5, 7, 9), "pyconv_groups": (1, 4, 8, 16)}
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "bottleneck": lambda: PyConvBlock(64, 16, **TWO),
    "strided, pooled": lambda: PyConvBlock(64, 64, 2, pooled(256, 2), **FOUR),
    "one grouped level, as in HG": lambda: PyConvBlock(64, 32, expansion=2, pyconv_groups=(8,)),
    "two pyramids": lambda: PyConvBasicBlock1(64, 64, **TWO),
    "a pyramid and 1x1": lambda: PyConvBasicBlock2(64, 64, 2, nn.Conv2d(64, 64, 1, 2), **TWO),
    "another norm": lambda: PyConvBlock(64, 16, norm_layer=lambda c: nn.GroupNorm(4, c)),
}


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


class Stem(nn.ModuleList):
    forward = in_turn


@compiled
def test_blocks_and_the_stem_are_replaced_at_all() -> None:
    x = last(16, 64, 25, 21)
    for name in ("bottleneck", "two pyramids"):
        found = functions_of(BLOCKS[name]().train()(x))
        assert {"_NormAddReluBackward", "_ConvolutionsBackward"} <= found
        assert "NativeBatchNormBackward0" not in found
    stem, x = Stem([nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(True)]), last(4, 3, 31, 33)
    assert "_NormAddReluBackward" in functions_of(stem(x))
    with plain():
        assert "_NormAddReluBackward" not in functions_of(stem(x))
    assert_equal(settled(stem).train().to(memory_format=torch.channels_last), x)


@compiled
def test_a_network_learns_the_same() -> None:
    network = get_model("pyconvresnet18", num_classes=10).to(memory_format=torch.channels_last)
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


class Shuffled(PyConv2d):
    """A pyramid that computes otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(1)


def thrice(module: nn.Module, x: Tensor) -> Tensor:
    return 3 * type(module).forward(module, x)


ACTS: dict[str, Callable[[nn.Module], object]] = {
    "prepare": lambda m: m.register_forward_pre_hook(lambda m, args: (args[0] + 1,)),
    "hook": lambda m: m.register_forward_hook(lambda m, args, out: 2 * out),
    "watch": lambda m: m.register_full_backward_hook(lambda m, grads, out: (2 * grads[0],)),
    "patch": lambda m: setattr(m, "forward", partial(thrice, m)),
}
CHANGES: dict[str, Callable[[Any], object]] = {
    **{
        f"{name} {path}": lambda block, act=act, path=path: act(block.get_submodule(path))
        for name, act in ACTS.items()
        for path in ("conv1", "conv2", "conv2.conv2_1", "conv2.conv2_2", "bn1", "bn3", "relu",
                     "downsample", "downsample.2")
        # PyTorch itself refuses a ReLU in place behind a backward hook.
        if name != "watch" or path not in ("bn1", "relu")
    },
    "another level of conv2": lambda block: block.set_submodule(
        "conv2.conv2_1", Doubled(64, 16, 3, padding=1, bias=False)),
    "conv2 with a level that is none": lambda block: block.set_submodule(
        "conv2.conv2_1", nn.Sequential(nn.Conv2d(64, 16, 3, padding=1, bias=False), nn.Tanh())),
    "conv2 of another class": lambda block: block.set_submodule("conv2", Shuffled(64, 64)),
    "conv2 of two dilations": lambda block: vars(block.conv2.conv2_2).update(
        dilation=(2, 2), padding=(4, 4)),
    "conv2 padded by name": lambda block: vars(block.conv2.conv2_2).update(padding="same"),
    "conv2 mirrored": lambda block: vars(block.conv2.conv2_2).update(padding_mode="reflect"),
    "another activation": lambda block: block.set_submodule("relu", nn.SiLU()),
    "a norm without statistics": lambda block: block.set_submodule(
        "bn1", nn.BatchNorm2d(64, track_running_stats=False)),
}  # fmt: skip


def changed_block(name: str) -> nn.Module:
    block = PyConvBlock(64, 64, 1, pooled(256, 1), **FOUR | {"pyconv_groups": (1, 4, 8, 8)})
    CHANGES[name](block)
    return block


@pytest.mark.parametrize("name", CHANGES)
def test_what_users_made_of_a_block_is_kept(name: str) -> None:
    block, x = changed_block(name).train(), last(8, 64, 24, 25)
    found = learn(block, x)
    with plain():
        expected = learn(block, x)
    assert found.keys() == expected.keys()
    for key, target in expected.items():
        assert error(found[key], target) < 1e-2, key


def test_hooks_of_all_modules_are_called() -> None:
    block, seen = BLOCKS["bottleneck"]().train(), set()
    with register_module_forward_hook(lambda module, args, out: seen.add(module)):
        block(last(16, 64, 25, 21))
    assert seen == set(block.modules())


@compiled
def test_parameters_of_other_classes_and_frozen_ones() -> None:
    layer, x = PyConv2d(64, 64), last(4, 64, 29, 31)
    layer.levels[1].weight.requires_grad_(False)
    assert_equal(layer, x)
    layer.requires_grad_(False)
    assert_equal(layer, x)
    block = BLOCKS["bottleneck"]().train()
    pair, weight = copy.deepcopy(block), block.bn3.weight.detach()
    pair.bn3.weight = nn.Parameter(TwoTensor(weight, weight.clone()))
    out = pair(x)
    assert type(out) is TwoTensor  # it went through PyTorch's operators
    assert error(out.a, block(x)) < 1e-5
    with torch.no_grad():
        assert layer(x).grad_fn is None


@compiled
@pytest.mark.parametrize("stride", [1, 4])
def test_levels_of_other_dilations(stride: int) -> None:
    """As a segmenter makes them of a pyramid."""
    layer = PyConv2d(64, 64, (3, 5, 7, 9), (4, 4, 8, 16), stride=stride)
    for level, dilation in zip(layer.levels, (2, 2, 1, 1), strict=True):
        level.dilation = (dilation, dilation)
        level.padding = (dilation * (level.kernel_size[0] // 2),) * 2  # type: ignore[index,operator]
    for size in (42, 43):
        assert_equal(layer, last(4, 64, size, size))


@pytest.mark.parametrize("make", [last, torch.randn])
def test_autocast_and_empty_batches(make: Callable[..., Tensor]) -> None:
    for layer in (PyConv2d(64, 64), PyConv2d(256, 64, 7, (64,))):
        x = make(2, layer.in_channels, 56, 56)
        with torch.no_grad():
            assert layer(x[:0]).shape == (0, 64, 56, 56)
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(x).dtype == torch.bfloat16
        layer(x[:0].requires_grad_()).sum().backward()


def test_a_layer_and_an_input_of_different_dtypes_are_refused_as_by_pytorch() -> None:
    for algorithm in (None, "tiled:2x2", "direct", "depthwise"):
        layer = PyConv2d(64, 64, (3, 5), (16, 16))
        pin(layer, algorithm)
        for one in (layer, optimize(layer.eval())):
            with pytest.raises(RuntimeError, match="type"):
                one(last(2, 64, 30, 40).bfloat16())
            with pytest.raises(RuntimeError, match=r"expected input|channels"):
                one(last(2, 32, 50, 60))


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
    for twin in (torch.export.load(tmp_path / "tiny.pt2").module(), torch.fx.symbolic_trace(tiny)):
        assert error(twin(x[:2]), expected[:2]) < 1e-5


@pytest.mark.parametrize("way", [None, "autotune", "tiled:2x2", "blocked:merge=2"])
def test_compiles_as_one_graph_and_trains(way: str | None) -> None:
    block = BLOCKS["one grouped level, as in HG"]().train()
    network = nn.Sequential(PyConv2d(32, 64, pyconv_groups=(2, 4, 8, 8)), block)
    pin(network[0], None if way == "autotune" else way)
    x = torch.randn(2, 32, 12, 12)
    torch.compiler.reset()
    compile = partial(torch.compile, fullgraph=True, backend="aot_eager")
    with autotune(way == "autotune"):
        assert_equal(network, x, of_gradients=1e-3, by=compile)


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
            assert error(a.grad, b.grad) < 1e-6  # type: ignore[arg-type]
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
