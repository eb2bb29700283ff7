# ruff: noqa: F403
"""The networks by their names: factories such as ``pyconvresnet50(...)``, and the registry."""

from .factories import *
from .load import *
from .original import *
from .registry import *
from .segmentation import *
