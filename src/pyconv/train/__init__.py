"""Train a network on labelled images: :func:`train`, and the command pyconv-train."""

from .recipe import Recipe, TrainOptions
from .run import DivergedError, Summary
from .training import train

__all__ = ["DivergedError", "Recipe", "Summary", "TrainOptions", "train"]
