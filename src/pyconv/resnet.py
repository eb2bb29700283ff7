"""The residual blocks, and the one network class that reads a row of ``ARCHITECTURES``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # it knows no lists of modules

from .architectures import Architecture, Sampling, Stage, sample_stages
from .layers import DilatedMaxPool2d, PyConv2d, get_pyconv
from .levels import check_whole, whole
from .renamed import renamed
from .replaceable import replaceable

__all__ = ["PyConvBasicBlock1", "PyConvBasicBlock2", "PyConvBlock", "ResNet"]

NormLayer = Callable[[int], nn.Module]
Build = Callable[..., nn.Module]


@replaceable
def in_turn(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Call modules one after the other."""
    for module in modules:
        x = module(x)
    return x


class PyConvBlock(nn.Module):
    """The bottleneck: 1x1, pyramid, 1x1 (paper, figure 3). With one 3x3 level, that of ResNet.

    ``[N, in_channels, H, W]`` -> ``[N, planes * expansion, H / stride, W / stride]``.

    Args:
        in_channels: Channels of the input.
        planes: Channels inside the block.
        stride: Stride of the pyramid.
        downsample: Module of the shortcut, needed where shapes differ; None is the identity.
        norm_layer: Called with a number of channels; default ``nn.BatchNorm2d``.
        pyconv_groups, pyconv_kernels: The pyramid's levels, as in :class:`pyconv.PyConv2d`.
        expansion: Output channels per plane; 4, and 2 in the networks called HG.
        dilation: Dilation of the pyramids.
        first_dilation: Dilation of the pyramid that may stride; default ``dilation``. It is the
            smaller one in the block where a stage dilates instead of striding.

    Raises:
        ValueError: if no such pyramid exists.
    """

    if TYPE_CHECKING:
        expansion: int
    expansion = 4  # the default, and of an instance what it has
    last_norm = "bn3"  # ends the residual branch; zero_init_residual silences it

    @renamed(inplanes="in_channels")
    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        pyconv_groups: Sequence[int] | None = None,
        pyconv_kernels: int | Sequence[int] = (3,),
        *,
        expansion: int = 4,
        dilation: int = 1,
        first_dilation: int | None = None,
    ) -> None:
        super().__init__()
        self.expansion = expansion
        first_dilation = first_dilation or dilation
        norm = norm_layer or nn.BatchNorm2d
        self.conv1: nn.Conv2d = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1: nn.Module = norm(planes)
        self.conv2: PyConv2d | nn.Conv2d = get_pyconv(
            planes, planes, pyconv_kernels, stride, pyconv_groups, dilation=first_dilation
        )
        self.bn2: nn.Module = norm(planes)
        self.conv3: nn.Conv2d = nn.Conv2d(planes, planes * expansion, 1, bias=False)
        self.bn3: nn.Module = norm(planes * expansion)
        self.relu: nn.Module = nn.ReLU(inplace=True)
        self.downsample = downsample

    @replaceable
    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


class _BasicBlock(nn.Module):
    """Two pyramids, of which the first may stride; a subclass may choose another second one."""

    if TYPE_CHECKING:
        expansion: int
    expansion = 1  # the default, and of an instance what it has
    last_norm = "bn2"  # ends the residual branch; zero_init_residual silences it

    @renamed(inplanes="in_channels")
    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        pyconv_groups: Sequence[int] | None = None,
        pyconv_kernels: int | Sequence[int] = (3,),
        *,
        expansion: int = 1,
        dilation: int = 1,
        first_dilation: int | None = None,
    ) -> None:
        super().__init__()
        self.expansion = expansion
        first_dilation = first_dilation or dilation
        norm = norm_layer or nn.BatchNorm2d
        out_channels = planes * expansion
        pyramid = partial(get_pyconv, pyconv_kernels=pyconv_kernels, pyconv_groups=pyconv_groups)
        self.conv1: nn.Module = pyramid(in_channels, planes, stride=stride, dilation=first_dilation)
        self.bn1: nn.Module = norm(planes)
        self.conv2: nn.Module = self.second(pyramid, planes, out_channels, dilation)
        self.bn2: nn.Module = norm(out_channels)
        self.relu: nn.Module = nn.ReLU(inplace=True)
        self.downsample = downsample

    @staticmethod
    def second(pyramid: Build, planes: int, out_channels: int, dilation: int) -> nn.Module:
        return pyramid(planes, out_channels, dilation=dilation)

    @replaceable
    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


