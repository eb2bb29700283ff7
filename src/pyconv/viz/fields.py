"""Effective receptive fields: which pixels move the centre of a map, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..backbone import image_channels
from .canvas import INK, RED, TIMES, bare, name_of, new_figure
from .probe import output_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["centre_of", "effective_receptive_field", "receptive_field", "side_with"]

BATCH = 4  # images at once: memory, not speed, decides


def effective_receptive_field(
    model: nn.Module,
    stage: int | str = 2,
    *,
    size: int = 257,
    samples: int = 8,
    seed: int = 0,
) -> Tensor:
    """How much each pixel of an image moves the centre of a map: ``[size, size]``, its sum 1.

    The gradient of the centre, all its channels summed, with respect to the image; its absolute
    value, averaged over the channels of the image and over normal random images (Luo et al. 2016,
    arXiv:1701.04128). The model computes in eval mode and is not changed.

    Args:
        model: A network of the zoo or of another library.
        stage: The number of a stage, from 1, or the name of a module, such as ``"layer3.1"``.
        size: Side of the images in pixels. At 257 the centre of a map lies above that of the image.
        samples: How many images; fewer are faster and give more noise.
        seed: Of the images.

    Raises:
        ValueError: if the model has no such stage, or what it gives there is no map.
    """
    module = _stage(model, stage)
    some, generator = next(model.parameters()), torch.Generator().manual_seed(seed)
    field = torch.zeros(size, size, dtype=torch.double)
    with torch.enable_grad():
        for first in range(0, samples, BATCH):
            shape = min(BATCH, samples - first), image_channels(model), size, size
            x = torch.randn(shape, generator=generator).to(some.device, some.dtype)
            field += _gradient(output_of(module, model, x.requires_grad_()), x, stage)
    total = float(field.sum())
    if not total > 0:
        raise ValueError(
            f"No pixel moves the centre of {stage!r}: the gradient is {total}. Look at the weights."
        )
    return (field / total).float()


def _stage(model: nn.Module, stage: int | str) -> nn.Module:
    """The module whose map is asked for."""
    if isinstance(stage, str):
        try:
            return model.get_submodule(stage)
        except AttributeError as error:
            have = ", ".join(name for name, _ in model.named_children())
            raise ValueError(
                f"The model has no module {stage!r}. It begins with: {have}."
            ) from error
    stages: Sequence[nn.Module] | None = getattr(model, "stages", None)
    if stages is None:
        raise ValueError(
            f"A {type(model).__name__} has no stages. Name one of its modules, such as "
            "stage='layer4' of torchvision's ResNets."
        )
    if not 1 <= stage <= len(stages):
        raise ValueError(f"stage={stage} must be one of 1 to {len(stages)}.")
    return stages[stage - 1]


def _gradient(maps: Any, x: Tensor, stage: int | str) -> Tensor:
    """The sum over the images of how much each pixel moves the centre of the map."""
    if not isinstance(maps, Tensor) or maps.dim() != 4:
        found = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(
            f"{stage!r} gives no map [N, C, height, width], but {found}. Name a convolution or a "
            "stage that the model calls."
        )
    height, width = maps.shape[-2:]
    centre = maps[:, :, height // 2, width // 2].sum()
    (gradient,) = torch.autograd.grad(centre, x)
    return gradient.abs().mean(1).sum(0).double().cpu()


def centre_of(field: Tensor) -> tuple[int, int]:
    """The centre of gravity of a field, rounded to a pixel."""
    rows, columns = (torch.arange(n, dtype=torch.double) for n in field.shape)
    field = field.double() / field.double().sum()
    return round(float(field.sum(1) @ rows)), round(float(field.sum(0) @ columns))


def side_with(field: Tensor, share: float) -> int:
    """The side of the smallest square around the centre that holds this share of a field."""
    row, column = centre_of(field)
    for reach in range(max(field.shape)):
        inside = field[max(row - reach, 0) : row + reach + 1]
        inside = inside[:, max(column - reach, 0) : column + reach + 1]
        if float(inside.sum()) >= share * float(field.sum()):
            return 2 * reach + 1
    return max(field.shape)


def receptive_field(
    *models: nn.Module,
    stage: int | str = 2,
    names: Sequence[str] | None = None,
    size: int = 257,
    samples: int = 8,
    seed: int = 0,
    title: str | None = None,
) -> Figure:
    """Draw the effective receptive fields of networks side by side.

    The darker a pixel, the more it moves the centre of the stage's map; the colours are those of
    the square root, each network's of its own maximum. Squares hold 50 and 95 % of the whole.

    Args:
        models: Networks, such as one with pyramids and one without.
        stage, size, samples, seed: As in :func:`effective_receptive_field`.
        names: Above the pictures, one per network; default those of their rows or classes.
        title: Above all; say there what weights these are.

    Raises:
        ValueError: if a model has no such stage, or the number of names is another.
        ImportError: if matplotlib is not installed.
    """
    if not models:
        raise ValueError("Give at least one network: receptive_field(model_a, model_b).")
    shown = [name_of(model) for model in models] if names is None else list(names)
    if len(shown) != len(models):
        raise ValueError(f"There are {len(models)} networks and {len(shown)} names.")
    figure = new_figure(3.6 * len(models), 4.4)
    axes: Any = figure.subplots(1, len(models), squeeze=False)[0]
    for each, model, name in zip(axes, models, shown, strict=True):
        field = effective_receptive_field(model, stage, size=size, samples=samples, seed=seed)
        _draw(bare(each), field, name)
    where = f"stage {stage}" if isinstance(stage, int) else stage
    images = f"{samples} random images of {size}{TIMES}{size} pixels"
    told = f"effective receptive field of {where}, {images}"
    figure.suptitle(f"{title}\n{told}" if title else told, color=INK, fontsize=10)
    return figure


def _draw(axes: Axes, field: Tensor, name: str) -> None:
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    axes.imshow(field.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, float(field.max())))
    row, column = centre_of(field)
    sides = []
    for share, style in ((0.5, "-"), (0.95, "--")):
        side = side_with(field, share)
        corner = (column - side / 2, row - side / 2)
        square = Rectangle(corner, side, side, fill=False, edgecolor=RED, lw=1.4, ls=style)
        square.set_gid(f"{100 * share:.0f} %")
        axes.add_patch(square)
        sides.append(f"{100 * share:.0f} % within {side} px")
    axes.set_title(name, color=INK)
    axes.set_xlabel(", ".join(sides), color=INK)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color("#cccccc")
