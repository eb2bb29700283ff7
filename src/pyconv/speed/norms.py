"""Batch norms in training, with the sum and the ReLU behind them in one pass there and one back.

A norm, a sum and a ReLU do little arithmetic and read and write all maps anew: one after the other
they take a third of a training step on the CPU. ``kernels/norms.h`` does the three at once, where
it can; elsewhere the modules are called one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import kernels
from .guard import is_large_map

CHANNELS = 16  # a multiple of which the kernels want: the widest vector


def norm_add_relu(
    x: Tensor, norm: nn.Module, relu: nn.Module | None = None, shortcut: Tensor | None = None
) -> Tensor:
    """``relu(norm(x) + shortcut)``, without those that are not given.

    ``[N, C, H, W]`` and a shortcut of the same shape -> ``[N, C, H, W]``. Computed at once in
    training on the CPU, for channels-last maps in float32 or bfloat16, if the norm is an
    ``nn.BatchNorm2d`` and the activation an ``nn.ReLU``. The guard was asked before.
    """
    if _is_ours(x, norm, relu, shortcut):
        assert isinstance(norm, nn.BatchNorm2d)
        out: Tensor = _NormAddRelu.apply(
            x, norm.weight, norm.bias, shortcut, norm, relu is not None
        )
        return out
    out = norm(x)
    if shortcut is not None:
        out = out + shortcut
    return out if relu is None else relu(out)


def _is_ours(x: Tensor, norm: nn.Module, relu: nn.Module | None, shortcut: Tensor | None) -> bool:
    return (
        norm.training
        and type(norm) is nn.BatchNorm2d
        and (relu is None or type(relu) is nn.ReLU)
        and not torch.compiler.is_compiling()
        and _has_statistics(norm)
        and is_large_map(x)
        and x.dtype in kernels.DTYPES
        and x.numel() > x.shape[1]
        and x.shape[1] == norm.num_features
        and x.shape[1] % CHANNELS == 0
        and (shortcut is None or (shortcut.shape, shortcut.dtype) == (x.shape, x.dtype))
        and kernels.available(x.dtype)
    )


def _has_statistics(norm: nn.BatchNorm2d) -> bool:
    """Whether a norm has all that the kernels read and write, as they want it."""
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return (
        norm.track_running_stats
        and norm.momentum is not None
        and all(
            t is not None and t.is_cpu and t.dtype == torch.float32 and t.is_contiguous()
            for t in tensors
        )
    )


def _call(entry: str, x: Tensor, **values: Any) -> None:
    """Call a kernel; tensors are passed by where they lie."""
    values = {k: v.data_ptr() if isinstance(v, Tensor) else v for k, v in values.items()}
    channels, threads = x.shape[1], torch.get_num_threads()
    shape = {"rows": x.numel() // channels, "channels": channels, "threads": threads}
    kernels.run(entry, x.dtype, kernels.Norm(x=x.data_ptr(), **shape, **values))


class _NormAddRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        norm: nn.BatchNorm2d,
        relu: bool,
    ) -> Tensor:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        out, mean, deviation = (torch.empty_like(t) for t in (x, weight, weight))
        running = {"running_mean": norm.running_mean, "running_variance": norm.running_var}
        kept = {"weight": weight, "bias": bias, "mean": mean, "deviation": deviation}
        numbers = {"relu": relu, "epsilon": norm.eps, "momentum": norm.momentum}
        _call("norm_forward", x, shortcut=shortcut, out=out, **running, **kept, **numbers)
        ctx.relu, ctx.epsilon = relu, norm.eps
        # What the ReLU lets through is seen from x again, but for a sum, from the result.
        ctx.save_for_backward(x, *kept.values(), out if relu and shortcut is not None else None)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, deviation, out = ctx.saved_tensors
        if torch.is_grad_enabled() or not kernels.available(x.dtype):
            return _by_pytorch(ctx, grad)  # a gradient is wanted of the gradient; or disabled since
        # What was saved may have been elsewhere in between, and come back otherwise.
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
        if out is not None:
            out = out.contiguous(memory_format=torch.channels_last)
        grad_x, grad_weight, grad_bias = (torch.empty_like(t) for t in (x, weight, bias))
        # Of a sum without a ReLU the gradient goes through as it is.
        grad_shortcut = None if out is None else torch.empty_like(x)
        grads = {"grad_weight": grad_weight, "grad_bias": grad_bias, "grad_shortcut": grad_shortcut}
        kept = {"weight": weight, "bias": bias, "mean": mean, "deviation": deviation}
        _call("norm_backward", x, grad=grad, out=out, grad_x=grad_x, relu=ctx.relu, **grads, **kept)
        if ctx.needs_input_grad[3] and grad_shortcut is None:
            grad_shortcut = grad
        return grad_x, grad_weight, grad_bias, grad_shortcut, None, None


def _by_pytorch(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients, by operators that can be differentiated again."""
    x, weight, bias, mean, deviation, out = ctx.saved_tensors
    if ctx.relu:
        if out is None:
            scale = weight.detach() * deviation
            shift = bias.detach() - mean * scale
            out = x.detach() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        grad = torch.where(out.detach() <= 0, 0, grad)
    grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
        grad, x, weight, None, None, mean, deviation, True, ctx.epsilon, [True] * 3
    )
    return grad_x, grad_weight, grad_bias, grad if ctx.needs_input_grad[3] else None, None, None
