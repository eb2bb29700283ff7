"""Bytes in, a state dict that fits the model out, safely.

Nothing pickled is ever executed (``weights_only`` always), structure is proven before values are
touched, and every way in which a file can be wrong is one sentence of :class:`CheckpointError`.
"""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..data.preprocess import Preprocess

__all__ = [
    "CheckpointError",
    "Notes",
    "check_structure",
    "check_values",
    "load",
    "read",
    "read_notes",
    "sizes",
]

logger: logging.Logger = logging.getLogger(__name__)

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # what PyTorch < 1.6 wrote
FIRST_CONV, CLASSIFIER = "conv1", "fc"  # where a network does not say how it names these modules
NESTS = ("state_dict", "model")  # where training scripts keep the weights in a larger checkpoint
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every key

Shapes = Mapping[str, Tensor]  # tensors, or tensors on the meta device, by their keys


class CheckpointError(ValueError):
    """A file or state dict is not a checkpoint of the model; says why and what to do."""


def read(path: str | Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint, in the zip or the legacy format, onto the CPU.

    Takes a bare state dict, or one under ``state_dict`` or ``model`` in a training checkpoint; a
    ``module.`` or ``_orig_mod.`` in front of every key is removed. Zip files are mapped into
    memory, so the file must later be replaced, never rewritten in place.

    Raises:
        CheckpointError: if the file is none, or is damaged.
        FileNotFoundError: if there is no file at ``path``.
    """
    path = Path(path)
    return _unwrap(_content(path), path)


class Notes(NamedTuple):
    """What ``pyconv-train`` writes beside the weights; None in checkpoints of others."""

    classes: tuple[str, ...] | None = None  # their names, in the order of the outputs
    preprocess: Preprocess | None = None  # what the images passed through

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
        return cls(tuple(classes) if classes else None, preprocess)


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


def read_notes(path: str | Path) -> Notes:
    """Read what ``pyconv-train`` wrote beside the weights of a checkpoint.

    Raises:
        CheckpointError, FileNotFoundError: as :func:`read`.
    """
    return Notes.of(_content(Path(path)))


def _content(path: Path) -> object:
    """What a file holds, unpickled without executing anything, its zip mapped into memory."""
    mapped = _check_signature(path)
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, or is damaged; nothing in it was "
            "executed. Save model.state_dict() alone, or get the file from a source you trust."
        ) from error
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        raise CheckpointError(
            f"{path} is damaged or cut short ({type(error).__name__}). Get the file again."
        ) from error
    return content


def _check_signature(path: Path) -> bool:
    """Whether the file is a zip; what PyTorch never wrote does not reach the unpickler."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise CheckpointError(f"{path} is empty. Get the file again.")
    if head.startswith(LEGACY_MAGIC):
        return False
    if not head.startswith(ZIP_MAGIC):
        if b"<html" in head.lower() or b"<!doctype" in head.lower():
            raise CheckpointError(
                f"{path} is a web page, not a checkpoint: what a download leaves behind that was "
                "not confirmed. Open it in a browser to see what it says, and get the file again."
            )
        raise CheckpointError(f"{path} is not a PyTorch checkpoint. Get the file again.")
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [i for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or cut short. Get the file again.") from error
    if packed:  # PyTorch stores tensors as they are; compressed ones could unpack to any size
        raise CheckpointError(
            f"{path} is a compressed archive, which PyTorch never writes. Unpack it first, or get "
            "the checkpoint itself."
        )
    return True


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without nesting and without ``module.``."""
    for nest in NESTS:
        if isinstance(content, dict) and isinstance(dict.get(content, nest), dict):
            content = content[nest]
            break
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no state dict. Save model.state_dict() and load that.")
    # By the class: what is unpickled may carry attributes that hide its methods.
    for key, value in dict.items(content):
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds no state dict: the entry {key!r} is a {type(value).__name__}, not a "
                f"tensor. The weights are looked for at the top and under {' or '.join(NESTS)}."
            )
    # Plain tensors: a Parameter would turn the buffer that it is assigned to into a parameter.
    state = {key: Tensor.detach(value) for key, value in dict.items(content)}
    while prefix := next((p for p in WRAPPERS if all(k.startswith(p) for k in state)), None):
        consume_prefix_in_state_dict_if_present(state, prefix)
    return state


def sizes(state: Shapes, network: nn.Module | None = None) -> dict[str, int]:
    """The ``num_classes`` and ``in_channels`` of the network that a state dict was saved from.

    ``network`` says how its first convolution and its classifier are named; default as in the zoo.
    A size that the state dict does not show is left out, but for 0 classes of one that has none.
    """
    first_conv, classifier = _keys(network)
    stem = state.get(first_conv)
    channels = {} if stem is None or stem.ndim != 4 else {"in_channels": stem.shape[1]}
    return {"num_classes": _count_classes(state, classifier), **channels}


def _keys(network: nn.Module | None) -> tuple[str, str]:
    """The keys of the weights of a network's first convolution and of its classifier."""
    first_conv = getattr(network, "first_conv", FIRST_CONV)
    classifier = getattr(network, "classifier", CLASSIFIER)
    names = (
        first_conv if isinstance(first_conv, str) else FIRST_CONV,
        classifier if isinstance(classifier, str) else CLASSIFIER,  # a module, in some networks
    )
    return f"{names[0]}.weight", f"{names[1]}.weight"


def _count_classes(state: Shapes, classifier: str) -> int:
    """How many classes the classifier of a state dict has; 0 where it has none."""
    weight = state.get(classifier)
    return 0 if weight is None else len(weight)


def check_structure(state: Shapes, expected: Shapes, what: str = "The checkpoint") -> None:
    """Check that keys, shapes and dtypes are those of the model, before any value is touched.

    Raises:
        CheckpointError: naming the first few of what is missing, unexpected or misshapen, and
            how many there are.
    """
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    wrong = []
    for key in expected.keys() & state.keys():
        got, want = state[key], expected[key]
        if got.shape != want.shape:
            wrong.append(f"{key} {list(got.shape)} instead of {list(want.shape)}")
        elif got.dtype != want.dtype:
            wrong.append(f"{key} {got.dtype} instead of {want.dtype}".replace("torch.", ""))
        elif got.layout != torch.strided or got.is_meta or _exceeds_storage(got):
            wrong.append(f"{key} is not stored in full")
    faults = [
        f"{len(items)} {name} ({_first(items)})"
        for name, items in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("wrong", sorted(wrong)),
        )
        if items
    ]
    if faults:
        raise CheckpointError(
            f"{what} is of another model: of {len(expected)} entries "
            f"{'; '.join(faults)}. Choose the model that it was saved from."
        )


def _exceeds_storage(tensor: Tensor) -> bool:
    """Whether the tensor claims more elements than its storage holds (a few bytes can)."""
    return tensor.untyped_storage().nbytes() < tensor.nbytes


def _first(items: Iterable[str], count: int = 3) -> str:
    items = list(items)
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")


def check_values(state: Shapes, what: str = "The checkpoint") -> None:
    """Check that every value is finite and no running variance negative.

    Raises:
        CheckpointError: naming the first entry that is not.
    """
    for key, tensor in state.items():
        # The sum is finite only if all are; it may overflow, so the exact question comes second.
        if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{what} holds values that are not finite, first in {key}: the training diverged "
                "or the file is damaged. Take an earlier checkpoint, or get the file again."
            )
        if key.endswith("running_var") and tensor.numel() and tensor.min() < 0:
            raise CheckpointError(
                f"{what} holds a negative variance in {key}: the file is damaged. Get it again."
            )


