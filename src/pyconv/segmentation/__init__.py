"""Semantic segmentation: a class for each pixel of a photograph, and the command pyconv-segment."""

from typing import TYPE_CHECKING

from ..models import segmentation as _factories
from ..models.segmentation import *  # noqa: F403
from ..pyconvsegnet import PyConvHead, PyConvSegNet
from .counts import PixelMetrics, evaluate
from .labels import LabelledPhotos, find_photos
from .picture import overlay
from .prediction import PUBLISHED_SCALES, predict

if not TYPE_CHECKING:
    __all__ = [
        "PUBLISHED_SCALES",
        "LabelledPhotos",
        "PixelMetrics",
        "PyConvHead",
        "PyConvSegNet",
        "evaluate",
        "find_photos",
        "overlay",
        "predict",
        *_factories.__all__,
    ]
