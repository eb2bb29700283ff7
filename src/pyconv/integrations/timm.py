"""timm: ``import pyconv.integrations.timm`` makes the networks known to ``timm.create_model``.

For example::

    import timm, pyconv.integrations.timm

    timm.create_model("pyconvresnet50.augment_in1k", pretrained=True, num_classes=10)
    timm.create_model("pyconvhgresnet50", features_only=True, out_indices=(1, 2, 3, 4))

Networks whose names timm has itself (``resnet50``) stay timm's. Published weights come through this
library's download, which verifies them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]

from ..architectures import Architecture
from ..data.preprocess import Preprocess
from ..models.registry import REGISTRY, find_model, list_models
from ..resnet import NormLayer, ResNet
from ..weights import checkpoint
from ..weights.rows import WeightsEnum

try:
    import timm
    from timm.layers import create_classifier, drop_path
    from timm.models import (
        build_model_with_cfg,
        checkpoint_seq,
        generate_default_cfgs,
        resolve_pretrained_cfg,
    )
    from timm.models._features import feature_take_indices as take_indices
except ImportError as _error:
    raise ImportError(
        f"pyconv.integrations.timm needs timm ({_error}): pip install 'torch-pyconv[timm]'."
    ) from _error

__all__ = ["TimmResNet", "register"]

default_cfgs: dict[str, Any] = {}  # where timm looks for what is published of a network
TAGS = {"IMAGENET1K_V1": "in1k", "IMAGENET1K_V2": "augment_in1k"}  # timm's names of the sets


class TimmResNet(ResNet):
    """A network of the zoo with the arguments and methods of timm's: ``[N, in_chans, H, W]`` in.

    Parameters have the names that they have in the zoo, so weights go both ways.

    Args:
        row: The network.
        num_classes: Outputs of the classifier; 0 for none.
        in_chans: Channels of the images.
        drop_rate: Probability of dropping a feature before the classifier.
        drop_path_rate: Probability of leaving out the last block in training; it rises linearly
            from 0 at the first one.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or ``""`` for the feature map,
            which needs ``num_classes=0``.
        output_stride: 32, 16 or 8.
        norm_layer: Called with a number of channels; default ``nn.BatchNorm2d``.
        zero_init_last: Start every block as its shortcut.
    """

    if TYPE_CHECKING:  # torch.jit.script cannot read annotations of a class
        global_pool: nn.Module

    def __init__(
        self,
        row: Architecture,
        num_classes: int = 1000,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
        output_stride: int = 32,
        norm_layer: NormLayer | None = None,
        zero_init_last: bool = False,
    ) -> None:
        self.pool_type: str = global_pool
        super().__init__(
            row,
            num_classes=num_classes,
            in_channels=in_chans,
            dropout=drop_rate,
            zero_init_residual=zero_init_last,
            norm_layer=norm_layer,
            output_stride=output_stride,
        )
        del self.avgpool  # global_pool stands in its place
        self.in_chans: int = in_chans
        self.drop_rate: float = drop_rate
        self.grad_checkpointing: bool = False
        stem = row.stem
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": stem.width, "reduction": stem.stride, "module": "relu"}
        ]
        self.feature_info += [
            {"num_chs": channels, "reduction": stride, "module": f"layer{number}"}
            for number, (channels, stride) in enumerate(
                zip(self.channels, self.strides, strict=True), 1
            )
        ]
        blocks: list[Any] = [block for stage in self.stages for block in stage.children()]
        for index, block in enumerate(blocks):
            rate = drop_path_rate * index / max(len(blocks) - 1, 1)
            if rate:  # a hook, so that the parameters keep their names
                norm = block.get_submodule(block.last_norm)
                norm.register_forward_hook(partial(_drop_path, rate))

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.forward_stem(x)
        for wanted in self.stage_names:
            for name, stage in self.named_children():  # as torch.jit.script can read it
                if name == wanted:
                    if self.grad_checkpointing and not is_scripting():
                        x = checkpoint_seq(stage, x)
                    else:
                        x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.dropout(self.global_pool(x))
        return x if pre_logits else self.fc(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps behind the stem (0) and the stages (1, 2, ...); and the last one computed.

        Args:
            x: The images.
            indices: Which maps; the last so many for a number, all for None.
            norm: Without effect: the maps end in no norm.
            stop_early: Compute no stage behind the last map asked for.
            output_fmt: NCHW.
            intermediates_only: Return the list of maps alone.

        Raises:
            ValueError: if another format is asked for.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}: the maps are NCHW. Leave it out.")
        taken, last = take_indices(len(self.feature_info), indices)
        maps = []
        x = self.relu(self.bn1(self.conv1(x)))
        if 0 in taken:
            maps.append(x)
        x = self.maxpool(x)
        for number, stage in enumerate(self.stages, 1):
            if stop_early and number > last:
                break
            x = checkpoint_seq(stage, x) if self.grad_checkpointing else stage(x)
            if number in taken:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the stages behind the last map asked for, and the head; return the indices."""
        taken, last = take_indices(len(self.feature_info), indices)
        for number in range(last + 1, len(self.feature_info)):
            setattr(self, f"layer{number}", nn.Sequential())
        if last < len(self.feature_info) - 1:
            self.num_features: int = self.feature_info[last]["num_chs"]
            prune_head = True
        if last == 0:
            setattr(self, "maxpool", nn.Identity())  # noqa: B010
        if prune_head:
            self.reset_classifier(0, "")
        kept: list[int] = taken
        return kept

    def get_classifier(self, name_only: bool = False) -> Any:
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier, and the pooling before it if ``global_pool`` is given."""
        if global_pool is not None:
            self.pool_type = global_pool
        where = self.conv1.weight
        self.num_classes = num_classes
        pool, self.fc = create_classifier(
            self.num_features,
            num_classes,
            pool_type=self.pool_type,
            device=where.device,
            dtype=where.dtype,
        )
        self.head_hidden_size: int = self.num_features * pool.feat_mult()
        self.global_pool = pool.train(self.training)
        self.fc.train(self.training)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks again in the backward pass instead of keeping their maps."""
        self.grad_checkpointing = enable

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of the names of parameters, for learning rates by depth."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^conv1|bn1", "blocks": blocks}

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def no_weight_decay(self) -> set[str]:
        return set()