def load(
    model: nn.Module,
    state: Mapping[str, Tensor],
    what: str = "The checkpoint",
    *,
    proven: bool = False,
) -> None:
    """Make the tensors of a state dict the model's own, without a copy where they fit as they are.

    The model may be on the meta device. Where its classifier has another number of classes, the
    classifier is left out; where its first convolution has another number of input channels, that
    is adapted: summed for one channel, else cycled and rescaled; both with one line in the log.
    The model names the two modules as ``classifier`` and ``first_conv``; default as in the zoo.
    Values that are ``proven`` already are not looked at again.

    Raises:
        CheckpointError: if the state dict is of another model or holds impossible values.
    """
    first_conv, classifier = _keys(model)
    given, expected = state, model.state_dict()
    state = _adapt_stem(_match_counters(dict(given), expected), expected, first_conv)
    dropped = _foreign_classifier(state, expected, classifier)
    state = {key: value for key, value in state.items() if key not in dropped}
    check_structure(state, {k: v for k, v in expected.items() if k not in dropped}, what)
    if not proven:
        check_values(state, what)
    if dropped and classifier in expected:
        logger.warning(
            "%s has a classifier of %d classes and the model one of %d: it was left out, and the "
            "model's own starts untrained.",
            what,
            _count_classes(given, classifier),
            _count_classes(expected, classifier),
        )
    if first_conv in given and given[first_conv].shape != state[first_conv].shape:
        logger.warning(
            "%s takes images of %d channels and the model %d: the stem was adapted.",
            what,
            given[first_conv].shape[1],
            state[first_conv].shape[1],
        )
    model.load_state_dict(state, strict=False, assign=True)


def _match_counters(state: dict[str, Tensor], expected: Shapes) -> dict[str, Tensor]:
    """Let norms that count batches and norms that do not (frozen, ancient) exchange weights."""
    counter = "num_batches_tracked"
    for key in [k for k in state if k.endswith(counter) and k not in expected]:
        del state[key]
    for key in [k for k in expected if k.endswith(counter) and k not in state]:
        state[key] = torch.zeros((), dtype=expected[key].dtype)
    return state


def _adapt_stem(state: dict[str, Tensor], expected: Shapes, first_conv: str) -> dict[str, Tensor]:
    """Bring the first convolution to the model's input channels, keeping the scale of its sums."""
    have, want = state.get(first_conv), expected.get(first_conv)
    if have is None or want is None or have.ndim != 4 or want.ndim != 4:
        return state
    if have.is_meta or have.layout != torch.strided or _exceeds_storage(have):
        return state  # nothing to compute with; the structure is refused next
    old, new = have.shape[1], want.shape[1]
    if old != new and old > 0:
        if new == 1:
            stem = have.sum(1, keepdim=True)
        else:
            stem = have[:, [channel % old for channel in range(new)]] * (old / new)
        state[first_conv] = stem
    return state


def _foreign_classifier(state: Shapes, expected: Shapes, classifier: str) -> tuple[str, ...]:
    """The entries of a classifier that has another number of classes than the model's."""
    have, want = state.get(classifier), expected.get(classifier)
    if have is None or have.ndim != (2 if want is None else want.ndim):
        return ()
    if _count_classes(state, classifier) == _count_classes(expected, classifier):
        return ()
    return classifier, f"{classifier.removesuffix('.weight')}.bias"
