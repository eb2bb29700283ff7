"""Norms in training with the sum and the ReLU behind them: PyTorch's numbers, and its manners."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from equality import compiled, last
from torch import Tensor, nn

from pyconv.speed import kernels
from pyconv.speed.norms import norm_add_relu

EXACT = pytest.mark.parametrize("exact", [True, False], ids=["float32", "bfloat16"])


def norm(channels: int, **options: Any) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(channels, **options)
    if module.affine:
        nn.init.uniform_(module.weight, -1, 2)
        nn.init.normal_(module.bias)
    return module


def answers(
    x: Tensor, module: nn.Module, relu: bool, shortcut: Tensor | None, grad: Tensor
) -> dict[str, Tensor]:
    """All that comes of a step: the map, the gradients, the statistics."""
    module = copy.deepcopy(module)
    x = x.clone().requires_grad_()
    shortcut = None if shortcut is None else shortcut.clone().requires_grad_()
    out = norm_add_relu(x, module, nn.ReLU(inplace=True) if relu else None, shortcut)
    out.backward(grad)
    found = {
        "out": out,
        "on x": x.grad,
        "on shortcut": shortcut.grad if shortcut is not None else None,
    }
    found |= {f"on {name}": p.grad for name, p in module.named_parameters()}
    found |= dict(module.named_buffers())
    return {name: t.detach().double() for name, t in found.items() if t is not None}


def is_ours(x: Tensor, module: nn.Module, *others: Any) -> bool:
    with torch.enable_grad():
        out = norm_add_relu(x.clone().requires_grad_(), module, *others)
    return out.grad_fn is not None and "_NormAddRelu" in type(out.grad_fn).__name__


def errors(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    return {name: float((found[name] - t).norm() / t.norm()) for name, t in truth.items()}


@compiled
@pytest.mark.parametrize("summed", [False, True])
def test_what_is_saved_may_come_back_in_another_layout(summed: bool) -> None:
    """As from where hooks took it meanwhile, to compress it or to make room."""
    torch.manual_seed(0)
    x, grad = last(4, 64, 40, 41), last(4, 64, 40, 41)
    shortcut = last(4, 64, 40, 41) if summed else None
    module = norm(64)
    assert is_ours(x, module, nn.ReLU(), shortcut)
    truth = answers(x, module, True, shortcut, grad)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous(), lambda t: t):
        found = answers(x, module, True, shortcut, grad)
    assert max(errors(found, truth).values()) == 0


CASES = {
    "stem": (8, 64, 40, 41, True, False),
    "end of a block": (4, 256, 15, 13, True, True),
    "shortcut": (4, 128, 21, 16, False, False),
    "sum without a ReLU": (3, 48, 31, 33, False, True),
    "many channels": (16, 2048, 3, 2, True, True),
}


@compiled
@EXACT
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_has_the_numbers_of_double_precision(
    case: tuple[int, int, int, int, bool, bool], exact: bool
) -> None:
    torch.manual_seed(0)
    *shape, relu, summed = case
    dtype = torch.float32 if exact else torch.bfloat16
    x, grad = last(*shape, dtype=dtype) * 3 + 2, last(*shape, dtype=dtype)
    shortcut = last(*shape, dtype=dtype) if summed else None
    module = norm(shape[1])
    assert is_ours(x, module, nn.ReLU() if relu else None, shortcut)
    found = answers(x, module, relu, shortcut, grad)
    wide = None if shortcut is None else shortcut.double()
    truth = answers(x.double(), copy.deepcopy(module).double(), relu, wide, grad.double())
    with kernels.disabled():
        plain = answers(x, module, relu, shortcut, grad)
    for name, error in errors(found, truth).items():
        assert error < (2e-6 if exact else max(1.2 * errors(plain, truth)[name], 3e-3)), name


@compiled
def test_a_large_mean_costs_no_digits() -> None:
    torch.manual_seed(0)
    x = last(8, 64, 20, 20) + 300
    x[0, :, 0, 0] = 0  # as at the corner of a padded map
    module = norm(64)
    found = answers(x, module, True, None, torch.ones_like(x))
    truth = answers(
        x.double(), copy.deepcopy(module).double(), True, None, torch.ones_like(x).double()
    )
    assert errors(found, truth)["running_var"] < 1e-6
    # The map itself is a difference of large numbers: as exact as PyTorch's.
    with kernels.disabled():
        plain = answers(x, module, True, None, torch.ones_like(x))
    assert errors(found, truth)["out"] < 2 * errors(plain, truth)["out"] + 1e-6


@compiled
def test_what_is_no_number_stays_none() -> None:
    x = last(8, 64, 20, 20)
    x[1, 5, 2, 3] = torch.nan
    x[1, 6, 2, 3] = torch.inf
    module = norm(64)
    out = norm_add_relu(x, module, nn.ReLU())
    assert out[:, 5:7].isnan().all() and not out[:, :5].isnan().any()
    assert module.running_var is not None and module.running_var[5:7].isnan().all()


@compiled
def test_steps_repeat_bit_by_bit() -> None:
    x, grad, module = last(8, 64, 20, 20), last(8, 64, 20, 20), norm(64)
    first, second = (answers(x, module, True, x, grad) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@compiled
def test_gradients_of_gradients() -> None:
    def penalty(module: nn.Module) -> list[Tensor]:
        x = start.clone().requires_grad_()
        out = norm_add_relu(x, module, nn.ReLU(), 2 * x)
        (slope,) = torch.autograd.grad((out**2).sum(), x, create_graph=True)
        return list(torch.autograd.grad((slope**2).sum(), [x, *module.parameters()]))

    torch.manual_seed(0)
    start, module = last(8, 64, 20, 20), norm(64)
    assert is_ours(start, module)
    found = penalty(module)
    with kernels.disabled():
        expected = penalty(module)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


NOT_OURS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "in eval mode": lambda: (last(8, 64, 20, 20), norm(64).eval()),
    "a group norm": lambda: (last(8, 64, 20, 20), nn.GroupNorm(4, 64)),
    "another activation": lambda: (last(8, 64, 20, 20), norm(64), nn.SiLU()),
    "without weights": lambda: (last(8, 64, 20, 20), norm(64, affine=False)),
    "without statistics": lambda: (last(8, 64, 20, 20), norm(64, track_running_stats=False)),
    "with a plain average": lambda: (last(8, 64, 20, 20), norm(64, momentum=None)),
    "NCHW": lambda: (torch.randn(8, 64, 20, 20), norm(64)),
    "small": lambda: (last(1, 64, 20, 20), norm(64)),
    "odd channels": lambda: (last(8, 63, 20, 20), norm(63)),
    "double": lambda: (last(8, 64, 20, 20).double(), norm(64).double()),
    "all in bfloat16": lambda: (last(8, 64, 20, 20).bfloat16(), norm(64).bfloat16()),
    "a sum that is broadcast": lambda: (last(8, 64, 20, 20), norm(64), None, last(1, 64, 1, 1)),
}


@pytest.mark.parametrize("arguments", NOT_OURS.values(), ids=NOT_OURS)
def test_all_else_is_left_to_the_modules(arguments: Callable[[], tuple[Any, ...]]) -> None:
    x, module, *others = arguments()
    relu, shortcut = [*others, None, None][:2]
    assert not is_ours(x, module, relu, shortcut)
    out = copy.deepcopy(module)(x)
    out = out if shortcut is None else out + shortcut
    assert torch.equal(norm_add_relu(x, module, relu, shortcut), out if relu is None else relu(out))


@compiled
def test_disabled_between_there_and_back() -> None:
    x, module = last(8, 64, 20, 20), norm(64)
    grads = []
    for disabled in (contextlib.nullcontext(), kernels.disabled()):
        y = x.clone().requires_grad_()
        out = norm_add_relu(y, module, nn.ReLU(), y)
        with disabled:
            (out**2).sum().backward()
        grads.append(y.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@compiled
def test_frozen_norms_and_inputs_without_gradients() -> None:
    x, module = last(8, 64, 20, 20), norm(64)
    module.requires_grad_(False)
    y = x.clone().requires_grad_()
    norm_add_relu(y, module, nn.ReLU()).sum().backward()
    assert y.grad is not None and module.weight.grad is None
    with torch.no_grad():
        assert norm_add_relu(x, module, nn.ReLU()).grad_fn is None
    assert module.num_batches_tracked == 2