def _drop_path(rate: float, norm: nn.Module, inputs: Any, out: Tensor) -> Tensor:
    dropped: Tensor = drop_path(out, rate, norm.training)
    return dropped


def register(name: str) -> Callable[..., nn.Module]:
    """Make a network of the zoo known to timm: one of its own, or of ``pyconv.register_model``.

    Raises:
        ValueError: if there is no such network, no row describes it, or timm has one of that name.
    """
    network = find_model(name)
    if network.row is None:
        raise ValueError(
            f"{name} is a factory of its own, which does not take timm's arguments. Register it "
            "with timm.models.register_model."
        )
    if timm.is_model(name):
        raise ValueError(f"timm has a network named {name!r} already. Register it by another name.")
    row, sets = network.row, [] if network.weights is None else list(network.weights)

    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        **options: Any,
    ) -> nn.Module:
        cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
        # A source that the caller gave instead of ours (file=, hf_hub_id=, ...) is timm's to load.
        published = next((w for w in sets if w.url == cfg.url), None)
        elsewhere = cfg.file or cfg.state_dict or cfg.hf_hub_id
        ours = published if pretrained and not elsewhere else None
        model: nn.Module = build_model_with_cfg(
            partial(_build, row, ours),
            name,
            pretrained and ours is None,
            pretrained_cfg=cfg.to_dict(remove_null=False),
            **options,
        )
        return model

    build.__name__ = build.__qualname__ = name
    cfgs = {f"{name}.{TAGS.get(w.name, w.name.lower())}": _cfg(row, w) for w in sets}
    default_cfgs.update(generate_default_cfgs(cfgs or {name: _cfg(row, None)}))
    entrypoint: Callable[..., nn.Module] = timm.models.register_model(build)
    return entrypoint


def _build(
    row: Architecture,
    weights: WeightsEnum | None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> TimmResNet:
    model = TimmResNet(row, **options)
    if weights is not None:
        checkpoint.load(model, weights.get_state_dict(), str(weights), proven=True)
    return model.to(device=device, dtype=dtype)


def _cfg(row: Architecture, weights: WeightsEnum | None) -> dict[str, Any]:
    """What timm wants to know of a set of weights, or of a network without."""
    pixels = Preprocess() if weights is None else weights.value.preprocess
    strides = [row.stem.stride * (2 if row.stem.pool else 1), *(s.stride for s in row.stages)]
    last = -(-pixels.crop // math.prod(strides))  # the side of the map that is pooled
    return {
        "url": "" if weights is None else weights.url,
        "input_size": (row.in_channels, pixels.crop, pixels.crop),
        "pool_size": (last, last),
        "crop_pct": pixels.crop / pixels.resize,
        "interpolation": "bilinear",
        "mean": pixels.mean,
        "std": pixels.std,
        "num_classes": row.num_classes,
        "first_conv": "conv1",
        "classifier": "fc",
        "paper_ids": "arXiv:2006.11538",
        "origin_url": "https://github.com/iduta/pyconv",
    }


for _name in list_models():
    if REGISTRY[_name].row is not None and not timm.is_model(_name):
        register(_name)
