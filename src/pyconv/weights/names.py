"""Names that nobody knows: which one was meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

__all__ = ["nearest"]


def nearest(name: str, known: Collection[str], otherwise: str | None = None) -> str:
    """The cure for a misspelt name, as a sentence with a space before it.

    Where no name is near, it is ``otherwise``; by default all that are known.
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {near[0]!r}?"
    if otherwise is None:
        otherwise = f"Known: {', '.join(known)}." if known else ""
    return f" {otherwise}" if otherwise else ""
