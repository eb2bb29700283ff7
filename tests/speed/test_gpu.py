"""On a GPU: equal algorithms, and the table followed. Run this file where there is one."""

from __future__ import annotations

import copy

import pytest
import torch
from equality import error
from torch import Tensor, nn

import pyconv
from pyconv import PyConv2d, optimize
from pyconv.onednn import Geometry
from pyconv.speed import autotune, choice, pin, table
from pyconv.speed.algorithms import NATIVE, Algorithms
from pyconv.speed.gradients import convolve
from pyconv.speed.problem import Problem, algorithms_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

LEVELS = {
    "9x9, HG": (128, 32, (9, 9), Geometry(32, (1, 1), (4, 4), (1, 1)), (28, 28)),
    "5x5": (64, 16, (5, 5), Geometry(4, (1, 1), (2, 2), (1, 1)), (28, 28)),
    "7x7 with a stride": (64, 16, (7, 7), Geometry(8, (2, 2), (3, 3), (1, 1)), (29, 29)),
    "three groups": (12, 12, (3, 3), Geometry(3, (1, 1), (2, 2), (2, 2)), (14, 14)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True], ids=["NCHW", "channels-last"])
@pytest.mark.parametrize("level", LEVELS)
def test_every_algorithm_is_as_near_the_truth_as_native(
    level: str, channels_last: bool, dtype: torch.dtype
) -> None:
    posed = Problem(*LEVELS[level], dtype, channels_last, "cuda", "forward")
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, posed.in_channels, *posed.size).contiguous(memory_format=layout)
    weight = torch.randn(posed.out_channels, posed.inputs, *posed.kernel)

    def run(algorithm: object, device: str, dtype: torch.dtype) -> list[Tensor]:
        a, b = (t.to(device, dtype).requires_grad_() for t in (x, weight))
        out = convolve(a, [b], [None], [posed.geometry], [Algorithms(*[algorithm] * 3)])  # type: ignore[list-item]
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        return [out, *torch.autograd.grad(out, (a, b), grad)]

    def errors(algorithm: object) -> list[float]:
        return [error(*pair) for pair in zip(run(algorithm, "cuda", dtype), truth, strict=True)]

    # As the network computes: float32 exactly, or rounded as is PyTorch's default.
    truth = run(NATIVE, "cpu", torch.float64)
    native = errors(NATIVE)
    assert len(algorithms_for(posed)) > 1
    for algorithm in algorithms_for(posed):
        for found, usual in zip(errors(algorithm), native, strict=True):
            assert found <= 2 * usual + {8: 1e-9, 4: 1e-3, 2: 1e-4}[dtype.itemsize], algorithm


def test_the_table_of_this_gpu_is_read() -> None:
    name = "CUDA_{}.{}".format(*torch.cuda.get_device_capability())
    assert table.table_of("cuda") == table.read_table(name)


@pytest.mark.parametrize("layer", [PyConv2d(64, 64), PyConv2d(128, 128, pyconv_groups=(32,) * 4)])
def test_a_layer_compiles_whole_and_learns_the_same(layer: PyConv2d) -> None:
    layer = layer.cuda()
    x = torch.randn(16, layer.in_channels, 28, 28, device="cuda", requires_grad=True)

    def learn(run: nn.Module) -> list[Tensor]:
        out = run(x)
        weights = [level.weight for level in layer.levels]
        return [out, *torch.autograd.grad((out * out.detach().cos()).sum(), [x, *weights])]

    pin(layer, "native")
    expected = learn(layer)
    pin(layer, None)
    for found in (learn(layer), learn(torch.compile(layer, fullgraph=True))):
        for value, target in zip(found, expected, strict=True):
            assert error(value, target) < 2e-3


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_optimised_network_gives_the_same(dtype: torch.dtype, compiled: bool) -> None:
    torch.manual_seed(0)
    model = pyconv.pyconvresnet18().eval()
    x = torch.randn(8, 3, 96, 96)
    with torch.inference_mode():
        truth = copy.deepcopy(model).double()(x.double())
        x = x.cuda()
        plain = model.cuda().to(dtype)(x.to(dtype))
        fast = optimize(model.float(), x, dtype=dtype, compile=compiled)
        assert error(fast(x), truth) < 1.3 * error(plain, truth) + 1e-3


def test_autotune_times_a_shape_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "TIMED", {})
    layer, x = PyConv2d(64, 64).cuda(), torch.randn(8, 64, 28, 28, device="cuda")
    with torch.no_grad():
        expected = layer(x)
        with autotune():
            assert error(layer(x), expected) < 2e-3
            layer(x)
    assert len(choice.TIMED) == 3
