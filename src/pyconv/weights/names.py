"""Names that nobody knows: which one was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The cure for a misspelt name, as a sentence with a space before it; else ``otherwise``."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" {otherwise}" if otherwise else ""
