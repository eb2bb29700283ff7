# ruff: noqa: F403
"""Pyramidal convolution for PyTorch (Duta et al. 2020, arXiv:2006.11538)."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from .system import start as _start  # noqa: F401  # first: minds a command that imports PyTorch

# isort: split
from .architectures import *
from .backbone import *
from .convert import *
from .layers import *
from .models import *
from .pyconvsegnet import *
from .resnet import *
from .speed import optimize as optimize  # this line makes all of it fast; without, it is complete
from .weights import *

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import data as data
    from . import evaluate as evaluate
    from . import predict as predict
    from . import segmentation as segmentation
    from . import train as train
    from . import viz as viz
else:  # type checkers read the names themselves
    __all__ = sorted(
        name
        for name, thing in globals().items()
        if getattr(thing, "__module__", "").startswith(__name__) and not name.startswith("_")
    )

    def __getattr__(name: str) -> ModuleType:
        """The modules of what is done with networks, imported when first asked for."""
        if name in ("data", "evaluate", "predict", "segmentation", "train", "viz"):
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
