"""Where the library keeps what it downloads and compiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """The folder of the cache: ``PYCONV_HOME``, else ``pyconv`` in torch's hub folder.

    Raises:
        ValueError: if its path begins with a ``~`` that stands for no folder.
    """
    home = os.environ.get("PYCONV_HOME")
    if home:
        return _expanded(home)
    hub = sys.modules.get("torch.hub")
    if hub is not None:  # torch.hub.set_dir may have been called
        return _expanded(hub.get_dir()) / "pyconv"
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    torch_home = os.environ.get("TORCH_HOME", f"{caches}/torch")
    return _expanded(torch_home) / "hub" / "pyconv"


def _expanded(folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:  # no such user, or one without a home, as in some containers
        raise ValueError(
            f"{folder} has no home folder behind its ~. Set PYCONV_HOME to a full path."
        ) from error
