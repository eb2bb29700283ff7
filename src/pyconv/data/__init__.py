"""Images from the disk to batches of pixels."""

from .decoding import decode
from .folders import ImageList, find_images
from .loading import Batch, Fault, make_loader
from .preprocess import Preprocess

__all__ = ["Batch", "Fault", "ImageList", "Preprocess", "decode", "find_images", "make_loader"]
