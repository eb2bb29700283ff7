"""Evaluate a network on labelled images: :func:`evaluate`, and the command pyconv-eval."""

from .evaluation import Metrics, evaluate

__all__ = ["Metrics", "evaluate"]
