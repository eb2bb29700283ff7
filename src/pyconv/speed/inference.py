"""An equivalent, faster model for inference: norms folded, levels by their fastest algorithm."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeGuard, TypeVar, cast, overload

import torch
from torch import Tensor, nn

from ..layers import _PyConvNd
from ..onednn import CONVS, Conv, geometry_of
from ..system.processor import computes_in
from .algorithms import Algorithm
from .choice import fastest, pinned, race
from .direct import fits
from .folding import Seen, fold, observe, pairs, replace
from .guard import is_overridden
from .prepared import Convert, DirectPyramid, Frozen, PreparedConv
from .problem import Problem, ones, problem_of
from .table import nearest, table_of

M = TypeVar("M", bound=nn.Module)
Layer = _PyConvNd | Conv
Inputs = Tensor | Sequence[Any] | None
Dtype = torch.dtype | None
Yes = Literal[True]
No = Literal[False]


@overload  # a layer by itself is replaced
def optimize(
    model: Layer, example_inputs: Inputs = None, *, dtype: Dtype = None, compile: No = False
) -> nn.Module: ...
@overload
def optimize(
    model: M, example_inputs: Inputs = None, *, dtype: Dtype = None, compile: No = False
) -> M: ...
@overload
def optimize(
    model: nn.Module, example_inputs: Inputs = None, *, dtype: Dtype = None, compile: Yes
) -> Frozen: ...
@overload
def optimize(
    model: nn.Module, example_inputs: Inputs = None, *, dtype: Dtype = None, compile: bool
) -> nn.Module: ...
def optimize(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | None = None,
    *,
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> nn.Module:
    """Return an equivalent model for inference that runs faster.

    Batch norms are folded into the convolutions before them, images run channels-last, and each
    grouped convolution is computed by the fastest equal algorithm, with its weights prepared once.
    The result has no gradients. It is of the same class and has its methods; it can be saved,
    copied, exported and compiled. With ``compile`` it is a ``Frozen`` module, which calls such a
    one through ``torch.compile`` and passes its attributes on. ``model`` stays as it is.

    Args:
        model: Any module in eval mode; what it holds besides pyramids runs as before.
        example_inputs: What it will be called with: the algorithms are timed on it, on its device.
            Without it a table decides that was measured beforehand.
        dtype: Convert to this dtype, inputs of a call included; outputs come in it. Default: as
            it is. A processor without arithmetic of its own for it computes in float32.
        compile: Run the result through ``torch.compile`` with frozen weights; the first call for
            each shape takes its time.

    Raises:
        ValueError: if the model is in training mode, or on the meta device with an example.

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
    fast = _copy(model).requires_grad_(False)
    asked = dtype or next((p.dtype for p in fast.parameters() if p.is_floating_point()), None)
    on = next((p.device.type for p in fast.parameters()), "cpu")
    if asked is not None and not computes_in(on, asked):
        dtype = torch.float32  # faster, and nearer to the truth
    seen: dict[str, Seen] = {}
    if example_inputs is not None:
        if on == "meta":
            raise ValueError(
                "A model on the meta device cannot be timed: load it first, or give no example."
            )
        own = Convert(next((p.dtype for p in fast.parameters() if p.is_floating_point()), None))
        one = isinstance(example_inputs, Tensor)
        seen = observe(fast, own.all((example_inputs,) if one else tuple(example_inputs)))
    for conv_name, norm_name in pairs(fast, seen).items():
        fold(fast, conv_name, norm_name)
    convert = _lay_out(fast, dtype, asked)
    fast = _choose(fast, {name: _laid_out(each, dtype) for name, each in seen.items()}, compile)
    if compile:
        return Frozen(fast, convert).eval()
    fast.register_forward_pre_hook(convert, with_kwargs=True)
    if convert.outputs is not None:
        fast.register_forward_hook(convert.back)
    return fast.eval()


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy, also of weights that are computed, as pruning leaves them."""
    attributes = [value for module in model.modules() for value in vars(module).values()]
    computed = [value for value in attributes if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def _lay_out(model: nn.Module, dtype: torch.dtype | None, asked: torch.dtype | None) -> Convert:
    """Bring weights to a dtype and to channels-last; what does so with inputs, and outputs back."""
    if dtype is not None:
        model.to(dtype)
    flat = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    for module in flat:
        # With one channel both layouts are one, which torch.compile confuses when it freezes.
        if module.in_channels > 1:
            module.to(memory_format=torch.channels_last)
    outputs = asked if dtype is not None and dtype != asked else None
    return Convert(dtype, bool(flat), outputs)


def _laid_out(seen: Seen, dtype: torch.dtype | None) -> Seen:
    """What was seen of a module, once the model is in its dtype and layout."""
    problem = seen.problem
    if problem is None:
        return seen
    last = len(problem.kernel) == 2 and problem.in_channels > 1
    dtype = problem.dtype if dtype is None else dtype
    return seen._replace(problem=problem._replace(channels_last=last, dtype=dtype))


@torch.no_grad()
def _choose(model: nn.Module, seen: Mapping[str, Seen], compiled: bool) -> nn.Module:
    """Grouped convolutions by their best algorithm, and pyramids in one pass where that is faster.

    Timed on what was seen of them, else by the table.
    """
    pyramids = _joinable(model)
    timed: dict[tuple[Problem, int], Algorithm] = {}
    for name, module in list(model.named_modules()):
        if _is_grouped(module):
            algorithm = _decide(module, seen.get(name), timed, compiled)
            model = replace(model, name, PreparedConv(module, algorithm))
    apart: dict[Hashable, int] = {}  # how many levels are best left out of the one pass
    for name, levels in pyramids.items():
        first = seen.get(next(iter(levels)))
        if first is not None and first.problem is not None:
            joint = _join(model.get_submodule(name), [*levels.values()], first, apart)
            model = model if joint is None else replace(model, name, joint)
    return model


def _is_grouped(module: nn.Module) -> TypeGuard[Conv]:
    """A level, or a convolution of the user's own; not one that may compute otherwise."""
    if type(module) not in CONVS or is_overridden(module):
        return False
    conv = cast(Conv, module)
    return conv.groups > 1 and not isinstance(conv.padding, str)