class PyConvBasicBlock1(_BasicBlock):
    """The basic block with two pyramids; with one 3x3 level, that of ResNet.

    Arguments as in :class:`PyConvBlock`; ``expansion`` defaults to 1.
    """


class PyConvBasicBlock2(_BasicBlock):
    """The basic block of PyConvResNet-18 and -34: a pyramid, then a 1x1.

    Arguments as in :class:`PyConvBlock`; ``expansion`` defaults to 1.
    """

    @staticmethod
    def second(pyramid: Build, planes: int, out_channels: int, dilation: int) -> nn.Module:
        return nn.Conv2d(planes, out_channels, 1, bias=False)


BLOCKS: dict[str, type[PyConvBlock] | type[_BasicBlock]] = {
    "bottleneck": PyConvBlock,
    "basic1": PyConvBasicBlock1,
    "basic2": PyConvBasicBlock2,
}


class ResNet(nn.Module):
    """The residual network that a row of ``ARCHITECTURES`` describes.

    ``[N, in_channels, H, W]`` -> ``[N, num_classes]``, for any H and W.

    Args:
        row: The architecture.
        num_classes: Outputs of the classifier; 0 for none; default as in the row.
        in_channels: Channels of the images; default as in the row.
        dropout: Probability of dropping a feature before the classifier.
        zero_init_residual: Start every block as its shortcut, by a zero in its last norm.
        norm_layer: Called with a number of channels; default ``nn.BatchNorm2d``.
        output_stride: 32, 16 or 8: the most that the last map may shrink; beyond it, stages
            dilate instead of striding, and see the same pixels with the same weights.
        replace_stride_with_dilation: Instead, whether stages 2, 3 and 4 dilate, as in torchvision.
        dilate_first_block: Dilate all of such a stage, the first block too, but not the pool of its
            shortcut: as PyConvSegNet was trained. By default, that block and its pool look as far
            as the stage before, as in torchvision.

    Raises:
        ValueError: if an option is out of its range.
    """

    __jit_unused_properties__: tuple[str, ...] = ("stem", "stages")
    first_conv: str = "conv1"  # names of the modules that a checkpoint is adapted at
    classifier: str = "fc"
    if TYPE_CHECKING:  # torch.jit.script cannot read annotations of a class
        layer1: nn.Sequential
        layer2: nn.Sequential
        layer3: nn.Sequential
        layer4: nn.Sequential

        @property
        def fc(self) -> nn.Linear: ...  # the identity where num_classes is 0
        @fc.setter
        def fc(self, classifier: nn.Module) -> None: ...

    def __init__(
        self,
        row: Architecture,
        *,
        num_classes: int | None = None,
        in_channels: int | None = None,
        dropout: float = 0.0,
        zero_init_residual: bool = False,
        norm_layer: NormLayer | None = None,
        output_stride: int = 32,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        dilate_first_block: bool = False,
    ) -> None:
        super().__init__()
        num_classes = row.num_classes if num_classes is None else num_classes
        in_channels = whole(row.in_channels if in_channels is None else in_channels)
        samplings = sample_stages(
            row, output_stride, replace_stride_with_dilation, dilate_first_block
        )
        _check_options(num_classes, in_channels, dropout)
        self.row = row
        self.dilate_first_block = dilate_first_block
        self.norm_layer: NormLayer = norm_layer or nn.BatchNorm2d
        first = row.stem
        self.conv1: nn.Conv2d = nn.Conv2d(
            in_channels, first.width, first.kernel, first.stride, first.kernel // 2, bias=False
        )
        self.bn1: nn.Module = self.norm_layer(first.width)
        self.relu: nn.Module = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1) if first.pool else nn.Identity()

        self.stem_channels: int = first.width  # of the map before the pool, which may be stage 0
        self.stem_stride: int = first.stride
        self.channels: tuple[int, ...] = ()  # of the stages' feature maps
        self.strides: tuple[int, ...] = ()  # input pixels per feature, stage by stage
        self.stage_names: list[str] = [f"layer{n}" for n in range(1, len(row.stages) + 1)]
        channels = first.width
        for name, stage, sampling in zip(self.stage_names, row.stages, samplings, strict=True):
            self.add_module(name, self._stage(channels, stage, sampling))
            channels = stage.planes * row.expansion
            self.channels += (channels,)
            self.strides += (sampling.reduction,)

        # The dropout, called behind the pool, comes before it here, so that children()[:-2] end
        # with the last map and children()[:-1] with the pool, as in torchvision.
        self.dropout: nn.Module = nn.Dropout(dropout)
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.num_features: int = channels
        self.reset_classifier(num_classes)
        if not self.conv1.weight.is_meta:  # there, a checkpoint is to bring all values
            self.reset_parameters(zero_init_residual)

    def _stage(self, in_channels: int, stage: Stage, sampling: Sampling) -> nn.Sequential:
        """The blocks of a stage, of which the first one may sample the map otherwise."""
        block = partial(
            BLOCKS[self.row.block],
            norm_layer=self.norm_layer,
            pyconv_groups=stage.groups,
            pyconv_kernels=stage.kernels,
            expansion=self.row.expansion,
            dilation=sampling.dilation,
        )
        out_channels = stage.planes * self.row.expansion
        shortcut = self._shortcut(in_channels, out_channels, stage, sampling)
        first = block(
            in_channels, stage.planes, sampling.stride, shortcut, first_dilation=sampling.first
        )
        rest = (block(out_channels, stage.planes) for _ in range(1, stage.blocks))
        return nn.Sequential(first, *rest)

    def _shortcut(
        self, in_channels: int, out_channels: int, stage: Stage, sampling: Sampling
    ) -> nn.Module | None:
        """What brings the input of a stage to the shape of its output; None for the identity.

        Where a stage shrinks by its row, the pool stays in its place even if a dilation took the
        stride away: the published weights were trained behind it.
        """
        shrinks, widens = stage.stride > 1, in_channels != out_channels
        pool = shrinks and self.row.pool_shortcut
        stride, dilation = sampling.stride, sampling.pool
        if not (shrinks or widens):
            return None
        layers: list[nn.Module] = []
        if pool:
            plain = nn.MaxPool2d(3, stride, 1)
            layers += [plain if dilation == 1 else DilatedMaxPool2d(dilation, stride)]
        if widens or not pool:
            conv = nn.Conv2d(in_channels, out_channels, 1, 1 if pool else stride, bias=False)
            layers += [conv, self.norm_layer(out_channels)]
        return nn.Sequential(*layers)

    @torch.no_grad()
    def reset_parameters(self, zero_init_residual: bool = False) -> None:
        """Kaiming normal (fan out) for convolutions; for norms and the classifier PyTorch's own."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif module is not self and reset is not None:
                reset()
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, (PyConvBlock, _BasicBlock)):
                    _silence(module.get_submodule(module.last_norm))

    @property
    def stem(self) -> list[nn.Module]:
        """What is called before the stages, in order."""
        return [self.conv1, self.bn1, self.relu, self.maxpool]

    @property
    def stages(self) -> list[nn.Module]:
        """The stages in order: ``layer1``, ``layer2``, ..."""
        return [self.get_submodule(name) for name in self.stage_names]

    def forward_stem(self, x: Tensor) -> Tensor:
        """What comes before the stages: ``[N, in_channels, H, W]`` -> ``[N, C, H / s, W / s]``."""
        if not is_scripting():
            return in_turn(self.stem, x)
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature map, smaller by ``strides[-1]``, rounded up.

        ``[N, in_channels, H, W]`` -> ``[N, num_features, H / strides[-1], W / strides[-1]]``.
        """
        x = self.forward_stem(x)
        if not is_scripting():
            return in_turn(self.stages, x)
        for wanted in self.stage_names:
            for name, child in self.named_children():
                if name == wanted:
                    x = child(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify a feature map; with ``pre_logits`` only pool: ``[N, num_features]``."""
        x = self.dropout(torch.flatten(self.avgpool(x), 1))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The classifier: a linear layer, or the identity where ``num_classes`` is 0."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one with ``num_classes`` outputs; 0 for none.

        Raises:
            ValueError: if that is no number of classes.
        """
        num_classes = check_whole("num_classes", num_classes, least=0)
        self.num_classes: int = num_classes
        where = self.conv1.weight
        self.fc = (
            nn.Linear(self.num_features, num_classes, device=where.device, dtype=where.dtype)
            if num_classes
            else nn.Identity()
        ).train(self.training)


def _silence(norm: nn.Module) -> None:
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor):
        raise ValueError(
            f"zero_init_residual=True needs norms with a weight, and {type(norm).__name__} has "
            "none. Choose another norm_layer, or zero_init_residual=False."
        )
    nn.init.zeros_(weight)


def _check_options(num_classes: Any, in_channels: Any, dropout: Any) -> None:
    check_whole("num_classes", num_classes, least=0)
    check_whole("in_channels", in_channels, least=1)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must be a probability, 0 <= dropout < 1.")
