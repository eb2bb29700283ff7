"""What people save around the weights: the state dict in it, and what ``pyconv-train`` notes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ...data.preprocess import Preprocess
from .file import read_content
from .kind import CheckpointError

__all__ = ["Notes", "read", "read_noted"]

logger: logging.Logger = logging.getLogger(__name__)

NESTS = (  # where training scripts keep the weights in a larger checkpoint; the first one is taken
    "state_dict",
    "model",
    "model_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "net",
    "network",
    "params",
    "params_ema",
    "module",
    "weights",
)
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every key
AVERAGES = "n_averaged"  # what AveragedModel counts beside the keys that it puts "module." before


def read(path: str | Path, tell: bool = True) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint onto the CPU, in memory of its own.

    Takes the zip and the legacy format of PyTorch, and safetensors; a bare state dict, or one
    inside a training checkpoint, such as under ``state_dict``, ``model`` or ``ema``. A ``module.``
    or ``_orig_mod.`` in front of every key is removed. Where there are several, the first of them
    is taken, with one line in the log if ``tell``.

    Raises:
        CheckpointError: if the file is none, or is damaged.
        OSError: if the system does not give its bytes, FileNotFoundError if it is not there.
    """
    return read_noted(path, tell)[0]


def read_noted(path: str | Path, tell: bool = True) -> tuple[dict[str, Tensor], Notes]:
    """As :func:`read`, and what ``pyconv-train`` wrote beside the weights."""
    path = Path(path)
    content = read_content(path)
    return _state_in(content, path, tell), Notes.of(content)


def _state_in(content: object, path: Path, tell: bool) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict. Save model.state_dict() and load that.")
    found = {"": content} if _is_state(content) else _find(content)
    if not found:
        raise CheckpointError(f"{path} holds no state dict: {_complaint(content)}")
    name, *others = found
    if others and name.partition(".")[0] not in NESTS:
        raise CheckpointError(
            f"{path} holds several state dicts: {', '.join(found)}. Save that of the model alone."
        )
    if others and tell:
        logger.warning("%s holds weights under %s: %s was taken.", path, " and ".join(found), name)
    if any(hasattr(type(value), "full_tensor") for value in dict.values(found[name])):
        raise CheckpointError(
            f"{path} holds shards of weights. Save them whole: with full_state_dict=True in the "
            "options of torch.distributed.checkpoint.state_dict.get_model_state_dict."
        )
    # Plain tensors: a Parameter would turn the buffer that it is assigned to into a parameter.
    state = {key: Tensor.detach(value) for key, value in dict.items(found[name])}
    while prefix := next((p for p in WRAPPERS if _begin_with(state, p)), None):
        consume_prefix_in_state_dict_if_present(state, prefix)
    return state


# By the class in all of these: what is unpickled may carry attributes that hide its methods.


def _is_state(content: object) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in dict.items(content))
    )


def _find(content: dict[Any, Any], depth: int = 3) -> dict[str, dict[str, Tensor]]:
    """The state dicts in the entries of a checkpoint, by their names, in the order of ``NESTS``.

    Other names count only where there is none of these.
    """
    nests = {n: v for n in NESTS if isinstance(v := dict.get(content, n), dict)}
    if not nests:
        return {str(k): v for k, v in dict.items(content) if _is_state(v)}
    found: dict[str, dict[str, Tensor]] = {}
    for name, inner in nests.items():
        if _is_state(inner):
            found[name] = inner
        elif depth > 1:  # a dict may hold itself
            inside = _find(inner, depth - 1)
            found |= {f"{name}.{deeper}": state for deeper, state in inside.items()}
    return found


def _complaint(content: dict[Any, Any]) -> str:
    """Why a checkpoint holds no state dict."""
    if isinstance(dict.get(content, "param_groups"), list):
        return "it is the state of an optimizer. Save model.state_dict() and load that."
    nests = ((n, v) for n in NESTS if isinstance(v := dict.get(content, n), dict))
    name, inner = next(nests, ("", content))
    if not inner:
        return f"the entry {name!r} is empty. Save model.state_dict() there."
    key, value = next((k, v) for k, v in dict.items(inner) if not _is_state({k: v}))
    if not isinstance(key, str):
        return f"the name {key!r} is no text. Save model.state_dict() and load that."
    return (
        f"the entry {key!r} is a {type(value).__name__}, not a tensor. The weights are looked for "
        f"at the top and under names such as {', '.join(NESTS[:3])}."
    )


def _begin_with(state: dict[str, Tensor], prefix: str) -> bool:
    keys = state.keys() - {AVERAGES}
    return bool(keys) and all(key.startswith(prefix) for key in keys)


class Notes(NamedTuple):
    """What ``pyconv-train`` writes beside the weights; None in checkpoints of others."""

    classes: tuple[str, ...] | None = None  # their names, in the order of the outputs
    preprocess: Preprocess | None = None  # what the images passed through
    model: str | None = None  # the name of the network, as the command was given it

    @classmethod
    def of(cls, content: object) -> Notes:
        """Those among the content of a file that have the form of what is written."""
        parts = content if isinstance(content, dict) else {}
        classes, images = dict.get(parts, "classes"), dict.get(parts, "images")
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            classes = None
        preprocess = None
        if isinstance(images, dict) and _are_images(images):
            mean, std = (tuple(map(float, images[key])) for key in ("mean", "std"))
            preprocess = Preprocess(images["crop"], images["resize"], mean, std)
        run = dict.get(parts, "run")
        identity = dict.get(run, "identity") if isinstance(run, dict) else None
        model = dict.get(identity, "model") if isinstance(identity, dict) else None
        return cls(
            tuple(classes) if classes else None,
            preprocess,
            model if isinstance(model, str) else None,
        )


def _are_images(images: dict[Any, Any]) -> bool:
    if images.keys() != {"crop", "resize", "mean", "std"}:
        return False
    mean, std = images["mean"], images["std"]
    return (
        all(type(images[key]) is int and images[key] > 0 for key in ("crop", "resize"))
        and isinstance(mean, list)
        and isinstance(std, list)
        and len(mean) == len(std) > 0
        and all(type(number) in (int, float) for number in [*mean, *std])
        and min(std) > 0
    )
