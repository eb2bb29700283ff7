"""Everything that computes the same faster: the one door to it.

Importing it puts it behind the plain forwards of the layers and blocks. Without this package, and
its line in ``pyconv/__init__.py``, the library is complete, only slower.
"""

import torch

from ..replaceable import FASTER
from .blocks import basic_block, bottleneck, pays, pyramid, sequence
from .choice import autotune, pin
from .guard import guarded
from .inference import optimize
from .kernels import disabled
from .memory import keep_memory

__all__ = ["autotune", "disabled", "install", "keep_memory", "optimize", "pin"]


def install() -> None:
    """Let the layers and blocks be computed by what is faster here."""
    FASTER["pyconv.layers._PyConvNd.forward"] = guarded(pyramid, lambda layer: layer.levels)
    FASTER["pyconv.resnet.PyConvBlock.forward"] = guarded(
        bottleneck, lambda block: block.children(), pays
    )
    FASTER["pyconv.resnet._BasicBlock.forward"] = guarded(
        basic_block, lambda block: block.children(), pays
    )
    FASTER["pyconv.resnet.in_turn"] = guarded(
        sequence, lambda modules: modules, lambda modules: torch.is_grad_enabled()
    )


install()
