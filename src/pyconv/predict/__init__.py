"""Name what is on photographs: :func:`predict`, and the command pyconv-predict."""

from .prediction import Prediction, predict

__all__ = ["Prediction", "predict"]
