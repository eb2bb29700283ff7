"""From a file, or a name, to a model that knows its classes and the pixels that it expects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..backbone import image_channels
from ..data import imagenet
from ..data.preprocess import Preprocess, expected_pixels
from ..system.files import existing
from ..weights import CheckpointError, checkpoint
from ..weights.names import nearest
from ..weights.rows import WeightsEnum
from .factories import ModelOptions, build
from .registry import (
    REGISTRY,
    find_classifier,
    find_model,
    get_model_weights,
    get_weight,
    published_pixels,
    resolve_weights,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LoadedModel", "load"]

logger: logging.Logger = logging.getLogger(__name__)


class LoadedModel(nn.Module):
    """What :func:`load` returns, for type checkers: a network of its own class that knows more."""

    if TYPE_CHECKING:
        classes: list[str]  # their names, in the order of the outputs
        transforms: Callable[..., Preprocess]  # for PIL images and uint8 tensors, as of weights


@dataclass(frozen=True)
class Opened:
    """A model, and what is known of it."""

    model: nn.Module
    name: str  # of the network
    weights: WeightsEnum | Path
    pixels: Preprocess  # what it was trained or published with, for images of its channels or not
    num_classes: int | None  # 0 where it has no classifier, None where nobody knows
    classes: tuple[str, ...] | None  # their names, where the weights state them
    notes: checkpoint.Notes  # what the file states

    @property
    def transforms(self) -> Callable[..., Preprocess]:
        """Gives the preprocessing; takes ``crop`` and ``resize`` as that of weights does."""
        channels = image_channels(self.model)
        return partial(expected_pixels, self.pixels, channels, network=str(self.weights))


def load(
    source: WeightsEnum | str | Path,
    *,
    model: str | None = None,
    device: torch.device | str | None = None,
    **options: Unpack[ModelOptions],
) -> LoadedModel:
    """Load a model that is ready to predict, with its classes and its preprocessing.

    The model is in eval mode. ``model.classes`` lists the names of its classes, in the order of its
    outputs. ``model.transforms()`` is its preprocessing, for a PIL image or a uint8 tensor; it
    takes ``crop`` and ``resize`` as ``weights.transforms`` does. Both are attributes of the
    instance: its class and its state dict are those of any other network.

    A file of ``pyconv-train`` says all of it. Of any other, the network of the zoo is told from the
    names and shapes of its tensors; classes are ImageNet's if there are 1000, else numbered, and
    the preprocessing is that of the network's published weights. One line in the log says so.

    Args:
        source: The path of a checkpoint; a network, which means the best weights published for it;
            or published weights: a member of an enum, or its name.
        model: The network that a file is of, where it does not say; ``"module:name"`` for one of
            your own.
        device: Where to put the model; default where networks are built.
        options: What else :func:`get_model` takes, such as ``dropout``.

    Raises:
        ValueError: if there is no such file, network or set of weights, or they contradict.
        CheckpointError: if the file is no checkpoint, or it cannot be told of which network.
        DownloadError: if published weights cannot be had, with what to do about it.
    """
    return finish(open_model(source, model, **options), device)


def finish(opened: Opened, device: torch.device | str | None) -> LoadedModel:
    """The model, knowing what :func:`load` promises; what is assumed is told."""
    model, pixels = cast(LoadedModel, opened.model), opened.pixels
    names, named = opened.classes, "."
    if names is None:
        names, named = _assumed_names(opened.num_classes or 0)
    model.classes = list(names)
    model.transforms = opened.transforms
    if isinstance(opened.weights, Path) and opened.notes.preprocess is None:
        logger.warning(
            "%s does not say what images it takes: resize %d and crop %d are assumed%s",
            opened.weights,
            pixels.resize,
            pixels.crop,
            named,
        )
    return (model if device is None else model.to(device)).eval()


def _assumed_names(count: int) -> tuple[tuple[str, ...], str]:
    """The names of classes that nobody has named, and how to tell so at the end of a sentence."""
    names = imagenet.class_names()
    if count == len(names):
        return names, ", and ImageNet's classes."
    return tuple(map(str, range(count))), ", and its classes are numbered." if count else "."


def open_model(
    source: WeightsEnum | str | Path, model: str | None = None, **options: Unpack[ModelOptions]
) -> Opened:
    """Build the network that a source is of, with its weights; arguments as of :func:`load`."""
    name, weights = find_source(source, model)
    if name is not None:
        find_classifier(name)  # before weights are downloaded
    if isinstance(weights, WeightsEnum):
        state, notes = weights.get_state_dict(options.pop("progress", True)), checkpoint.Notes()
        names: Sequence[str] = weights.meta["categories"]
        pixels = weights.value.preprocess
    else:
        options.pop("progress", None)
        state, notes = checkpoint.read_noted(weights)
        name = name or _network_of(weights, state, notes)
        names, pixels = notes.classes or (), notes.preprocess or published_pixels(name)
    assert name is not None
    built = build(find_model(name), weights, state, notes, options)
    count = getattr(built, "num_classes", None)
    if not isinstance(count, int):
        count = checkpoint.sizes(built.state_dict(), built).get("num_classes") or len(names) or None
    classes = tuple(names) if len(names) == count else None
    return Opened(built, name, weights, pixels, count, classes, notes)


def find_source(
    source: WeightsEnum | str | Path, model: str | None = None
) -> tuple[str | None, WeightsEnum | Path]:
    """The network and the weights that a source means; the network is None where a file must say.

    Raises:
        ValueError: if it means nothing that is there, or ``model`` is another network.
    """
    if model is not None:
        chosen = resolve_weights(model, False, source)
        assert chosen is not None
        return model, chosen
    if isinstance(source, WeightsEnum):
        return source.value.model, source
    text = str(source)
    if isinstance(source, str) and text in REGISTRY:
        return text, get_model_weights(text)["DEFAULT"]
    if isinstance(source, str) and "_Weights." in text:
        weights = get_weight(text)
        return weights.value.model, weights
    if (path := existing(text)) is not None:
        return None, path
    cure = nearest(text, REGISTRY, otherwise="pyconv.list_models() lists the networks.")
    raise ValueError(f"{text!r} is neither a file, a network nor published weights.{cure}")


def _network_of(path: Path, state: Mapping[str, Tensor], notes: checkpoint.Notes) -> str:
    """The name of the network that a file is of: as it says, or as its tensors do."""
    said = notes.model
    if said is None and (found := checkpoint.whose(state)) is not None:
        return found
    if said is None:
        raise CheckpointError(
            f"{path} fits no network of the zoo as it is. Say of which network it is, such as "
            "model='resnet50' (--model resnet50)."
        )
    if said in REGISTRY:
        return said
    # A file may name any module, and importing one runs it: that is the user's to ask for.
    own = said if ":" in said else f"module:{said}"
    raise CheckpointError(
        f"{path} is of {said}, a network of your own, and a file does not decide what is "
        f"imported. Say it yourself: model={own!r} (--model {own})."
    )
