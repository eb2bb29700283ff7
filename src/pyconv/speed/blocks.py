"""What stands in for the forwards of ``layers.py`` and ``resnet.py``: the same, computed faster.

The guard has been asked: the parts of a block are modules that nobody watches or changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import _PyConvNd
from ..onednn import CONVS, Conv, computed_in, geometry_of
from ..resnet import PyConvBlock, _BasicBlock, in_turn
from . import kernels
from .algorithms import NATIVE, Algorithms
from .choice import choose, choose_all, pinned, suits
from .gradients import convolve
from .guard import is_large_map
from .norms import norm_add_relu


def pyramid(layer: _PyConvNd, x: Tensor) -> Any:  # a tensor, or NotImplemented
    """A pyramid: in training on the CPU all levels at once, else each by its own algorithm."""
    levels = layer.levels
    if not all(type(level) in CONVS and not isinstance(level.padding, str) for level in levels):
        return NotImplemented
    convs: Any = levels
    if _learns_at_once(x, convs):
        geometries = [geometry_of(conv) for conv in convs]
        weights, biases = [conv.weight for conv in convs], [conv.bias for conv in convs]
        pins = [pinned(conv) if conv.groups > 1 else NATIVE for conv in convs]
        chosen = choose_all(x, weights, geometries, pins)
        return convolve(x, weights, biases, geometries, chosen)
    return torch.cat([_conv(conv, x) for conv in convs], dim=-1 - layer.dims)


def _learns_at_once(x: Tensor, levels: list[Conv]) -> bool:
    """Whether the kernels for the CPU may train the levels together."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and is_large_map(x)
        and len(levels) > 1
        and x.shape[1] == levels[0].in_channels
        and all(level.padding_mode == "zeros" for level in levels)
        and all(level.weight.requires_grad for level in levels)
        and computed_in(x) in kernels.DTYPES
        and kernels.available(computed_in(x))
    )


def _conv(module: nn.Module, x: Tensor) -> Tensor:
    """A module; if it is a grouped convolution, by the algorithm that is pinned or chosen."""
    if type(module) not in CONVS or isinstance(module.padding, str):
        return module(x)  # type: ignore[no-any-return]
    conv: Any = module
    if conv.padding_mode != "zeros":
        x = F.pad(x, conv._reversed_padding_repeated_twice, conv.padding_mode)
    weight, geometry, pin = conv.weight, geometry_of(conv), pinned(conv)
    if pin and suits(x, weight, geometry):  # else it is left to PyTorch, pinned or not
        algorithms = Algorithms(pin, pin, pin)
    else:
        algorithms = choose(x, weight, geometry)
    return convolve(x, [weight], [conv.bias], [geometry], [algorithms])


def bottleneck(block: PyConvBlock, x: Tensor) -> Tensor:
    """1x1, pyramid, 1x1: norms, sum and ReLU in one pass each; the pyramid as it is fastest."""
    out = norm_add_relu(block.conv1(x), block.bn1, block.relu)
    out = norm_add_relu(_grouped(block.conv2, out), block.bn2, block.relu)
    return norm_add_relu(block.conv3(out), block.bn3, block.relu, _shortcut(block.downsample, x))


def basic_block(block: _BasicBlock, x: Tensor) -> Tensor:
    """Two convolutions, of which the first and maybe the second are pyramids."""
    out = norm_add_relu(_grouped(block.conv1, x), block.bn1, block.relu)
    return norm_add_relu(
        _grouped(block.conv2, out), block.bn2, block.relu, _shortcut(block.downsample, x)
    )


def pays(block: PyConvBlock | _BasicBlock) -> bool:
    """Whether a block has norms to fuse, or a pyramid of one level with groups."""
    first = block.conv2 if isinstance(block, PyConvBlock) else block.conv1
    return (block.training and torch.is_grad_enabled()) or _is_grouped(first)


def _is_grouped(module: Any) -> bool:
    return type(module) in CONVS and bool(module.groups > 1)


def _grouped(module: nn.Module, x: Tensor) -> Tensor:
    """A pyramid of one level is a convolution, which has nobody else to compute it faster."""
    return _conv(module, x) if _is_grouped(module) else module(x)


def _shortcut(downsample: nn.Module | None, x: Tensor) -> Tensor:
    if downsample is None:
        return x
    return in_turn(downsample, x) if type(downsample) is nn.Sequential else downsample(x)


def sequence(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Modules one after the other; each norm in one pass with the ReLU behind it."""
    rest = list(modules)
    while rest:
        module = rest.pop(0)
        if isinstance(module, nn.BatchNorm2d):
            relu = rest.pop(0) if rest and type(rest[0]) is nn.ReLU else None
            x = norm_add_relu(x, module, relu)
        else:
            x = module(x)
    return x
