"""Images from the disk to batches of pixels."""

from .folders import ImageList, find_images
from .loading import Batch, Fault, Preprocess, make_loader

__all__ = ["Batch", "Fault", "ImageList", "Preprocess", "find_images", "make_loader"]
