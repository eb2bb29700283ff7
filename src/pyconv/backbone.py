"""What every network has, and features of its stages, for detectors and segmenters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.jit import (  # type: ignore[attr-defined]
    is_scripting,  # it finds no module by a name
    is_tracing,
)

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

    A stage gives ``[N, channels, H / stride, W / stride]``, finest first. The maps are named
    ``"0"``, ``"1"``, ... as torchvision's detectors want them, or as you say, so that its
    segmenters take it too. The backbone shares the network's parameters, under the same names,
    without the classifier; what comes behind the last stage asked for is left out.

    Args:
        model: A network of the zoo, with any options, or any other that has the ``stem``,
            ``stages``, ``channels`` and ``strides`` of :class:`Network`.
        stages: Which stages to return, of 1 to 4, in ascending order; or a name for each map, such
            as ``{3: "aux", 4: "out"}``. There a stage may also be named as in the network:
            ``{"layer4": "out"}``. Stage 0 is the stem's map before its pool, if the network has
            ``stem_channels`` and ``stem_stride``.

    Attributes:
        channels: Channels of each map.
        strides: Input pixels per feature of each map.
        out_channels: Channels of every map, if they are the same for all; else it is not there.
        return_layers: The name of each stage in the network, and that of its map, as in
            torchvision's ``IntermediateLayerGetter``.

    Raises:
        ValueError: if a stage does not exist, the order is wrong, or the network lacks something;
            when called, if the image is smaller than the stride of the last map.
    """

    def __init__(
        self,
        model: Network,
        stages: int | Sequence[int] | Mapping[int, str] | Mapping[str, str] = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        lacks = missing(model, "stem", "stages", "channels", "strides")
        if not isinstance(model, nn.Module) or lacks:
            raise ValueError(
                f"Backbone takes a network with stem, stages, channels and strides, and a "
                f"{type(model).__name__} lacks {lacks or 'the class nn.Module'}. Build one with "
                "get_model(), or see pyconv.Network for what your own needs."
            )
        names = {module: name for name, module in model.named_modules()}
        for module in (*model.stem, *model.stages):
            if module not in names:
                raise ValueError(
                    f"A {type(module).__name__} of the network's stem or stages is not a submodule "
                    "of it. Make it an attribute of the network."
                )
        offered = _offered(model)
        maps = _named(stages, {names[end]: number for number, (end, *_) in offered.items()})
        ends = {offered[stage][0]: name for stage, name in maps.items()}
        self._steps: list[tuple[str, str]] = []  # the modules to call, and the name of a map or ""
        for module in (*model.stem, *model.stages):
            self._take(names[module], module)
            self._steps.append((names[module], ends.pop(module, "")))
            if not ends:
                break
        self.stages: tuple[int, ...] = tuple(maps)
        self.return_layers: dict[str, str] = {name: label for name, label in self._steps if label}
        self.channels: tuple[int, ...] = tuple(offered[stage][1] for stage in maps)
        self.strides: tuple[int, ...] = tuple(offered[stage][2] for stage in maps)
        if len(set(self.channels)) == 1:
            self.out_channels: int = self.channels[0]

    def _take(self, name: str, module: nn.Module) -> None:
        """Register a module of the network under the name that it has there."""
        *outer, last = name.split(".")
        place: nn.Module = self
        for part in outer:  # such as "body" of "body.0"
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.add_module(last, module)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if not is_scripting():
            _require_pixels(x, self.strides[-1])
        features: dict[str, Tensor] = OrderedDict()
        for name, label in self._steps:
            x = self._forward_child(name, x)
            if label != "":
                features[label] = x
        return features

    def _forward_child(self, name: str, x: Tensor) -> Tensor:
        if not is_scripting():
            return self.get_submodule(name)(x)  # type: ignore[no-any-return]
        for child_name, child in self.named_children():
            if child_name == name:
                return child(x)  # type: ignore[no-any-return]
        raise KeyError(name)


def _offered(model: Any) -> dict[int, tuple[nn.Module, int, int]]:
    """Of each stage that a network offers: the module that gives its map, channels and stride."""
    rows = zip(model.stages, model.channels, model.strides, strict=False)
    offered = dict(enumerate(rows, 1))
    if not missing(model, "stem_channels", "stem_stride"):
        pools = (nn.MaxPool2d, nn.AvgPool2d, nn.Identity)
        *_, last = (module for module in model.stem if not isinstance(module, pools))
        offered = {0: (last, model.stem_channels, model.stem_stride)} | offered
    return offered


def _named(stages: Any, numbers: dict[str, int]) -> dict[int, str]:
    """Of each stage asked for, in order, the name of its map.

    Args:
        stages: What the user gave.
        numbers: The stages that there are, by their names in the network.
    """
    known = sorted(numbers.values())
    pairs: list[tuple[Any, str]]
    if isinstance(stages, Mapping):  # in any order
        pairs = [(numbers.get(stage, stage), str(label)) for stage, label in stages.items()]
        pairs.sort(key=lambda pair: known.index(pair[0]) if pair[0] in known else -1)
    else:
        given = [stages] if isinstance(stages, int) else stages
        pairs = [(stage, str(index)) for index, stage in enumerate(given)]
    wanted = dict(pairs)
    in_order = [stage for stage, _ in pairs] == [stage for stage in known if stage in wanted]
    if not pairs or not in_order or len({*wanted.values()} - {""}) < len(pairs):
        raise ValueError(
            f"stages={stages} must name stages of {known[0]} to {known[-1]} in ascending order, "
            f"each once, such as {tuple(n for n in known if n)}; or give each the name of its map, "
            f"such as {{{known[-1]}: 'out'}}."
        )
    return wanted


def _require_pixels(x: Tensor, stride: int) -> None:
    """Refuse images that are smaller than a feature, where sizes are numbers."""
    if type(x) is not Tensor or is_compiling() or is_tracing():
        return
    height, width = x.shape[-2:]
    if min(height, width) < stride:
        raise ValueError(
            f"The images are {height}x{width} pixels, and the last map has one feature per "
            f"{stride}x{stride}. Enlarge them, leave out the last stages, or build the network "
            "with output_stride=16 or 8."
        )
