"""Bytes in, a state dict that fits the model out, safely.

``file`` reads what people save and executes nothing, ``kind`` says what a file is that is none of
it. ``layout`` finds the weights in it, ``adapt`` and ``fit`` bring them to a model, and ``whose``
knows which network they are of.
"""

from .fit import check_structure, check_values, load, sizes
from .kind import CheckpointError
from .layout import Notes, read, read_noted
from .whose import whose

__all__ = [
    "CheckpointError",
    "Notes",
    "check_structure",
    "check_values",
    "load",
    "read",
    "read_noted",
    "sizes",
    "whose",
]
