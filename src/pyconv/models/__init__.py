# ruff: noqa: F403
"""The networks by their names: factories such as ``pyconvresnet50(...)``, and the registry."""

from .factories import *
from .load import *
from .registry import *
