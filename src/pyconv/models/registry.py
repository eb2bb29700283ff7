"""The registry: every network by its name, and which weights a call means."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from torch import nn

from ..architectures import ARCHITECTURES, Architecture
from ..data.preprocess import IMAGENET, Preprocess
from ..system.files import existing
from ..weights.names import nearest
from ..weights.rows import WeightsEnum

__all__ = ["get_model_weights", "get_weight", "list_models"]

Build = Callable[..., nn.Module]
Task = Literal["classification", "segmentation"]


class Registered(NamedTuple):
    """A network that :func:`get_model` can build."""

    name: str
    factory: Build
    weights: type[WeightsEnum] | None = None  # what is published for it
    row: Architecture | None = None  # what describes it
    task: Task = "classification"

    @property
    def loads(self) -> bool:
        """Whether its factory, ours, loads weights itself."""
        return self.row is not None or self.task == "segmentation"


REGISTRY: dict[str, Registered] = {}  # of all networks by their names, the user's own included


def list_models(pattern: str = "*", *, task: Task = "classification") -> list[str]:
    """The names of the networks that match a shell pattern, such as ``"pyconv*50"``, sorted.

    They are classifiers; with ``task="segmentation"``, the networks for that.

    Raises:
        ValueError: if there is no such task.
    """
    if task not in get_args(Task):
        raise ValueError(f"task={task!r} must be one of {', '.join(get_args(Task))}.")
    networks = (name for name, network in REGISTRY.items() if network.task == task)
    return sorted(name for name in networks if fnmatchcase(name, pattern))


def find_model(name: str) -> Registered:
    """A network by its name; of ``"module:name"``, import the module first."""
    module, colon, plain = name.rpartition(":")
    if not colon:
        if name not in REGISTRY:
            raise ValueError(f"There is no network named {name!r}.{_instead(name)}")
        return REGISTRY[name]
    try:
        own = getattr(importlib.import_module(module), plain, None)
    except Exception as error:  # a file of the user's can fail in any way
        raise ValueError(
            f"The module of {name!r} cannot be imported: {error} ({type(error).__name__}). Write "
            "module:function, and put the folder of the module on PYTHONPATH."
        ) from error
    # A module may have a function of its own that is named as a network of the zoo.
    known = REGISTRY.get(plain)
    if known is not None and (plain not in ARCHITECTURES or own in (None, known.factory)):
        return known
    if not callable(own):
        raise ValueError(
            f"{name!r}: the module {module} has no {plain}. Write module:function, or register a "
            "network of that name in the module with pyconv.register_model."
        )
    return Registered(plain, own)


def _instead(name: str) -> str:
    """What to give in place of a name that no network has."""
    if "/" in name or name.endswith((".pt", ".pth", ".safetensors")):
        return " To load a file, use pyconv.load, or --checkpoint (pyconv-train: --weights)."
    if "." in name and "_Weights." not in name:
        return f" A network of your own is given as module:name.{nearest(name, REGISTRY, '')}"
    return nearest(name, REGISTRY)


def find_classifier(name: str) -> Registered:
    """As :func:`find_model`, of a network that gives a class to each image.

    Raises:
        ValueError: if there is no such network, or it gives a class to each pixel.
    """
    network = find_model(name)
    if network.task == "segmentation":
        raise ValueError(
            f"{name} gives a class to each pixel, not to an image: that is for pyconv-segment."
        )
    return network


def published_pixels(name: str) -> Preprocess:
    """The preprocessing that the weights of a classifier are published with; else ImageNet's.

    Raises:
        ValueError: if there is no such network, or it is no classifier.
    """
    weights = find_classifier(name).weights
    return IMAGENET if weights is None else weights["DEFAULT"].value.preprocess


def get_model_weights(name: str) -> type[WeightsEnum]:
    """The enum of the weights published for a network.

    Raises:
        ValueError: if there is no such network, or nothing is published for it.
    """
    network = find_model(name)
    weights = network.weights
    if weights is None:
        # Only those of the same task: no others could be in its place.
        have = ", ".join(
            other.name
            for other in REGISTRY.values()
            if other.weights is not None and other.task == network.task
        )
        raise ValueError(
            f"There are no published weights for {name}. Networks that have some: {have}. For "
            "weights of your own, give their file instead."
        )
    return weights


def get_weight(name: str) -> WeightsEnum:
    """Published weights by their full name, such as ``"PyConvResNet50_Weights.IMAGENET1K_V1"``.

    Raises:
        ValueError: if there are none of that name; it suggests the nearest.
    """
    enums = [network.weights for network in REGISTRY.values() if network.weights is not None]
    members = {str(member): member for enum in enums for member in enum}
    known = members | {f"{enum.__name__}.DEFAULT": enum["DEFAULT"] for enum in enums}
    if name not in known:
        raise ValueError(f"There are no weights named {name!r}.{nearest(name, known)}")
    return known[name]


def resolve_weights(
    model: str, pretrained: bool, weights: WeightsEnum | str | Path | None
) -> WeightsEnum | Path | None:
    """Decide which weights a call means: a published set, the path of a checkpoint, or none.

    Raises:
        ValueError: if the call contradicts itself or names what is not there.
    """
    if weights is None:
        # The first set of an enum is the paper's, which is what the original's flag meant.
        return next(iter(get_model_weights(model))) if pretrained else None
    if pretrained:
        raise ValueError(
            f"pretrained=True asks for the paper's weights and weights={str(weights)!r} for "
            "others. Give one of the two."
        )
    enum = find_model(model).weights
    if isinstance(weights, WeightsEnum):
        if enum is None or weights not in enum:
            theirs = weights.value.model
            backbone = model == f"pyconvsegnet_{theirs}"
            cure = " Give them as weights_backbone." if backbone else ""
            raise ValueError(f"{weights} are weights of {theirs}, not of {model}.{cure}")
        return weights
    text = str(weights)
    names = {} if enum is None else dict(enum.__members__)
    if text in names:
        return names[text]
    if isinstance(weights, str) and "_Weights." in text:
        return resolve_weights(model, False, get_weight(text))
    if (path := existing(text)) is not None:
        return path
    if enum is None and text == "DEFAULT":
        get_model_weights(model)  # says which networks have published weights
    for other in (f"pyconvsegnet_{model}", model.removeprefix("pyconvsegnet_")):
        published = REGISTRY[other].weights if other in REGISTRY else None
        if published is not None and text in published.__members__:
            return resolve_weights(model, False, published[text])  # it says whose they are
    have = f"those of {model} are {', '.join(names)}" if names else f"{model} has none"
    raise ValueError(
        f"weights={text!r} is neither a file nor the name of published weights; {have}."
        f"{nearest(text, names, otherwise='')}"
    )
