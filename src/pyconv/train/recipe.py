"""Recipes and options of a training as data, and the learning rate that follows from them.

Nothing here needs PyTorch. The learning rate is a pure function of the place in the training.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..system.commands import flag

__all__ = [
    "AUGMENT",
    "FINETUNE",
    "PAPER",
    "RECIPES",
    "Recipe",
    "TrainOptions",
    "differences",
    "larger_part",
    "learning_rate",
    "part_size",
    "rate_advice",
    "smaller_part",
]


@dataclass(frozen=True)
class Recipe:
    """All that decides what a network learns; the defaults are the paper's recipe.

    Each field is a flag of pyconv-train, with the text beside it as its help.

    Raises:
        ValueError: if a value is out of its range; it names the flag.
    """

    epochs: int = flag(90, "passes over the training images")
    batch_size: int = flag(256, "images per step, over all processes and accumulated parts")
    lr: float = flag(0.1, "learning rate after the warm-up")
    schedule: Literal["step", "cosine"] = flag(
        "step", "lr times decay at each milestone, or half a cosine to 0"
    )
    milestones: tuple[int, ...] = flag((30, 60, 80), "epochs at which schedule step decays")
    decay: float = flag(0.1, "factor of schedule step")
    warmup: float = flag(0.0, "epochs of linear warm-up")
    momentum: float = flag(0.9, "of SGD")
    nesterov: bool = flag(False, "Nesterov's form of the momentum")
    weight_decay: float = flag(1e-4, "of all parameters")
    decay_norms: bool = flag(True, "weight decay for norms and biases too")
    label_smoothing: float = flag(0.0, "share of the label that is spread over all classes")
    clip: float = flag(0.0, "largest norm of the gradient; 0 for no limit")
    ema: float = flag(0.0, "decay per step of averaged weights, such as 0.9999; 0 for none")
    precision: Literal["float32", "bfloat16", "float16"] = flag(
        "float32", "of the convolutions; other than float32: mixed precision"
    )
    sync_bn: bool = flag(False, "batch norms over all processes (GPUs only)")
    cutmix: float = flag(0.0, "alpha of CutMix; 0 for none")
    mixup: float = flag(0.0, "alpha of MixUp; 0 for none; with CutMix, each for half the batches")
    mix_probability: float = flag(1.0, "share of the batches that are mixed")
    randaugment: int = flag(0, "magnitude of RandAugment, 0 to 30, with 2 operations; 0 for none")
    erase: float = flag(0.0, "probability of erasing a rectangle")
    flip: float = flag(0.5, "probability of a horizontal flip")
    min_scale: float = flag(0.08, "smallest share of an image that the random crop keeps")
    crop: int | None = flag(None, "side of the crops in pixels; default: the model's, or 224")
    resize: int | None = flag(None, "shorter side before the validation crop; default: as model")
    mean: tuple[float, ...] = flag((), "of the pixels in 0..1, per channel; default: as model")
    std: tuple[float, ...] = flag((), "their deviation; default: as model")
    val_fraction: float = flag(
        0.0, "share of the images to hold out for validation, where there is no val/; 0 for none"
    )
    seed: int = flag(0, "decides initial weights, order, augmentation and what is held out")

    def __post_init__(self) -> None:
        for name, good, must in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "positive"),
            ("schedule", self.schedule in ("step", "cosine"), "step or cosine"),
            ("milestones", list(self.milestones) == sorted(self.milestones), "in ascending order"),
            ("decay", 0 < self.decay <= 1, "in 0 < decay <= 1"),
            ("warmup", 0 <= self.warmup <= self.epochs, "at most the number of epochs"),
            ("momentum", 0 <= self.momentum < 1, "in 0 <= momentum < 1"),
            ("nesterov", not self.nesterov or self.momentum > 0, "off where momentum is 0"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in 0 <= label_smoothing < 1"),
            ("clip", self.clip >= 0, "at least 0"),
            ("ema", 0 <= self.ema < 1, "in 0 <= ema < 1"),
            ("precision", self.precision in ("float32", "bfloat16", "float16"), "a precision"),
            ("cutmix", self.cutmix >= 0, "at least 0"),
            ("mixup", self.mixup >= 0, "at least 0"),
            ("mix_probability", 0 <= self.mix_probability <= 1, "a probability"),
            ("randaugment", 0 <= self.randaugment <= 30, "from 0 to 30"),
            ("erase", 0 <= self.erase <= 1, "a probability"),
            ("flip", 0 <= self.flip <= 1, "a probability"),
            ("min_scale", 0 < self.min_scale <= 1, "in 0 < min_scale <= 1"),
            ("crop", self.crop is None or self.crop >= 1, "at least 1"),
            ("resize", self.resize is None or self.resize >= 1, "at least 1"),
            ("std", all(value > 0 for value in self.std), "positive"),
            ("val_fraction", 0 <= self.val_fraction < 1, "in 0 <= val_fraction < 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            if not good:
                shown = name.replace("_", "-")
                raise ValueError(f"--{shown} {getattr(self, name)!r} must be {must}.")

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, ready for JSON and checkpoints."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class TrainOptions:
    """How a recipe is computed; nothing here changes what a step means.

    What does depend on ``accumulate`` and on the number of processes: rounding, the images that a
    batch norm sees together, and the partners that CutMix draws.

    Raises:
        ValueError: if a value is out of its range; it names the flag.
    """

    accumulate: int = flag(1, "parts in which a process computes its share of a batch")
    workers: int | None = flag(None, "loader processes of each process; default: its cores, to 8")
    device: str | None = flag(None, "cpu, cuda, ...; default: the accelerator there is")
    channels_last: bool = flag(True, "memory format of images and weights")
    compile: bool = flag(False, "through torch.compile")
    deterministic: bool = flag(False, "the same bits on a GPU too, at some cost in speed")
    save_every: int = flag(1000, "steps between saves within an epoch; 0 for none")
    watch_every: int = flag(20, "steps between two reads of the loss")
    time_limit: float | None = flag(None, "save and leave after this time, such as 90s, 30m, 8h")
    tensorboard: bool = flag(False, "event files for TensorBoard")

    def __post_init__(self) -> None:
        for name, value, least in (
            ("accumulate", self.accumulate, 1),
            ("workers", self.workers or 0, 0),
            ("save_every", self.save_every, 0),
            ("watch_every", self.watch_every, 1),
        ):
            if value < least:
                raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {least}.")


PAPER = Recipe()

# The original's README gives batch size, lr, epochs, cosine, CutMix and mixed precision. Chosen
# here: alpha 1 and probability 1, as CutMix's authors use on ImageNet; 5 epochs of warm-up, as
# usual at this batch size; bfloat16, which needs no loss scaling.
AUGMENT = replace(
    PAPER,
    epochs=300,
    batch_size=1024,
    lr=0.4,
    schedule="cosine",
    milestones=(),
    warmup=5.0,
    cutmix=1.0,
    precision="bfloat16",
)

# For some hundred or thousand images and weights to start from. docs/training.md tells what was
# tried: small batches make enough steps, a rate in proportion to them keeps what the weights know.
FINETUNE = replace(
    PAPER,
    epochs=20,
    batch_size=16,
    lr=0.01,
    schedule="cosine",
    milestones=(),
    warmup=1.0,
)

RECIPES = {"paper": PAPER, "augment": AUGMENT, "finetune": FINETUNE}
FAR_OFF = 4  # times that the batch may differ from the one for which a recipe's rate is


def learning_rate(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """The learning rate of a step; epochs and steps count from 0, an epoch has ``steps`` steps.

    Schedule step decays at the first step of each milestone: epochs 0 to 29 of the paper's recipe
    run at 0.1, and epoch 30 is the first at 0.01.
    """
    position = epoch + step / steps
    if position < recipe.warmup:
        # Counted from 1, or the rate of the first step would be 0.
        return recipe.lr * min(1.0, (epoch * steps + step + 1) / (recipe.warmup * steps))
    if recipe.schedule == "step":
        return recipe.lr * recipe.decay ** sum(epoch >= m for m in recipe.milestones)
    progress = (position - recipe.warmup) / (recipe.epochs - recipe.warmup)
    return recipe.lr * (1 + math.cos(math.pi * progress)) / 2


def part_size(recipe: Recipe, processes: int, accumulate: int) -> int:
    """The images that a process computes at once: its share of the batch by ``accumulate``.

    Raises:
        ValueError: if the batch cannot be divided equally; it suggests one that can.
    """
    shares = processes * accumulate
    size, rest = divmod(recipe.batch_size, shares)
    if rest or not size:
        near = max(1, round(recipe.batch_size / shares)) * shares
        raise ValueError(
            f"A batch of {recipe.batch_size} cannot be shared equally by {processes} processes in "
            f"{accumulate} parts each. Choose --batch-size {near}, or other numbers of processes "
            "and --accumulate."
        )
    return size


def larger_part(recipe: Recipe, accumulate: int, images: int) -> str:
    """How a process computes more than one image at once, where it computes one, as flags."""
    fewer = max((parts for parts in range(1, accumulate) if accumulate % parts == 0), default=0)
    ways = [f"--batch-size {2 * recipe.batch_size}"] if 2 * recipe.batch_size <= images else []
    ways += [f"--accumulate {fewer}"] if fewer else []
    return " or ".join(ways) or "a larger --crop"


def smaller_part(recipe: Recipe, processes: int, accumulate: int) -> str:
    """How a process computes at most half as many images at once, as a sentence."""
    share = recipe.batch_size // processes
    more = (parts for parts in range(2 * accumulate, share + 1) if share % parts == 0)
    if (parts := next(more, None)) is None:
        return "Train on a machine with more memory, or with a smaller --crop."
    return (
        f"Compute the batch in smaller parts: the same command with --accumulate {parts} goes on "
        "from the last save."
    )


def rate_advice(recipe: Recipe) -> str | None:
    """What to say of a learning rate that is left as published for batches of another size."""
    for published in RECIPES.values():
        own = (recipe.schedule, recipe.epochs) != (FINETUNE.schedule, FINETUNE.epochs)
        if published == FINETUNE and own:
            continue  # 0.01 is a usual rate of one's own too, and right for more images per step
        share = recipe.batch_size / published.batch_size
        if recipe.lr == published.lr and not 1 / FAR_OFF < share < FAR_OFF:
            return (
                f"--lr {recipe.lr:g} is for batches of {published.batch_size} images, and "
                f"--batch-size is {recipe.batch_size}: in proportion, it would be --lr "
                f"{recipe.lr * share:.2g}."
            )
    return None


def differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What differs between a saved run and the one asked for, in words; empty if nothing."""
    return ", ".join(
        f"{key.replace('_', '-')} {there.get(key)} there and {here.get(key)} here"
        for key in here | there
        if there.get(key) != here.get(key)
    )
