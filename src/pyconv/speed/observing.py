"""What an example shows of a model: which modules it calls, and what convolutions compute then."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..onednn import CONVS, geometry_of
from .problem import Problem, problem_of

__all__ = ["Seen", "observe"]


class Seen(NamedTuple):
    """A module while the example ran."""

    calls: int  # how often it was called
    problem: Problem | None = None  # of a convolution, when it was called first
    images: int = 0


@torch.no_grad()
def observe(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Seen]:
    """Run a model on inputs, and tell of each module, by its name, what was seen of it."""
    seen: dict[str, Seen] = {}

    def note(name: str, module: nn.Module, args: Any, options: dict[str, Any]) -> None:
        if name in seen:
            seen[name] = seen[name]._replace(calls=seen[name].calls + 1)
            return
        seen[name] = Seen(1)
        given = [x for x in (*args, *options.values()) if isinstance(x, Tensor)]
        if not given or not isinstance(module, CONVS) or isinstance(module.padding, str):
            return
        x = given[0]
        if module.padding_mode != "zeros":
            x = F.pad(x, list(module._reversed_padding_repeated_twice), module.padding_mode)
        if x.dim() == module.weight.dim():
            problem = problem_of(x, module.weight, geometry_of(module), "prepared")
            seen[name] = Seen(1, problem, x.shape[0])

    handles = [
        module.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen
