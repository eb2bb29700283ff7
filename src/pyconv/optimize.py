"""An equal, faster model for inference: norms folded, every level computed its fastest way."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .direct import fits
from .folding import fold, foldable, is_plain_relu, pairs, replace
from .layers import GroupedConv, GroupedConv2d, _PyConvNd
from .lowering import Lowering
from .machine import computes_in
from .prepared import (
    Conv,
    Convert,
    ConvertBack,
    DirectPyramid,
    Frozen,
    PreparedConv,
    SquareConv2d,
    geometry_of,
)
from .problem import Problem, ones, problem_of
from .rule import nearest
from .timing import fastest, race

__all__ = ["optimize"]


def optimize(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> nn.Module:
    """Return a new module for inference that gives the numbers of ``model``, sooner.

    Batch norms are folded into the convolutions before them, images run channels-last, and each
    grouped convolution runs the fastest equal way, with its weights prepared once. The result is
    of the same class and has its methods, without gradients; it can be saved, copied, exported and
    compiled. ``model`` stays as it is.

    Args:
        model: Any module in eval mode; what it holds besides pyramids runs as before.
        example_inputs: What it will be called with: the ways are timed on it, on its device.
            Without it a rule decides that was measured beforehand.
        dtype: Convert to this dtype, inputs included; outputs come in it. Default: as it is. A
            processor without arithmetic of its own for it computes in float32.
        compile: Run the result through ``torch.compile`` with frozen weights; the first call for
            each shape takes its time.

    Raises:
        ValueError: if the model is in training mode.

    Example:
        >>> fast = optimize(model.eval(), images, dtype=torch.bfloat16)
        >>> logits = fast(images)
    """
    busy = next((name for name, module in model.named_modules() if module.training), None)
    if busy is not None:
        what = f"its {busy!r}" if busy else "this one"
        raise ValueError(
            f"optimize() makes a model for inference, and {what} is in training mode. Call "
            "model.eval() first; train on the model itself."
        )
    fast = copy.deepcopy(model).requires_grad_(False)
    asked = dtype or next((p.dtype for p in fast.parameters() if p.is_floating_point()), None)
    on = next((p.device.type for p in fast.parameters()), "cpu")
    if asked is not None and not computes_in(on, asked):
        dtype = torch.float32  # the sooner way to numbers of that dtype, and the nearer one
    norms = pairs(fast, foldable)
    relus = pairs(fast, is_plain_relu)
    for conv_name, norm_name in norms.items():
        fold(fast, conv_name, norm_name)
    if dtype is not None:
        fast.to(dtype)
    flat = [module for module in fast.modules() if isinstance(module, nn.Conv2d)]
    for module in flat:
        if module.in_channels == 1:
            continue  # both layouts at once, which torch.compile confuses when it freezes
        module.to(memory_format=torch.channels_last)
    convert = Convert(dtype, images=bool(flat))
    seen: dict[str, tuple[Problem, int]] = {}
    pyramids: dict[str, list[Conv]] = {}
    squares: dict[str, nn.Conv2d] = {}
    if example_inputs is not None:
        pyramids, squares = _joinable(fast), _squares(fast) if compile else {}
        first = {name: levels[0] for name, levels in pyramids.items()} | squares
        relus = {
            name: relus[norms.get(name, name)] for name in first if norms.get(name, name) in relus
        }
        seen, relus = _observe(fast, convert.all(_tuple(example_inputs)), first, relus)
    timed: dict[tuple[Problem, int], Lowering] = {}
    for name, module in list(fast.named_modules()):
        if _is_grouped(module):
            lowering = _decide(module, seen.get(name), timed, compile)
            fast = replace(fast, name, PreparedConv(module, lowering))
    raced: dict[Hashable, Any] = {}
    chosen: dict[str, DirectPyramid | SquareConv2d] = {}
    for name in [name for name in pyramids if name in seen]:
        pyramid = fast.get_submodule(name)
        joint = _join(pyramid, pyramids[name], seen[name], raced, compile)
        if joint is not None:
            chosen[name] = joint
            fast = replace(fast, name, joint)
    for name in [name for name in squares if name in seen]:
        if _is_faster_in_squares(squares[name], seen[name], raced):
            chosen[name] = SquareConv2d.take(squares[name])
    for name in [name for name in chosen if name in relus]:
        chosen[name].relu = True
        fast = replace(fast, relus[name], nn.Identity())
    back = ConvertBack(asked if dtype is not None and dtype != asked else None)
    if compile:
        return Frozen(fast, convert, back)
    fast.register_forward_pre_hook(convert)
    if back.dtype is not None:
        fast.register_forward_hook(back)
    return fast


def _tuple(inputs: Tensor | Sequence[Any]) -> tuple[Any, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def _is_grouped(module: nn.Module) -> TypeGuard[Conv]:
    """Also a plain convolution of the user's own; not one that may compute otherwise."""
    if _is_patched(module):
        return False
    if type(module) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return isinstance(module, GroupedConv)
    conv = cast(Conv, module)
    return conv.groups > 1 and not isinstance(conv.padding, str)


