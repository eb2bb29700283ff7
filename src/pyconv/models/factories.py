"""The factories of the zoo, such as ``pyconvresnet50(...)``, and how a network is registered.

A new network is a row of ``ARCHITECTURES``, or a call of :func:`register_model`, from a file of
the user's own as well.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar, overload

import torch
from torch import Tensor, nn

from ..architectures import ARCHITECTURES, Architecture
from ..backbone import image_channels
from ..renamed import renamed
from ..resnet import NormLayer, ResNet
from ..weights import checkpoint
from ..weights.rows import ENUMS, WeightsEnum
from .registry import REGISTRY, Build, Registered, find_model, resolve_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

F = TypeVar("F", bound=Build)
State = Mapping[str, Tensor]

logger: logging.Logger = logging.getLogger(__name__)

NEW = "For a new, untrained one give num_classes."


class ModelOptions(TypedDict, total=False):
    """The options of a network, besides ``pretrained``; defaults as in :class:`Factory`."""

    weights: WeightsEnum | str | Path | None
    progress: bool
    num_classes: int | None
    in_channels: int | None
    dropout: float
    zero_init_residual: bool
    norm_layer: NormLayer | None
    output_stride: int
    replace_stride_with_dilation: Sequence[bool] | None
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
        num_classes: int | None = None,
        in_channels: int | None = None,
        dropout: float = 0.0,
        zero_init_residual: bool = False,
        norm_layer: NormLayer | None = None,
        output_stride: int = 32,
        replace_stride_with_dilation: Sequence[bool] | None = None,
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
    weights are loaded into what it returns. Where these are a file, and it takes ``num_classes``,
    it is called with the file's own unless one is given.

    Raises:
        ValueError: if there is no such network, with the nearest name; or if the module cannot be
            imported, or its factory does not take an option.
    """
    network = find_model(name)
    if network.loads:
        return network.factory(pretrained, **options)
    progress = options.pop("progress", True)
    weights = resolve_weights(name, pretrained, options.pop("weights", None))
    return build(network, weights, *_read(weights, progress), options)


def build(
    network: Registered,
    weights: WeightsEnum | Path | None,
    state: State | None,
    notes: checkpoint.Notes,
    options: Mapping[str, Any],
) -> nn.Module:
    """Build a network with weights that are read already.

    Args:
        network: Which one.
        weights: Where the state dict is from.
        state: The state dict; None for fresh weights.
        notes: What the file says beside it.
        options: Those of the factory. Sizes that are None or not given are the weights' own.
    """
    if network.row is not None:
        return _build(network.row, weights, state, **options)
    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(weights, Path) and state is not None:
        given = _sizes(network, state, notes, given) | given
    model = _call(network, given)
    if state is not None:
        # Published weights were proven when they came into the cache; a path may lead to anything.
        proven = not isinstance(weights, Path)
        checkpoint.load(model, state, str(weights), proven=proven)
    return model


def _call(network: Registered, options: Mapping[str, Any]) -> nn.Module:
    """Call a factory of the user's own; say so if it does not fit."""
    if isinstance(network.factory, nn.Module):
        raise ValueError(f"{network.name} is a network. Name a function that makes and returns it.")
    try:
        inspect.signature(network.factory).bind(**options)
    except ValueError:  # some callables have no signature
        pass
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ValueError(
            f"The factory of {network.name} does not fit the call {network.name}({given}): {error}."
            " Give it these arguments, and a default to all others."
        ) from error
    model = network.factory(**options)
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise ValueError(f"The factory of {network.name} returns a {kind}, and no nn.Module.")
    return model


def _sizes(
    network: Registered,
    state: State,
    notes: checkpoint.Notes,
    given: Mapping[str, Any],
) -> dict[str, int]:
    """The sizes with which a factory of the user's own fits a file, where it takes them."""
    if "num_classes" in given or not _takes(network, "num_classes"):
        return {}
    probe = _call(network, {**given, "num_classes": 1})  # it says how its modules are named
    sizes = checkpoint.sizes(state, probe)
    sizes["num_classes"] = sizes.get("num_classes") or len(notes.classes or ())
    if sizes.get("in_channels") == image_channels(probe):
        del sizes["in_channels"]  # which the factory need not take
    return {option: size for option, size in sizes.items() if size and _takes(network, option)}