def _joinable(model: nn.Module) -> dict[str, dict[str, Conv]]:
    """The levels of pyramids that are nothing but plain convolutions and a concatenation."""
    names = {module: name for name, module in model.named_modules()}
    return {
        name: {names[level]: cast(Conv, level) for level in module.levels}
        for name, module in model.named_modules()
        if isinstance(module, _PyConvNd)
        and type(module).forward is _PyConvNd.forward
        and all(
            type(level) is nn.Conv2d
            and level.padding_mode == "zeros"
            and not isinstance(level.padding, str)
            for level in module.levels
        )
        and not any(is_overridden(m) for m in module.modules())
    }


def _decide(
    conv: Conv, seen: Seen | None, timed: dict[tuple[Problem, int], Algorithm], compiled: bool
) -> Algorithm:
    """The algorithm pinned, or the fastest on what was seen, or what the table says."""
    pin = pinned(conv)
    if pin is not None:
        return pin
    if seen is None or seen.problem is None:
        map_unknown = conv.weight.new_empty(1, conv.in_channels, *(0,) * len(conv.stride))
        problem = problem_of(map_unknown, conv.weight, geometry_of(conv), "prepared")
        problem = problem._replace(channels_last=len(conv.stride) == 2)
        return nearest(problem, table_of(problem.device))
    key = seen.problem, seen.images
    if key not in timed:
        timed[key] = fastest(*key, compiled)
    return timed[key]


def _join(
    pyramid: nn.Module, convs: list[Conv], seen: Seen, apart: dict[Hashable, int]
) -> DirectPyramid | None:
    """The pyramid with its levels in one pass, all or all grouped ones; None if it is faster."""
    if any(pinned(conv) for conv in convs):
        return None  # pinned
    problem, batch = seen.problem, seen.images
    assert problem is not None
    levels = list(cast(_PyConvNd, pyramid).levels)
    x = ones(problem, batch, problem.in_channels, *problem.size)
    shapes = tuple((conv.weight.shape, geometry_of(conv)) for conv in convs)
    key = problem, batch, shapes
    if key not in apart:
        grouped = [n for n, conv in enumerate(convs) if conv.groups > 1]
        choices: dict[int, Callable[[], object]] = {}
        for first in {0, min(grouped, default=0)}:
            parts = [conv.weight for conv in convs[first:]]
            if fits(x, parts, [geometry_of(conv) for conv in convs[first:]]):
                choices[first] = partial(DirectPyramid(levels[:first], convs[first:]), x)
        choices[len(levels)] = partial(pyramid, x)
        times = race(choices)
        apart[key] = min(times, key=times.__getitem__)
    first = apart[key]
    if first == len(levels):
        return None
    return DirectPyramid(levels[:first], convs[first:])
