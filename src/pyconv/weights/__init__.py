# ruff: noqa: F403
"""The authors' published weights: what there is, how a file is read, and where it is kept."""

from typing import TYPE_CHECKING

from . import rows, segmentation
from .checkpoint import CheckpointError as CheckpointError
from .drive import DownloadError as DownloadError
from .published import Published as Published
from .rows import *
from .segmentation import *

if not TYPE_CHECKING:
    __all__ = sorted(
        ["CheckpointError", "DownloadError", "Published", *rows.__all__, *segmentation.__all__]
    )
