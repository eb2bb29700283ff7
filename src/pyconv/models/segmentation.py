"""The factories of segmentation networks, such as ``pyconvsegnet_pyconvresnet50(...)``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from ..architectures import Architecture
from ..pyconvsegnet import SEGNETS, PyConvSegNet, dilated
from ..resnet import NormLayer, ResNet
from ..weights import checkpoint
from ..weights.rows import WeightsEnum
from ..weights.segmentation import SEGMENTATION_ENUMS
from .factories import State, _build, _read
from .registry import REGISTRY, Registered, resolve_weights


class SegmentationFactory(Protocol):
    """What every segmentation network is built with."""

    __name__: str

    def __call__(
        self,
        pretrained: bool = False,
        *,
        weights: WeightsEnum | str | Path | None = None,
        weights_backbone: WeightsEnum | str | Path | None = None,
        progress: bool = True,
        num_classes: int | None = None,
        aux: bool | None = None,
        in_channels: int | None = None,
        dropout: float = 0.1,
        norm_layer: NormLayer | None = None,
        output_stride: int = 8,
    ) -> PyConvSegNet: ...


if TYPE_CHECKING:  # for editors and type checkers; at run time, the rows make the factories
    pyconvsegnet_resnet50: SegmentationFactory
    pyconvsegnet_resnet101: SegmentationFactory
    pyconvsegnet_resnet152: SegmentationFactory
    pyconvsegnet_pyconvresnet50: SegmentationFactory
    pyconvsegnet_pyconvresnet101: SegmentationFactory
    pyconvsegnet_pyconvresnet152: SegmentationFactory
    pyconvsegnet_pyconvhgresnet50: SegmentationFactory
    pyconvsegnet_pyconvhgresnet101: SegmentationFactory
    pyconvsegnet_pyconvhgresnet152: SegmentationFactory

CLASSES = 150  # ADE20K's
AUX = "aux"  # a part of the names of what the auxiliary head holds


def _with_weights(
    build: Callable[[int, int | None, bool], PyConvSegNet],
    weights: WeightsEnum | Path,
    state: State,
    sizes: dict[str, int],
    aux: bool | None,
    on_meta: bool,
) -> PyConvSegNet:
    """The network that ``build`` makes of classes, channels and an auxiliary head, with weights.

    ``sizes`` are those asked for; those that are not are the weights' own.
    """
    with torch.device("meta"):
        own = checkpoint.sizes(state, build(CLASSES, None, True))
    sizes = own | sizes
    held = {key for key in state if AUX in key.split(".")}
    aux = bool(held) if aux is None else aux
    if not aux:
        state = {key: tensor for key, tensor in state.items() if key not in held}
    with torch.device("meta") if on_meta else contextlib.nullcontext():
        model = build(sizes.get("num_classes") or CLASSES, sizes.get("in_channels"), aux).float()
    checkpoint.load(model, state, str(weights), proven=not isinstance(weights, Path))
    for module in model.modules():  # a classifier that did not fit and was left out
        if isinstance(module, nn.Conv2d) and module.weight.is_meta:
            module.to_empty(device="cpu").reset_parameters()
    return model.to(torch.get_default_device(), torch.get_default_dtype())


def _factory(name: str, row: Architecture) -> SegmentationFactory:
    """The public function that builds the network over the backbone of a row."""

    def factory(
        pretrained: bool = False,
        *,
        weights: WeightsEnum | str | Path | None = None,
        weights_backbone: WeightsEnum | str | Path | None = None,
        progress: bool = True,
        num_classes: int | None = None,
        aux: bool | None = None,
        in_channels: int | None = None,
        dropout: float = 0.1,
        norm_layer: NormLayer | None = None,
        output_stride: int = 8,
    ) -> PyConvSegNet:
        chosen = resolve_weights(name, pretrained, weights)
        before = resolve_weights(name.removeprefix("pyconvsegnet_"), False, weights_backbone)
        if chosen is not None and before is not None:
            raise ValueError(
                f"The weights {str(chosen)!r} are those of the whole network, its backbone's among "
                "them. Leave weights_backbone out, or weights."
            )
        inside: dict[str, Any] = {"norm_layer": norm_layer, "output_stride": output_stride}

        def over(backbone: ResNet, num_classes: int, aux: bool) -> PyConvSegNet:
            return PyConvSegNet(
                backbone, num_classes, aux=aux, dropout=dropout, norm_layer=norm_layer
            )

        if chosen is None:
            state = _read(before, progress)[0]
            inside |= {"in_channels": in_channels, "dilate_first_block": True}
            backbone = _build(row, before, state, **inside)
            return over(backbone, CLASSES if num_classes is None else num_classes, aux is not False)
        state = _read(chosen, progress)[0]
        assert state is not None
        asked = {"num_classes": num_classes, "in_channels": in_channels}
        return _with_weights(
            lambda classes, channels, aux: over(
                dilated(row, in_channels=channels, **inside), classes, aux
            ),
            chosen, state, {key: size for key, size in asked.items() if size is not None}, aux,
            # A norm of the user's may compute in its constructor, so only our own skip theirs.
            on_meta=norm_layer is None,
        )  # fmt: skip

    factory.__name__ = factory.__qualname__ = name
    factory.__doc__ = DOCUMENTATION.format(title=row.title)
    return factory


DOCUMENTATION = """PyConvSegNet over {title}: ``[N, C, H, W]`` -> a class for each pixel.

    As in :class:`PyConvSegNet`: an ordered dict whose ``out`` is ``[N, num_classes, H, W]``.

    Args:
        pretrained: Load the weights of the paper (``ADE20K_V1``).
        weights: A published set (a member of the enum, its name, or ``"DEFAULT"``, the best), or
            the path of a checkpoint, the user's own included.
        weights_backbone: Instead, ImageNet weights of the backbone, to train from: a member of its
            enum, its name, ``"DEFAULT"``, or the path of a checkpoint.
        progress: Show a bar while downloading.
        num_classes: Classes of the pixels; default the weights' own number, and 150 without
            weights. Where the weights have another, the classifiers start untrained.
        aux: Whether there is an auxiliary head, for training; default as in the weights, and true
            without.
        in_channels: Channels of the images; default the weights' own, and 3 without weights. Where
            the weights have another number, their stem is adapted.
        dropout: Probability of dropping a channel before the classifiers.
        norm_layer: Called with a number of channels; default ``nn.BatchNorm2d``.
        output_stride: 8, 16 or 32: the most that the backbone's map may shrink; 8 in the paper.

    Raises:
        ValueError: if an option is out of its range or no such weights are published.
        CheckpointError: if a checkpoint is not of this network.
        DownloadError: if published weights cannot be had, with what to do about it.
    """

_PUBLISHED = {enum["DEFAULT"].value.model: enum for enum in SEGMENTATION_ENUMS}
for _name, _row in SEGNETS.items():
    REGISTRY[_name] = Registered(
        _name, _factory(_name, _row), _PUBLISHED.get(_name), task="segmentation"
    )

if not TYPE_CHECKING:  # a list that is computed would hide the names from type checkers
    globals().update({name: REGISTRY[name].factory for name in SEGNETS})
    __all__ = [*SEGNETS]
