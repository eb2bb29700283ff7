"""The one kind of test of what is faster: it equals the plain computation."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from pyconv.replaceable import FASTER
from pyconv.speed import kernels
from pyconv.system import compiling


def has_compiler() -> bool:
    try:
        return bool(compiling._compiler())
    except compiling.CompilerError:
        return False


# Where there is one, kernels that do not compile are a failure and no reason to skip.
compiled = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler here")


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within, layers and blocks are computed as they stand: nothing is replaced."""
    with mock.patch.dict(FASTER, clear=True):
        yield


def last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random numbers, channels-last."""
    return torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last)


def settled(model: nn.Module) -> nn.Module:
    """As if trained, in eval mode: norms that do something, and that a wrong fold gets wrong."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.bias):
                if tensor is not None:
                    nn.init.uniform_(tensor, -0.5, 0.5)
            for tensor in (module.running_var, module.weight):
                if tensor is not None:
                    nn.init.uniform_(tensor, 0.5, 1.8)
    return model.eval()


def copies(model: nn.Module) -> list[nn.Module]:
    """As it is copied, pickled, and saved and loaded."""
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    pickled = pickle.loads(pickle.dumps(model))
    return [copy.deepcopy(model), pickled, torch.load(buffer, weights_only=False)]


def error(value: Tensor, target: Tensor) -> float:
    """The distance of two tensors, relative to the second."""
    value, target = value.detach().double().cpu(), target.detach().double().cpu()
    return float((value - target).norm() / target.norm().clamp_min(1e-30))


def learn(
    module: nn.Module,
    x: Tensor,
    autocast: bool = False,
    twice: bool = False,
    by: Callable[[nn.Module], Any] = lambda module: module,
) -> dict[str, Tensor]:
    """All that comes of a step: the map, the gradients of a function of it, the buffers.

    With ``twice`` the function is the size of a gradient, as in a gradient penalty; ``by`` makes of
    the module what is called, as torch.compile does.
    """
    module, x = copy.deepcopy(module), x.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = by(module)(x)
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    leaves = [x, *(module.get_parameter(name) for name in names)]
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    loss = (out.double() * weight + out.double().tanh()).sum()
    if twice:
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        loss = torch.stack([(grad.double() ** 2).sum() for grad in first]).sum()
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    found = {"out": out, **dict(zip(["x", *names], grads, strict=True))}
    found |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    return {name: t.detach() for name, t in found.items() if t is not None}


def assert_equal(
    module: nn.Module, x: Tensor, bound: float = 1e-5, of_gradients: float | None = None, **how: Any
) -> None:
    """A step is as near to that in double precision as the plain one, or within a bound.

    Where a ReLU follows, rounding decides on which side of 0 a number lies: another bound is for
    the gradients then.
    """
    found = learn(module, x, **how)
    with plain(), kernels.disabled():
        usual = learn(module, x, **how)
        truth = learn(copy.deepcopy(module).double(), x.double(), twice=how.get("twice", False))
    assert found.keys() == truth.keys()
    for name, target in truth.items():
        assert found[name].shape == target.shape and found[name].dtype == usual[name].dtype, name
        is_result = name == "out" or "running" in name
        own = bound if is_result or of_gradients is None else of_gradients
        limit = max(own, 1.2 * error(usual[name], target))
        assert error(found[name], target) < limit, name


def functions_of(out: Tensor) -> set[str]:
    """The names of the functions that autograd would call on the way back."""
    seen: set[Any] = set()
    waiting: list[Any] = [out.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return {type(node).__name__ for node in seen}
