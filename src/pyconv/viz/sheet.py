"""Images with the classes that a network finds for them, on one sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backbone import image_channels
from ..data.imagenet import word
from ..data.preprocess import Preprocess
from .canvas import BLUE, INK, RED, Listable, bare, listed, new_figure, opened, pixels_of
from .probe import at_rest, pixels_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from .canvas import Picture

    Labels = Sequence[int] | Sequence[str] | Listable

__all__ = ["Guess", "guesses", "predictions"]

BATCH = 32


class Guess(NamedTuple):
    """What the sheet says of an image."""

    word: str  # of the class found most likely
    probability: float
    truth: str | None = None  # the word of its label, if there is one
    right: bool | None = None  # whether the class is that of the label

    @property
    def text(self) -> str:
        """The lines under the image."""
        mark = {None: "", True: "✓ ", False: "✗ "}[self.right]
        lines = [f"{mark}{_shortened(self.word)}  {_percent(self.probability)}"]
        if self.right is False:
            lines.append(f"is: {_shortened(self.truth or '')}")
        return "\n".join(lines)


def _shortened(word: str) -> str:
    return textwrap.shorten(word, 20, placeholder=" …") if " " in word else word[:22]


def _percent(probability: float) -> str:
    """Never 100 % for what is less."""
    return ">99 %" if 0.995 <= probability < 1 else f"{probability:.0%}".replace("%", " %")


def guesses(
    probabilities: Tensor,
    labels: Labels | None = None,
    classes: Sequence[str] | None = None,
) -> list[Guess]:
    """What the sheet says of images, of their probabilities ``[N, classes]``.

    Raises:
        ValueError: if they are no probabilities, or labels or classes do not fit.
    """
    count = probabilities.shape[-1]
    names = [f"class {position}" for position in range(count)] if classes is None else list(classes)
    if len(names) != count:
        raise ValueError(f"There are {len(names)} classes and {count} outputs: give one of each.")
    sums = probabilities.sum(-1)
    if (probabilities < 0).any() or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError(
            "Each row of probabilities must be positive with the sum 1. Of logits: "
            "logits.softmax(1)."
        )
    words = [word(name) for name in names]
    best, positions = probabilities.max(1)
    found = list(zip(positions.tolist(), best.tolist(), strict=True))
    if labels is None:
        return [Guess(words[position], probability) for position, probability in found]
    truths = [_position(label, names) for label in listed(labels)]
    if len(truths) != len(found):
        raise ValueError(f"There are {len(found)} images and {len(truths)} labels.")
    return [
        Guess(words[position], probability, words[truth], position == truth)
        for (position, probability), truth in zip(found, truths, strict=True)
    ]


def _position(label: int | str, names: Sequence[str]) -> int:
    if isinstance(label, str):
        if names.count(label) == 1:
            return names.index(label)
        many = "several" if label in names else "none"
        raise ValueError(f"The label {label!r} is {many} of the {len(names)} classes.")
    if 0 <= label < len(names):
        return label
    raise ValueError(f"The label {label} is none of the classes 0 to {len(names) - 1}.")


def predictions(
    model: nn.Module | Tensor,
    images: Sequence[Picture],
    labels: Labels | None = None,
    *,
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    columns: int = 5,
    title: str | None = None,
) -> Figure:
    """Draw images with the class that a network finds most likely for each, and its probability.

    With labels, a right class has a tick and a blue frame, a wrong one a cross, an orange frame and
    the class of the label.

    Args:
        model: A classifier, run in eval mode, or the probabilities ``[N, classes]`` of one.
        images: Paths, PIL images, or tensors ``[C, H, W]`` of uint8 or of floats from 0 to 1.
        labels: The true classes, as positions or words.
        classes: The words of the classes in order; default the model's own ``classes``, else
            numbers. ImageNet's synsets are told as words.
        preprocess: What the model expects, such as ``weights.transforms()``; default the model's
            own ``transforms()``, as of :func:`pyconv.load`, else that of the published weights on
            ImageNet.
        columns: Images side by side.
        title: Above the sheet; say there what weights these are.

    Raises:
        ValueError: if there are no images, one is none, or labels or classes do not fit.
        OSError: if the system does not read an image.
        ImportError: if matplotlib is not installed.
    """
    if isinstance(images, str) or not hasattr(images, "__len__"):  # a path or a PIL image
        raise ValueError("Give a list of images, also of a single one: [image].")
    if not len(images):
        raise ValueError("There are no images.")
    if isinstance(model, Tensor):
        probabilities = model.detach().float().cpu()
        if probabilities.dim() != 2 or len(probabilities) != len(images):
            raise ValueError(
                f"There are {len(images)} images, and probabilities {list(model.shape)} are not "
                f"[{len(images)}, classes]."
            )
        opened_images = [_shown(image) for image in images]
    else:
        takes = image_channels(model)
        opened_images = [opened(image, takes) for image in images]
        pixels = preprocess or pixels_for(model, takes)
        probabilities = _run(model, [pixels(image) for image in opened_images])
        classes = getattr(model, "classes", None) if classes is None else classes
    told = guesses(probabilities, labels, classes)

    columns = min(columns, len(told))
    rows = -(-len(told) // columns)
    figure = new_figure(1.9 * columns, 2.35 * rows + (0.35 if title else 0))
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        bare(axes)
    for axes, image, guess in zip(grid.flat, opened_images, told, strict=False):
        _draw(axes, image, guess)
    if title:
        figure.suptitle(title, color=INK)
    return figure


def _shown(image: Picture) -> Image | Tensor:
    """An image in its own channels, for where no network says which."""
    if isinstance(image, Tensor):
        return opened(image, 1 if image.dim() == 3 and len(image) == 1 else 3)
    return opened(image, 3)


def _run(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """The probabilities of all images, some at a time: ``[N, classes]``."""
    some = next(model.parameters())
    with at_rest(model), torch.inference_mode():
        parts = torch.stack(list(batch)).to(some.dtype).split(BATCH)
        logits = [model(part.to(some.device)).float().cpu() for part in parts]
    return torch.cat(logits).softmax(1)


def _draw(axes: Axes, image: Image | Tensor, guess: Guess) -> None:
    axes.imshow(pixels_of(image), cmap="gray")
    axes.set_anchor("S")  # so that the words of a row are in line
    axes.set_xlabel(guess.text, fontsize=10, color=INK)
    if guess.right is not None:
        colour = BLUE if guess.right else RED
        axes.xaxis.label.set_color(colour)
        for spine in axes.spines.values():
            spine.set(visible=True, color=colour, linewidth=2.5)
