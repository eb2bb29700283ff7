"""A file in, the tensors and plain values in it out; nothing pickled is ever executed."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from ...system.reading import ContentError, reading
from .kind import CheckpointError, identify

__all__ = ["read_content"]

# What training scripts keep beside the weights. None of these is called: an object that holds
# and does nothing stands for each of them.
BESIDE = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
)


class _StandIn:
    """Stands for a value beside the weights, of whatever class: keeps and runs nothing."""

    def __new__(cls, *_: object) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _stand_in(name: str) -> Any:
    """A class for a name, called as that for messages."""
    own = name.rpartition(".")[2]
    return type("ndarray" if own == "_reconstruct" else own, (_StandIn,), {})


STAND_INS: list[Any] = [(_stand_in(name), name) for name in BESIDE]


def read_content(path: Path) -> object:
    """What a checkpoint holds, onto the CPU, in memory of its own: the file may change afterwards.

    Takes the zip and the legacy format of PyTorch, and safetensors.

    Raises:
        CheckpointError: if the file is no checkpoint, or is damaged.
        OSError: if the system does not give its bytes, FileNotFoundError if it is not there.
    """
    try:
        with reading(path) as file:
            form = identify(path, file)
            file.seek(0)
            return _read_safetensors(path, file) if form == "safetensors" else _load(path, file)
    except ContentError as error:
        if isinstance(error.__cause__, CheckpointError):
            raise error.__cause__ from None
        kind = type(error.__cause__).__name__
        raise CheckpointError(
            f"{path} is damaged or cut short ({kind}). Get the file again."
        ) from error.__cause__


def _load(path: Path, file: BinaryIO) -> object:
    try:
        return _unpickle(file)
    except pickle.UnpicklingError as error:
        if not _refused(error):
            raise _more_than_tensors(path, file, error) from error
    try:
        with torch.serialization.safe_globals(STAND_INS):
            return _unpickle(file)
    except pickle.UnpicklingError as error:
        raise _more_than_tensors(path, file, error) from error


def _unpickle(file: BinaryIO) -> object:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        content: object = torch.load(file, map_location="cpu", weights_only=True)
    except RuntimeError as error:
        wanted = re.search(r"allocate (\d+) bytes", str(error))
        if wanted and int(wanted[1]) > size:  # not a lack of memory: the file claims too much
            raise EOFError(f"{wanted[1]} bytes are claimed, and the file has {size}") from error
        raise
    return content


def _refused(error: pickle.UnpicklingError) -> str:
    """The class or function that was not called; empty if there is another reason."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else ""


def _more_than_tensors(
    path: Path, file: BinaryIO, error: pickle.UnpicklingError
) -> CheckpointError:
    """What a refused pickle holds, in words, and how to save it anew."""
    name = _refused(error)
    if not name:
        return CheckpointError(
            f"{path} holds more than tensors and plain values, or is damaged; nothing in it was "
            "executed. Save model.state_dict() alone, or get the file from a source you trust."
        )
    if _is_module(name) or any(map(_is_module, _all_refused(file))):
        return CheckpointError(
            f"{path} holds a pickled module ({name}), which is more than tensors and plain "
            "values; nothing in it was executed. Where it was made, save the weights of the model "
            "alone: torch.save(model.state_dict(), FILE)."
        )
    return CheckpointError(
        f"{path} holds more than tensors and plain values: {name}; nothing in it was executed. "
        "Where it was made, save the weights alone: torch.save(model.state_dict(), FILE). Or get "
        "the file from a source you trust."
    )


def _all_refused(file: BinaryIO) -> list[str]:
    """What else a zip names that is not called, found without unpickling."""
    file.seek(0)
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # the legacy format, or whatever a file made by hand can do
        return []


def _is_module(name: str) -> bool:
    """Whether a class is one of modules, as far as that is known without importing anything."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    return isinstance(found, type) and issubclass(found, nn.Module)


def _read_safetensors(path: Path, file: BinaryIO) -> object:
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a safetensors file, and the package that reads it is not installed: "
            "pip install 'torch-pyconv[safetensors]'."
        ) from error
    state: object = safetensors.load(file.read())
    return state
