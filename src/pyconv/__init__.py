# ruff: noqa: F403
"""Pyramidal convolution for PyTorch (Duta et al. 2020, arXiv:2006.11538)."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from .speed import optimize as optimize  # isort: skip
from . import backbone, models, weights
from .architectures import Architecture as Architecture
from .architectures import Stage as Stage
from .architectures import Stem as Stem
from .backbone import *
from .layers import PyConv1d as PyConv1d
from .layers import PyConv2d as PyConv2d
from .layers import PyConv3d as PyConv3d
from .layers import get_pyconv as get_pyconv
from .models import *
from .resnet import PyConvBasicBlock1 as PyConvBasicBlock1
from .resnet import PyConvBasicBlock2 as PyConvBasicBlock2
from .resnet import PyConvBlock as PyConvBlock
from .resnet import ResNet as ResNet
from .weights import *

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import data as data
    from . import evaluate as evaluate
    from . import train as train
else:
    __all__ = sorted(
        {
            "Architecture",
            "PyConv1d",
            "PyConv2d",
            "PyConv3d",
            "PyConvBasicBlock1",
            "PyConvBasicBlock2",
            "PyConvBlock",
            "ResNet",
            "Stage",
            "Stem",
            "get_pyconv",
            "optimize",
            *backbone.__all__,
            *models.__all__,
            *weights.__all__,
        }
    )

    def __getattr__(name: str) -> ModuleType:
        """The modules of evaluation and training, imported when first asked for."""
        if name in ("data", "evaluate", "train"):
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
