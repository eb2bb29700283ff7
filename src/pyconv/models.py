"""The factories of the zoo, such as ``pyconvresnet50(...)``, and their registry."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch

from .architectures import ARCHITECTURES
from .resnet import NormLayer, ResNet
from .weights import checkpoint
from .weights import rows as published
from .weights.rows import WeightsEnum

__all__ = [
    "get_model",
    "get_model_weights",
    "get_weight",
    "list_models",
    "pyconvhgresnet50",
    "pyconvhgresnet101",
    "pyconvhgresnet152",
    "pyconvresnet18",
    "pyconvresnet34",
    "pyconvresnet50",
    "pyconvresnet101",
    "pyconvresnet152",
    "pyconvresnet_tiny",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]


class Factory(Protocol):
    """What every network of the zoo is built with."""

    def __call__(
        self,
        pretrained: bool = False,
        *,
        weights: WeightsEnum | str | Path | None = None,
        progress: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        zero_init_residual: bool = False,
        norm_layer: NormLayer | None = None,
        output_stride: int = 32,
    ) -> ResNet: ...


WEIGHTS: dict[str, type[WeightsEnum]] = {
    enum["DEFAULT"].value.model: enum
    for enum in vars(published).values()
    if isinstance(enum, type) and issubclass(enum, WeightsEnum) and enum is not WeightsEnum
}


def list_models(pattern: str = "*") -> list[str]:
    """The names of the networks that match a shell pattern, such as ``"pyconv*50"``, sorted."""
    return sorted(name for name in ARCHITECTURES if fnmatchcase(name, pattern))


def get_model(name: str, **options: Any) -> ResNet:
    """Build a network by its name; options as in :func:`pyconvresnet50`.

    Raises:
        ValueError: if there is no such network; it suggests the nearest name.
    """
    return FACTORIES[_known_model(name)](**options)


def get_model_weights(name: str) -> type[WeightsEnum]:
    """The enum of the weights published for a network.

    Raises:
        ValueError: if there is no such network, or nothing is published for it.
    """
    try:
        return WEIGHTS[_known_model(name)]
    except KeyError:
        raise ValueError(
            f"There are no published weights for {name}. Networks that have some: "
            f"{', '.join(WEIGHTS)}."
        ) from None


def get_weight(name: str) -> WeightsEnum:
    """Published weights by their full name, such as ``"PyConvResNet50_Weights.IMAGENET1K_V1"``.

    Raises:
        ValueError: if there are none of that name; it suggests the nearest.
    """
    members = {str(member): member for enum in WEIGHTS.values() for member in enum}
    aliases = {f"{enum.__name__}.DEFAULT": enum["DEFAULT"] for enum in WEIGHTS.values()}
    known = members | aliases
    if name not in known:
        raise ValueError(f"There are no weights named {name!r}.{_nearest(name, known)}")
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
    if isinstance(weights, WeightsEnum):
        if weights.value.model != model:
            raise ValueError(f"{weights} are weights of {weights.value.model}, not of {model}.")
        return weights
    text = str(weights)
    enum = WEIGHTS.get(model)
    names = {} if enum is None else dict(enum.__members__)
    if text in names:
        return names[text]
    if isinstance(weights, str) and "_Weights." in text:
        return resolve_weights(model, False, get_weight(text))
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if enum is None and text == "DEFAULT":
        get_model_weights(model)  # says which networks have published weights
    have = f"those of {model} are {', '.join(names)}" if names else f"{model} has none"
    raise ValueError(
        f"weights={text!r} is neither a file nor the name of published weights; {have}."
        f"{_nearest(text, names)}"
    )


def _known_model(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"There is no network named {name!r}.{_nearest(name, ARCHITECTURES)}")
    return name


def _nearest(name: str, known: Iterable[str]) -> str:
    """The cure for a misspelt name, as a sentence with a space before it."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""


