"""The factories of the zoo, such as ``pyconvresnet50(...)``, and how a network is registered.

A new network is a row of ``ARCHITECTURES``, or a call of :func:`register_model`, from a file of
the user's own as well.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, overload

import torch
from torch import nn

from ..architectures import ARCHITECTURES, Architecture
from ..backbone import image_channels
from ..resnet import NormLayer, ResNet
from ..weights import checkpoint
from ..weights.rows import ENUMS, WeightsEnum
from .registry import REGISTRY, Build, Registered, find_model, resolve_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

F = TypeVar("F", bound=Build)


class ModelOptions(TypedDict, total=False):
    """The options of a network, besides ``pretrained``; defaults as in :class:`Factory`."""

    weights: WeightsEnum | str | Path | None
    progress: bool
    num_classes: int
    in_channels: int
    dropout: float
    zero_init_residual: bool
    norm_layer: NormLayer | None
    output_stride: int
    weights_backbone: WeightsEnum | str | Path | None  # this and the next of segmentation networks
    aux: bool | None


class Factory(Protocol):
    """What every network of the zoo is built with."""

    __name__: str

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


if TYPE_CHECKING:  # for editors and type checkers; at run time, the rows make the factories
    resnet18: Factory
    resnet34: Factory
    resnet50: Factory
    resnet101: Factory
    resnet152: Factory
    pyconvresnet18: Factory
    pyconvresnet34: Factory
    pyconvresnet50: Factory
    pyconvresnet101: Factory
    pyconvresnet152: Factory
    pyconvhgresnet50: Factory
    pyconvhgresnet101: Factory
    pyconvhgresnet152: Factory
    pyconvresnet_tiny: Factory


@overload
def register_model(
    name: str, model: Architecture, *, weights: type[WeightsEnum] | None = None
) -> Factory: ...
@overload
def register_model(name: str, model: F, *, weights: type[WeightsEnum] | None = None) -> F: ...
@overload
def register_model(
    name: str | None = None, *, weights: type[WeightsEnum] | None = None
) -> Callable[[F], F]: ...
@overload
def register_model(name: F) -> F: ...
def register_model(
    name: str | Build | None = None,
    model: Architecture | Build | None = None,
    *,
    weights: type[WeightsEnum] | None = None,
) -> Any:
    """Add a network, so that :func:`get_model` and the commands find it; return its factory.

    ``register_model("mine", row)`` and ``register_model("mine", factory)`` add it at once;
    ``@register_model`` and ``@register_model("mine")`` decorate a factory, a function or a class.
    The commands find the networks of a file ``nets.py`` as ``--model nets:mine``.

    Args:
        name: The name of the network; default that of the factory.
        model: The row that describes it, or a factory: it is called with the options that a caller
            gives, such as ``num_classes``, and returns a module. For what such a module may offer,
            see :class:`Network`.
        weights: The enum of the weights that are published for it.

    Raises:
        ValueError: if a network of that name is registered already.
    """
    if name is not None and not isinstance(name, str):
        return _register(name.__name__, name, weights)
    if model is None:
        return lambda factory: _register(name or factory.__name__, factory, weights)
    assert name is not None
    return _register(name, model, weights)


def _register(name: str, model: Architecture | Build, weights: type[WeightsEnum] | None) -> Build:
    if name in REGISTRY:
        raise ValueError(f"A network named {name!r} is registered already. Choose another name.")
    if isinstance(model, Architecture):
        REGISTRY[name] = Registered(name, _factory(name, model), weights, model)
    else:
        REGISTRY[name] = Registered(name, model, weights)
    return REGISTRY[name].factory


def get_model(name: str, *, pretrained: bool = False, **options: Unpack[ModelOptions]) -> nn.Module:
    """Build a network by its name; options as in :func:`pyconvresnet50`.

    ``"module:name"`` imports the module first: it may register networks, or hold a factory of that
    name. A factory of the user's own is called with the options that are given here, and the
    weights are loaded into what it returns.

    Raises:
        ValueError: if there is no such network, with the nearest name; or if the module cannot be
            imported, or its factory does not take an option.
    """
    network = find_model(name)
    if network.loads:
        return network.factory(pretrained, **options)
    progress = options.pop("progress", True)
    weights = resolve_weights(name, pretrained, options.pop("weights", None))
    model = _call(network, options)
    if weights is not None:
        state, proven = _read(weights, progress), not isinstance(weights, Path)
        checkpoint.load(model, state, str(weights), proven=proven)
    return model


def _call(network: Registered, options: Mapping[str, Any]) -> nn.Module:
    """Call a factory of the user's own; say so if it does not take the options."""
    try:
        signature = inspect.signature(network.factory)
    except ValueError:  # some callables have none
        return network.factory(**options)
    try:
        signature.bind(**options)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ValueError(
            f"The factory of {network.name} does not fit the call {network.name}({given}): {error}."
            " Give it these arguments, and a default to all others."
        ) from error
    return network.factory(**options)


def options_for(name: str, path: Path) -> dict[str, Any]:
    """The options with which a network fits a checkpoint: its ``num_classes``, ``in_channels``.

    Raises:
        ValueError: as :func:`get_model`.
        CheckpointError, OSError: if the file cannot be read.
    """
    network, state = find_model(name), checkpoint.read(path, tell=False)
    if network.loads:
        with torch.device("meta"):
            return checkpoint.sizes(state, network.factory())
    probe = _call(network, {"num_classes": 1})  # it says how its modules are named
    sizes = checkpoint.sizes(state, probe)
    sizes["num_classes"] = sizes["num_classes"] or len(checkpoint.read_notes(path).classes or ())
    if sizes.get("in_channels") == image_channels(probe):
        del sizes["in_channels"]  # which the factory need not take
    return {option: size for option, size in sizes.items() if size}


def _read(weights: WeightsEnum | Path, progress: bool) -> Any:
    if isinstance(weights, Path):
        return checkpoint.read(weights)
    return weights.get_state_dict(progress)


def _build(
    row: Architecture, weights: WeightsEnum | Path | None, progress: bool, **options: Any
) -> ResNet:
    """Construct a network; with weights, without initialising first what they overwrite."""
    if weights is None:
        return ResNet(row, **options)
    state = _read(weights, progress)
    # A norm of the user's may compute in its constructor, so only our own skip theirs.
    skip = options["norm_layer"] is None
    with torch.device("meta") if skip else contextlib.nullcontext():
        model = ResNet(row, **options).float()  # as weights are kept, whatever the default dtype
    # Published weights were proven when they came into the cache; a path may lead to anything.
    checkpoint.load(model, state, str(weights), proven=not isinstance(weights, Path))
    if any(parameter.is_meta for parameter in model.fc.parameters()):
        model.reset_classifier(model.num_classes)  # the checkpoint's did not fit and was left out
    return model.to(torch.get_default_device(), torch.get_default_dtype())


def _factory(name: str, row: Architecture) -> Factory:
    """The public function that builds the network of a row, with the row's own defaults."""

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
            row,
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

_PUBLISHED = {enum["DEFAULT"].value.model: enum for enum in ENUMS}
for _name, _row in ARCHITECTURES.items():
    register_model(_name, _row, weights=_PUBLISHED.get(_name))

if not TYPE_CHECKING:  # a list that is computed would hide the names from type checkers
    globals().update({name: REGISTRY[name].factory for name in ARCHITECTURES})
    __all__ = ["get_model", "register_model", *ARCHITECTURES]