def _takes(network: Registered, option: str) -> bool:
    """Whether a factory has an argument of this name."""
    try:
        parameters = inspect.signature(network.factory).parameters.values()
    except ValueError:  # some callables have none
        return False
    return any(each.name == option or each.kind is each.VAR_KEYWORD for each in parameters)


def _read(
    weights: WeightsEnum | Path | None, progress: bool
) -> tuple[State | None, checkpoint.Notes]:
    if isinstance(weights, Path):
        return checkpoint.read_noted(weights)
    return None if weights is None else weights.get_state_dict(progress), checkpoint.Notes()


def _build(
    row: Architecture,
    weights: WeightsEnum | Path | None,
    state: State | None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    norm_layer: NormLayer | None = None,
    **options: Any,
) -> ResNet:
    """Construct a network; with weights, without initialising first what they overwrite."""
    headless = False
    if state is not None and None in (num_classes, in_channels):
        own = _own_sizes(row, state)
        headless = num_classes is None and own.get("num_classes") == 0
        num_classes = own.get("num_classes") if num_classes is None else num_classes
        in_channels = own.get("in_channels") if in_channels is None else in_channels
    options |= {"num_classes": num_classes, "in_channels": in_channels, "norm_layer": norm_layer}
    if state is None:
        return ResNet(row, **options)
    # A norm of the user's may compute in its constructor, so only our own skip theirs.
    with torch.device("meta") if norm_layer is None else contextlib.nullcontext():
        model = ResNet(row, **options).float()  # as weights are kept, whatever the default dtype
    checkpoint.load(model, state, str(weights), proven=not isinstance(weights, Path))
    if headless:
        logger.warning("%s has no classifier, so the model gives features. %s", weights, NEW)
    if any(parameter.is_meta for parameter in model.fc.parameters()):
        model.reset_classifier(model.num_classes)  # the checkpoint's did not fit and was left out
    return model.to(torch.get_default_device(), torch.get_default_dtype())


def _own_sizes(row: Architecture, state: State) -> dict[str, int]:
    """The sizes of a state dict, which may have the network below a prefix."""
    sizes = checkpoint.sizes(state)
    if sizes.get("num_classes") and "in_channels" in sizes:
        return sizes
    with torch.device("meta"):
        return checkpoint.sizes(state, ResNet(row))


def _factory(name: str, row: Architecture) -> Factory:
    """The public function that builds the network of a row, with the row's own defaults."""

    def factory(
        pretrained: bool = False,
        *,
        weights: WeightsEnum | str | Path | None = None,
        progress: bool = True,
        num_classes: int | None = None,
        in_channels: int | None = None,
        dropout: float = 0.0,
        zero_init_residual: bool = False,
        norm_layer: NormLayer | None = None,
        output_stride: int = 32,
        replace_stride_with_dilation: Sequence[bool] | None = None,
    ) -> ResNet:
        chosen = resolve_weights(name, pretrained, weights)
        return _build(
            row,
            chosen,
            _read(chosen, progress)[0],
            num_classes=num_classes,
            in_channels=in_channels,
            dropout=dropout,
            zero_init_residual=zero_init_residual,
            norm_layer=norm_layer,
            output_stride=output_stride,
            replace_stride_with_dilation=replace_stride_with_dilation,
        )

    # Named before it is wrapped: Python's own errors name the innermost function.
    factory.__name__ = factory.__qualname__ = name
    factory.__doc__ = DOCUMENTATION.format(**vars(row))
    return renamed(dropout_prob0="dropout")(factory)


DOCUMENTATION = """{title}: ``[N, in_channels, H, W]`` -> ``[N, num_classes]``.

    Args:
        pretrained: Load the weights of the paper (``IMAGENET1K_V1``).
        weights: A published set (a member of the enum, its name, or ``"DEFAULT"``, the best), or
            the path of a checkpoint, the user's own included.
        progress: Show a bar while downloading.
        num_classes: Outputs of the classifier; 0 for none. Default the weights' own number, and
            {num_classes} without weights. Where the weights have another, the classifier starts
            untrained.
        in_channels: Channels of the images; default the weights' own, and {in_channels} without
            weights. Where the weights have another number, their stem is adapted.
        dropout: Probability of dropping a feature before the classifier.
        zero_init_residual: Start every block as its shortcut.
        norm_layer: Called with a number of channels; default ``nn.BatchNorm2d``.
        output_stride: 32, 16 or 8; below 32 the last stages dilate instead of striding.
        replace_stride_with_dilation: Instead, whether stages 2, 3 and 4 dilate, as in torchvision.

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
