"""What every network has, and features of its stages, for detectors and segmenters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # it finds no module by a name

__all__ = ["Backbone", "Network"]


class Network(Protocol):
    """What a network has, so that the library can train, freeze, adapt, evaluate and dissect it.

    The zoo's networks have all of it. A module of your own needs what it is used for:
    :class:`Backbone` the first four, freezing ``stem`` and ``stages``, weights of other classes
    or channels ``classifier`` and ``first_conv``, unless these are named as in the zoo.
    """

    @property
    def stem(self) -> Sequence[nn.Module]:
        """The modules that are called before the stages, in order."""

    @property
    def stages(self) -> Sequence[nn.Module]:
        """The stages in order; each takes the map of the one before it."""

    @property
    def channels(self) -> Sequence[int]:
        """Channels of the map of each stage."""

    @property
    def strides(self) -> Sequence[int]:
        """Input pixels per feature of the map of each stage."""

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 where there is none."""

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by an untrained one."""

    @property
    def first_conv(self) -> str:
        """The name of the first convolution; ``"conv1"`` where a network does not say."""

    @property
    def classifier(self) -> str:
        """The name of the classifier; ``"fc"`` where a network does not say."""


def missing(network: object, *names: str) -> str:
    """Which of these attributes a network has not, as words; empty if it has them all."""
    return ", ".join(name for name in names if not hasattr(network, name))


def image_channels(network: nn.Module) -> int:
    """Channels of the images that a network takes: those of its first convolution."""
    name = getattr(network, "first_conv", None)
    if isinstance(name, str):
        named = getattr(network.get_submodule(name), "in_channels", None)
        if isinstance(named, int):
            return named
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return next((conv.in_channels for conv in convolutions), 3)


class Backbone(nn.Module):
    """The feature maps of a network's stages: ``[N, in_channels, H, W]`` -> an ordered dict.

    Stage ``n`` gives ``"layer{n}"``: ``[N, channels, H / stride, W / stride]``, finest first. The
    backbone shares the network's parameters, under the same names, without the classifier; stages
    behind the last one asked for are left out. It fits where detectors expect a backbone, such as
    torchvision's ``FasterRCNN`` and ``BackboneWithFPN``'s inner body.

    Args:
        model: A network of the zoo, with any ``output_stride`` and norm, or any other that has the
            ``stem``, ``stages``, ``channels`` and ``strides`` of :class:`Network`.
        stages: Which stages to return, of 1 to 4, in ascending order.

    Attributes:
        channels: Channels of each map.
        strides: Input pixels per feature of each map.
        return_layers: The name of each stage in the network, and that of its map, as in
            torchvision's ``IntermediateLayerGetter``.

    Raises:
        ValueError: if a stage does not exist, the order is wrong, or the network lacks something.
    """

    def __init__(self, model: Network, stages: int | Sequence[int] = (1, 2, 3, 4)) -> None:
        super().__init__()
        lacks = missing(model, "stem", "stages", "channels", "strides")
        if not isinstance(model, nn.Module) or lacks:
            raise ValueError(
                f"Backbone takes a network with stem, stages, channels and strides, and a "
                f"{type(model).__name__} lacks {lacks or 'the class nn.Module'}. Build one with "
                "get_model(), or see pyconv.Network for what your own needs."
            )
        stages = (stages,) if isinstance(stages, int) else tuple(stages)
        count = len(model.stages)
        if (
            not stages
            or sorted(set(stages)) != list(stages)
            or not {*stages} <= {*range(1, count + 1)}
        ):
            raise ValueError(
                f"stages={stages} must name stages of 1 to {count} in ascending order, each once, "
                "such as (1, 2, 3, 4)."
            )
        names = {module: name for name, module in model.named_modules()}
        self._stem = tuple(self._take(names, module) for module in model.stem)
        self._stages = tuple(self._take(names, module) for module in model.stages[: stages[-1]])
        self.stages = stages
        self.return_layers: dict[str, str] = {
            self._stages[stage - 1]: f"layer{stage}" for stage in stages
        }
        self.channels: tuple[int, ...] = tuple(model.channels[stage - 1] for stage in stages)
        self.strides: tuple[int, ...] = tuple(model.strides[stage - 1] for stage in stages)

    def _take(self, names: dict[nn.Module, str], module: nn.Module) -> str:
        """Register a module of the network under the name that it has there; that name."""
        if module not in names:
            raise ValueError(
                f"A {type(module).__name__} of the network's stem or stages is not a submodule of "
                "it. Make it an attribute of the network."
            )
        *outer, last = names[module].split(".")
        place: nn.Module = self
        for name in outer:  # such as "body" of "body.0"
            if name not in dict(place.named_children()):
                place.add_module(name, nn.Module())
            place = place.get_submodule(name)
        place.add_module(last, module)
        return names[module]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for name in self._stem:
            x = self._forward_child(name, x)
        features: dict[str, Tensor] = OrderedDict()
        for number, name in enumerate(self._stages, 1):
            x = self._forward_child(name, x)
            if number in self.stages:
                features[f"layer{number}"] = x
        return features

    def _forward_child(self, name: str, x: Tensor) -> Tensor:
        if not is_scripting():
            return self.get_submodule(name)(x)  # type: ignore[no-any-return]
        for child_name, child in self.named_children():
            if child_name == name:
                return child(x)  # type: ignore[no-any-return]
        raise KeyError(name)
