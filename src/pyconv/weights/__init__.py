"""The authors' published weights: what there is, how a file is read, and where it is kept."""

from .checkpoint import CheckpointError
from .drive import DownloadError
from .rows import (
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
    WeightsEnum,
)

__all__ = [
    "CheckpointError",
    "DownloadError",
    "PyConvHGResNet50_Weights",
    "PyConvHGResNet101_Weights",
    "PyConvHGResNet152_Weights",
    "PyConvResNet50_Weights",
    "PyConvResNet101_Weights",
    "PyConvResNet152_Weights",
    "PyConvResNetTiny_Weights",
    "ResNet50_Weights",
    "ResNet101_Weights",
    "ResNet152_Weights",
    "WeightsEnum",
]