def _build(name: str, weights: WeightsEnum | Path | None, progress: bool, **options: Any) -> ResNet:
    """Construct a network; with weights, without initialising first what they overwrite."""
    row = ARCHITECTURES[name]
    if weights is None:
        return ResNet(row, **options)
    state = (
        checkpoint.read(weights) if isinstance(weights, Path) else weights.get_state_dict(progress)
    )
    # A norm of the user's may compute in its constructor, so only our own skip theirs.
    skip = options["norm_layer"] is None
    with torch.device("meta") if skip else contextlib.nullcontext():
        model = ResNet(row, **options).float()  # as weights are kept, whatever the default dtype
    # Published weights were proven when they came into the cache; a path may lead to anything.
    checkpoint.load(model, state, str(weights), proven=not isinstance(weights, Path))
    if any(parameter.is_meta for parameter in model.fc.parameters()):
        model.reset_classifier(model.num_classes)  # the checkpoint's did not fit and was left out
    return model.to(torch.get_default_device(), torch.get_default_dtype())


def _factory(name: str) -> Factory:
    """The public function that builds the network of a row, with the row's own defaults."""
    row = ARCHITECTURES[name]

    def factory(
        pretrained: bool = False,
        *,
        weights: WeightsEnum | str | Path | None = None,
        progress: bool = True,
        num_classes: int = row.num_classes,
        in_channels: int = row.in_channels,
        dropout: float = 0.0,
        zero_init_residual: bool = False,
        norm_layer: NormLayer | None = None,
        output_stride: int = 32,
    ) -> ResNet:
        return _build(
            name,
            resolve_weights(name, pretrained, weights),
            progress,
            num_classes=num_classes,
            in_channels=in_channels,
            dropout=dropout,
            zero_init_residual=zero_init_residual,
            norm_layer=norm_layer,
            output_stride=output_stride,
        )

    factory.__name__ = factory.__qualname__ = name
    factory.__doc__ = DOCUMENTATION.format(title=row.title)
    return factory


DOCUMENTATION = """{title}: ``[N, in_channels, H, W]`` -> ``[N, num_classes]``.

    Args:
        pretrained: Load the weights of the paper (``IMAGENET1K_V1``).
        weights: A published set (a member of the enum, its name, or ``"DEFAULT"``, the best), or
            the path of a checkpoint, the user's own included.
        progress: Show a bar while downloading.
        num_classes: Outputs of the classifier; 0 for none. Where the weights have another number,
            the classifier starts untrained.
        in_channels: Channels of the images; the stem of the weights is adapted.
        dropout: Probability of dropping a feature before the classifier.
        zero_init_residual: Start every block as its shortcut.
        norm_layer: Called with a number of channels; default ``nn.BatchNorm2d``.
        output_stride: 32, 16 or 8; below 32 the last stages dilate instead of striding.

    Raises:
        ValueError: if an option is out of its range or no such weights are published.
        CheckpointError: if a checkpoint is not of this network.
        DownloadError: if published weights cannot be had, with what to do about it.
    """

resnet18 = _factory("resnet18")
resnet34 = _factory("resnet34")
resnet50 = _factory("resnet50")
resnet101 = _factory("resnet101")
resnet152 = _factory("resnet152")
pyconvresnet18 = _factory("pyconvresnet18")
pyconvresnet34 = _factory("pyconvresnet34")
pyconvresnet50 = _factory("pyconvresnet50")
pyconvresnet101 = _factory("pyconvresnet101")
pyconvresnet152 = _factory("pyconvresnet152")
pyconvhgresnet50 = _factory("pyconvhgresnet50")
pyconvhgresnet101 = _factory("pyconvhgresnet101")
pyconvhgresnet152 = _factory("pyconvhgresnet152")
pyconvresnet_tiny = _factory("pyconvresnet_tiny")

FACTORIES: dict[str, Factory] = {name: globals()[name] for name in ARCHITECTURES}
