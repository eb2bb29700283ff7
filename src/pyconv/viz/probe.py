"""What a network gives on the way, and at the end; it is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..data.preprocess import Preprocess, expected_pixels

__all__ = ["at_rest", "output_of", "pixels_for"]


class _ReachedError(Exception):
    """The module has computed; its output is the argument."""


def pixels_for(model: nn.Module, channels: int) -> Preprocess:
    """What pixels a model expects, if it knows, as one of :func:`pyconv.load`; else ImageNet's."""
    transforms = getattr(model, "transforms", None)
    own = transforms() if callable(transforms) else None
    if isinstance(own, Preprocess):
        return own
    return expected_pixels(channels=channels, network=f"A {type(model).__name__}")


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Within, a model is in eval mode; after, every module is in the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def output_of(module: nn.Module, model: nn.Module, x: Tensor) -> Any:
    """What a module inside a model gives for an input of the model; None if it is not called.

    What the model would compute after it is not computed.
    """

    def stop(module: nn.Module, args: Any, out: Any) -> None:
        raise _ReachedError(out)

    hook = module.register_forward_hook(stop)
    try:
        with at_rest(model):
            model(x)
    except _ReachedError as reached:
        return reached.args[0]
    finally:
        hook.remove()
    return None
