"""Semantic segmentation: a class for each pixel of a photograph, and the command pyconv-segment."""

from typing import TYPE_CHECKING

from ..models import segmentation as _factories
from ..models.segmentation import *  # noqa: F403
from ..pyconvsegnet import PyConvHead as PyConvHead
from ..pyconvsegnet import PyConvSegNet as PyConvSegNet
from .counts import PixelMetrics as PixelMetrics
from .counts import evaluate as evaluate
from .labels import LabelledPhotos as LabelledPhotos
from .labels import find_labelled_photos as find_labelled_photos
from .picture import overlay as overlay
from .prediction import PUBLISHED_SCALES as PUBLISHED_SCALES
from .prediction import predict as predict

if not TYPE_CHECKING:
    __all__ = [
        "PUBLISHED_SCALES",
        "LabelledPhotos",
        "PixelMetrics",
        "PyConvHead",
        "PyConvSegNet",
        "evaluate",
        "find_labelled_photos",
        "overlay",
        "predict",
        *_factories.__all__,
    ]
