"""Norms in training with the sum and the ReLU behind them: PyTorch's numbers, and its manners."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from equality import assert_equal, compiled, functions_of, last, learn
from torch import Tensor, nn

from pyconv.speed import kernels
from pyconv.speed.norms import norm_add_relu


class End(nn.Module):
    """The end of a block, as norm_add_relu computes it; the shortcut is learned, too."""

    def __init__(
        self, norm: nn.Module | int, relu: nn.Module | None = None, shortcut: Tensor | None = None
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(norm) if isinstance(norm, int) else norm
        if isinstance(norm, int):
            nn.init.uniform_(self.norm.weight, -1, 2)  # type: ignore[arg-type]
            nn.init.normal_(self.norm.bias)  # type: ignore[arg-type]
        self.relu = relu
        self.shortcut = None if shortcut is None else nn.Parameter(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return norm_add_relu(x, self.norm, self.relu, self.shortcut)


def is_ours(end: End, x: Tensor) -> bool:
    out = copy.deepcopy(end)(x.clone().requires_grad_())
    return "_NormAddReluBackward" in functions_of(out)


@compiled
@pytest.mark.parametrize("summed", [False, True])
def test_steps_repeat_bit_by_bit(summed: bool) -> None:
    """Also if what is saved comes back in another layout, as from where hooks made it smaller."""
    torch.manual_seed(0)
    end = End(64, nn.ReLU(inplace=True), last(4, 64, 40, 41) if summed else None)
    x = last(4, 64, 40, 41)
    assert is_ours(end, x)
    first = learn(end, x)
    for pack in (Tensor.clone, Tensor.contiguous):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            again = learn(end, x)
        assert again.keys() == first.keys()
        assert all(torch.equal(again[name], first[name]) for name in first)


CASES = {
    "stem": (8, 64, 40, 41, True, False),
    "end of a block": (4, 256, 15, 13, True, True),
    "shortcut": (4, 128, 21, 16, False, False),
    "sum without a ReLU": (3, 48, 31, 33, False, True),
    "many channels": (16, 2048, 3, 2, True, True),
}


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_has_the_numbers_of_double_precision(
    case: tuple[int, int, int, int, bool, bool], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    *shape, relu, summed = case
    x = last(*shape, dtype=dtype) * 3 + 2
    shortcut = last(*shape, dtype=dtype) if summed else None
    end = End(shape[1], nn.ReLU(inplace=True) if relu else None, shortcut)
    assert is_ours(end, x)
    assert_equal(end, x, bound=2e-6 if dtype == torch.float32 else 3e-3)


@compiled
def test_a_large_mean_costs_no_digits() -> None:
    torch.manual_seed(0)
    x = last(8, 64, 20, 20) + 300
    x[0, :, 0, 0] = 0  # as at the corner of a padded map
    assert_equal(End(64, nn.ReLU()), x, bound=1e-6, of_gradients=1e-5)


@compiled
def test_what_is_no_number_stays_none() -> None:
    x = last(8, 64, 20, 20)
    x[1, 5, 2, 3] = torch.nan
    x[1, 6, 2, 3] = torch.inf
    found = learn(End(64, nn.ReLU()), x)
    assert found["out"][:, 5:7].isnan().all() and not found["out"][:, :5].isnan().any()
    assert found["norm.running_var"][5:7].isnan().all()


@compiled
def test_gradients_of_gradients() -> None:
    torch.manual_seed(0)
    assert_equal(End(64, nn.ReLU(), last(8, 64, 20, 20)), last(8, 64, 20, 20), twice=True)
    assert_equal(End(64, nn.ReLU()), last(8, 64, 20, 20), twice=True)


def of(norm: nn.Module, *others: nn.Module | Tensor | None) -> tuple[End, Tensor]:
    return End(norm, *others), last(8, 64, 20, 20)  # type: ignore[arg-type]


NOT_OURS: dict[str, Callable[[], tuple[End, Tensor]]] = {
    "in eval mode": lambda: of(nn.BatchNorm2d(64).eval()),
    "a group norm": lambda: of(nn.GroupNorm(4, 64)),
    "another activation": lambda: of(nn.BatchNorm2d(64), nn.SiLU()),
    "without weights": lambda: of(nn.BatchNorm2d(64, affine=False)),
    "without statistics": lambda: of(nn.BatchNorm2d(64, track_running_stats=False)),
    "with a plain average": lambda: of(nn.BatchNorm2d(64, momentum=None)),
    "NCHW": lambda: (End(64), torch.randn(8, 64, 20, 20)),
    "small": lambda: (End(64), last(1, 64, 20, 20)),
    "odd channels": lambda: (End(63), last(8, 63, 20, 20)),
    "double": lambda: (End(64).double(), last(8, 64, 20, 20).double()),
    "all in bfloat16": lambda: (End(64).bfloat16(), last(8, 64, 20, 20).bfloat16()),
    "a sum that is broadcast": lambda: of(nn.BatchNorm2d(64), None, last(1, 64, 1, 1)),
}


@pytest.mark.parametrize("make", NOT_OURS.values(), ids=NOT_OURS)
def test_all_else_is_left_to_the_modules(make: Callable[[], tuple[End, Tensor]]) -> None:
    end, x = make()
    assert not is_ours(end, x)
    out = copy.deepcopy(end.norm)(x)
    out = out if end.shortcut is None else out + end.shortcut
    assert torch.equal(end(x), out if end.relu is None else end.relu(out))


@compiled
def test_disabled_between_there_and_back() -> None:
    end, x = End(64, nn.ReLU(), last(8, 64, 20, 20)), last(8, 64, 20, 20).requires_grad_()
    grads = []
    for disabled in (contextlib.nullcontext(), kernels.disabled()):
        out = end(x)
        with disabled:
            grads.append(torch.autograd.grad((out**2).sum(), [x, *end.parameters()]))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@compiled
def test_frozen_norms_and_inputs_without_gradients() -> None:
    end, x = End(64, nn.ReLU()).requires_grad_(False), last(8, 64, 20, 20)
    end(x.clone().requires_grad_()).sum().backward()
    assert_equal(end, x)
    with torch.no_grad():
        assert end(x).grad_fn is None
    assert end.norm.num_batches_tracked == 2
