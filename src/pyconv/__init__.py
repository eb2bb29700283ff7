"""Pyramidal convolution for PyTorch (Duta et al. 2020, arXiv:2006.11538)."""

import importlib
from types import ModuleType

from .backbone import Backbone
from .layers import PyConv1d, PyConv2d, PyConv3d, get_pyconv
from .models import (
    get_model,
    get_model_weights,
    get_weight,
    list_models,
    pyconvhgresnet50,
    pyconvhgresnet101,
    pyconvhgresnet152,
    pyconvresnet18,
    pyconvresnet34,
    pyconvresnet50,
    pyconvresnet101,
    pyconvresnet152,
    pyconvresnet_tiny,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from .resnet import PyConvBasicBlock1, PyConvBasicBlock2, PyConvBlock, ResNet
from .speed import install, optimize
from .weights.checkpoint import CheckpointError
from .weights.drive import DownloadError
from .weights.rows import (
    PyConvHGResNet50_Weights,
    PyConvHGResNet101_Weights,
    PyConvHGResNet152_Weights,
    PyConvResNet50_Weights,
    PyConvResNet101_Weights,
    PyConvResNet152_Weights,
    PyConvResNetTiny_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    ResNet152_Weights,
)

__version__ = "0.1.0"

install()  # without this line, and the import, all is plain PyTorch

__all__ = [
    "Backbone",
    "CheckpointError",
    "DownloadError",
    "PyConv1d",
    "PyConv2d",
    "PyConv3d",
    "PyConvBasicBlock1",
    "PyConvBasicBlock2",
    "PyConvBlock",
    "PyConvHGResNet50_Weights",
    "PyConvHGResNet101_Weights",
    "PyConvHGResNet152_Weights",
    "PyConvResNet50_Weights",
    "PyConvResNet101_Weights",
    "PyConvResNet152_Weights",
    "PyConvResNetTiny_Weights",
    "ResNet",
    "ResNet50_Weights",
    "ResNet101_Weights",
    "ResNet152_Weights",
    "get_model",
    "get_model_weights",
    "get_pyconv",
    "get_weight",
    "list_models",
    "optimize",
    "pyconvhgresnet50",
    "pyconvhgresnet101",
    "pyconvhgresnet152",
    "pyconvresnet18",
    "pyconvresnet34",
    "pyconvresnet50",
    "pyconvresnet101",
    "pyconvresnet152",
    "pyconvresnet_tiny",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]


def __getattr__(name: str) -> ModuleType:
    """The modules of evaluation and training, imported when first asked for."""
    if name in ("data", "evaluate", "train"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
