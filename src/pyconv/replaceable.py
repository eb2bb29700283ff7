"""The seam between the networks and :mod:`pyconv.speed`: methods that may be computed faster.

``layers.py`` and ``resnet.py`` are plain PyTorch, and complete without the engine. What is
``replaceable`` there first asks this table for something equal and faster.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch  # noqa: F401  # torch.jit.script looks for the names of a plain method here

__all__ = ["FASTER", "replaceable"]

P = ParamSpec("P")
R = TypeVar("R")

# Replacements by the full name of what they replace; empty without pyconv.speed.
FASTER: dict[str, Callable[..., Any]] = {}


def replaceable(plain: Callable[P, R]) -> Callable[P, R]:
    """Let a function or method be computed by its entry in ``FASTER``, if there is one.

    A replacement takes the same arguments and declines by returning ``NotImplemented``; then the
    plain one runs, which is also there as ``__wrapped__``.
    """
    # Now, not in each call: torch.compile cannot read the name of a function.
    name = f"{plain.__module__}.{plain.__qualname__}"

    @wraps(plain)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        faster = FASTER.get(name)
        if faster is not None:
            found: R = faster(*args, **kwargs)
            if found is not NotImplemented:
                return found
        return plain(*args, **kwargs)

    return call
