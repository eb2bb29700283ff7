"""The checkpoints of a training run: written whole or not at all, read without trusting them."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..system.files import replacing
from ..system.reading import ContentError, reading
from ..weights.checkpoint import CheckpointError

__all__ = ["FORMAT", "read_best", "read_state", "write_state"]

FORMAT = 1
ZIP_MAGIC = b"PK\x03\x04"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BEST: dict[str, type] = {
    "format": int,
    "state_dict": Mapping,  # the weights to use: averaged ones where the recipe averages
    "run": dict,  # identity and recipe, which must be the same for a run to go on
    "history": list,
}
PARTS: dict[str, type] = BEST | {
    "position": dict,
    "training": dict,  # the weights that learn, optimizer, loss scale and averages
}


def write_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors and plain values.

    Raises:
        OSError: if it cannot be written; the file before is intact.
    """
    try:
        with replacing(path) as file:
            torch.save(dict(content), file)
    except (OSError, RuntimeError) as error:  # PyTorch wraps the error of the disk
        cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        code = cause.errno if isinstance(cause, OSError) else None
        reason = (isinstance(cause, OSError) and cause.strerror) or str(error).splitlines()[0]
        kept = "What it held before is intact" if path.exists() else "Nothing was written"
        cure = "make room and run" if code in NO_ROOM else "then run"
        raise OSError(
            f"Cannot save {path}: {reason}. {kept}; {cure} the same command again."
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """Read the checkpoint that a run goes on from, onto the CPU.

    Raises:
        CheckpointError: if it is of something else, or damaged.
        FileNotFoundError: if there is no file at ``path``.
    """
    return _read(path, PARTS)


def read_best(path: Path) -> dict[str, Any]:
    """Read the checkpoint of the best weights, as :func:`read_state`."""
    return _read(path, BEST)


def _read(path: Path, parts: Mapping[str, type]) -> dict[str, Any]:
    is_zip = is_whole = False
    try:
        with reading(path) as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            _check_sums(file)
            is_whole = True
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no checkpoint {path} to go on from.") from error
    except ContentError as error:
        found = "is no checkpoint of pyconv-train; nothing in it was executed"
        if is_zip and not is_whole:
            found = "is damaged or cut short"
        raise CheckpointError(f"{path} {found}. {_cure(path)}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), kind) for part, kind in parts.items()
    ):
        raise CheckpointError(
            f"{path} holds no state of a training run: it may be weights alone, which --weights "
            "starts from."
        )
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} is of format {content['format']} and this version reads {FORMAT}. Go on with "
            "the version of pyconv that wrote it, or start anew from its weights: --weights."
        )
    return content


def _check_sums(file: BinaryIO) -> None:
    """Check the sums in a zip, which PyTorch writes and does not read.

    Raises:
        BadZipFile: if a bit has changed. Anything else, if what says where things are has changed.
    """
    with zipfile.ZipFile(file) as archive:
        if (member := archive.testzip()) is not None:
            raise zipfile.BadZipFile(member)


def _cure(path: Path) -> str:
    return f"Delete {path.name} to start anew, or give another --output."