@torch.no_grad()
def _observe(
    model: nn.Module,
    inputs: tuple[Any, ...],
    first: dict[str, Conv],
    relus: dict[str, str],
) -> tuple[dict[str, tuple[Problem, int]], dict[str, str]]:
    """What convolutions have to do when the model runs, and for how many images.

    Of each grouped one, and of those that are ``first`` in a module, by its name. And of
    ``relus``, by the name of such a module, those that took its output, once.
    """
    seen: dict[str, tuple[Problem, int]] = {}
    calls: Counter[str] = Counter()
    outputs: dict[str, Any] = {}
    met: dict[str, str] = {}

    def note(name: str, module: nn.Module, args: Any, options: dict[str, Any]) -> None:
        x, conv = [*args, *options.values()][0], first.get(name, cast(Conv, module))
        if conv.padding_mode != "zeros":
            x = F.pad(x, list(conv._reversed_padding_repeated_twice), conv.padding_mode)
        if x.dim() == conv.weight.dim():
            problem = problem_of(x, conv.weight, geometry_of(conv), "prepared")
            seen.setdefault(name, (problem, x.shape[0]))

    def keep(name: str, module: nn.Module, args: Any, output: Any) -> None:
        calls[name] += 1
        outputs[name] = output

    def meet(name: str, relu: nn.Module, args: Any, options: dict[str, Any]) -> None:
        calls[relus[name]] += 1
        if [*args, *options.values()][0] is outputs.get(name):
            met[name] = relus[name]

    handles = [
        module.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, module in model.named_modules()
        if _is_grouped(module) or name in first
    ]
    for name, relu in relus.items():
        one, other = model.get_submodule(name), model.get_submodule(relu)
        handles.append(one.register_forward_hook(partial(keep, name)))
        handles.append(other.register_forward_pre_hook(partial(meet, name), with_kwargs=True))
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen, {name: relu for name, relu in met.items() if calls[name] == calls[relu] == 1}


def _joinable(model: nn.Module) -> dict[str, list[Conv]]:
    """The levels of pyramids that are nothing but plain convolutions and a concatenation."""
    return {
        name: cast(list[Conv], list(module.levels))
        for name, module in model.named_modules()
        if isinstance(module, _PyConvNd)
        and type(module).forward is _PyConvNd.forward
        and all(type(level) in (nn.Conv2d, GroupedConv2d) for level in module.levels)
        and all(_is_plain(level) for level in module.levels)
        and not any(_is_patched(m) for m in module.modules())
    }


def _squares(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Plain convolutions that may run in squares; ``kernels/winograd.h`` knows for sure."""
    pyramids = [module for module in model.modules() if isinstance(module, _PyConvNd)]
    inside = {module for pyramid in pyramids for module in pyramid.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Conv2d
        and module not in inside
        and _is_plain(module)
        and not _is_patched(module)
        and module.weight.dtype == torch.float32
        and (module.kernel_size, module.stride, module.dilation) == ((3, 3), (1, 1), (1, 1))
        and module.groups == 1
        and module.in_channels >= 64
        and module.out_channels % 16 == 0
    }


def _is_plain(conv: nn.Module) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _is_patched(module: nn.Module) -> bool:
    """Whether somebody watches this one module, or has it compute otherwise than its class."""
    own = {"forward", "_conv_forward"} & vars(module).keys()
    return bool(own or module._forward_hooks or module._forward_pre_hooks)


def _decide(
    conv: Conv,
    seen: tuple[Problem, int] | None,
    timed: dict[tuple[Problem, int], Lowering],
    compiled: bool,
) -> Lowering:
    """The way pinned, or the fastest on what was seen, or the one that the rule expects to be."""
    pinned = getattr(conv, "lowering", None)
    if pinned is not None:
        return cast(Lowering, pinned)
    if seen is None:
        map_unknown = conv.weight.new_empty(1, conv.in_channels, *(0,) * len(conv.stride))
        layout = torch.channels_last if map_unknown.dim() == 4 else torch.contiguous_format
        x = map_unknown.contiguous(memory_format=layout)
        return nearest(problem_of(x, conv.weight, geometry_of(conv), "prepared"))
    if seen not in timed:
        timed[seen] = fastest(*seen, compiled)
    return timed[seen]


def _join(
    pyramid: nn.Module,
    convs: list[Conv],
    seen: tuple[Problem, int],
    raced: dict[Hashable, Any],
    compiled: bool,
) -> DirectPyramid | None:
    """The pyramid with its levels in one pass, all or all grouped ones; None if it is faster."""
    if any(getattr(conv, "lowering", None) for conv in convs):
        return None  # pinned
    problem, batch = seen
    levels = list(cast(_PyConvNd, pyramid).levels)
    x = ones(problem, batch, problem.in_channels, *problem.size)
    shapes = tuple((conv.weight.shape, geometry_of(conv)) for conv in convs)
    if (seen, shapes) not in raced:
        grouped = [n for n, conv in enumerate(convs) if conv.groups > 1]
        choices: dict[int, Callable[[], object]] = {}
        for first in {0, min(grouped, default=0)}:
            parts = [conv.weight for conv in convs[first:]]
            if fits(x, parts, [geometry_of(conv) for conv in convs[first:]]):
                joint = DirectPyramid(levels[:first], convs[first:])
                choices[first] = partial(joint.run, x, joint.prepare() if compiled else None)
        choices[len(levels)] = partial(pyramid, x)
        times = race(choices)
        raced[seen, shapes] = min(times, key=times.__getitem__)
    first = raced[seen, shapes]
    if first == len(levels):
        return None
    return DirectPyramid(levels[:first], convs[first:], frozen=compiled)


FEW = 64  # pixels: to read the weights of squares, which are more, takes longer than to compute


def _is_faster_in_squares(
    conv: nn.Conv2d, seen: tuple[Problem, int], raced: dict[Hashable, Any]
) -> bool:
    problem, batch = seen
    x = ones(problem, batch, problem.in_channels, *problem.size)
    geometry = geometry_of(conv)
    if batch * math.prod(problem.size) < FEW or not fits(x, [conv.weight], [geometry]):
        return False
    if seen not in raced:
        square = SquareConv2d.take(copy.copy(conv))
        times = race({True: partial(square.run, x, *square.prepare()), False: partial(conv, x)})
        raced[seen] = min(times, key=times.__getitem__)
    return bool(raced[seen])
