"""The train step: a network with its optimizer, loss scale and averages, and one step of them."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..backbone import Network, image_channels, missing
from ..data.preprocess import Preprocess, expected_pixels
from ..models.factories import get_model
from ..models.registry import find_model, published_pixels
from ..system.devices import DTYPES
from ..system.processes import World
from ..weights import checkpoint
from ..weights.rows import WeightsEnum
from .loading import Mixer, derive_seed, make_mixer
from .recipe import Recipe, TrainOptions

__all__ = [
    "TrainStep",
    "build_network",
    "freeze_stages",
    "join_norms",
    "make_optimizer",
    "preprocess_of",
    "require_norms",
]


def build_network(
    name: str, classes: int, weights: WeightsEnum | str | Path | None = None
) -> nn.Module:
    """A network of the zoo by its name, or of one's own by ``module:name``.

    Raises:
        ValueError: if there is no such network.
    """
    row = find_model(name).row
    if row is None:
        return get_model(name, weights=weights, num_classes=classes)
    # Not the weights' own channels, which nobody would know when the run goes on without them.
    channels = row.in_channels
    return get_model(name, weights=weights, num_classes=classes, in_channels=channels)


def join_norms(network: nn.Module) -> nn.Module:
    """Let batch norms see the images of all processes. It replaces them: freeze after it."""
    joined: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return joined


def freeze_stages(network: nn.Module, stages: int) -> list[nn.Module]:
    """Stop the stem and the first stages from learning; what must stay in eval mode.

    Raises:
        ValueError: if the network has no such stages.
    """
    if stages == 0:
        return []
    lacks = missing(network, "stem", "stages")
    if lacks:
        raise ValueError(
            f"--freeze {stages}: the network lacks {lacks}. See pyconv.Network, or leave --freeze "
            "out."
        )
    stem, own = cast(Network, network).stem, cast(Network, network).stages
    if not 0 < stages <= len(own):
        raise ValueError(f"--freeze {stages}: the network has stages 1 to {len(own)}.")
    parts = [*stem, *own[:stages]]
    for part in parts:
        part.requires_grad_(False)
    return parts


def preprocess_of(name: str, network: nn.Module, recipe: Recipe) -> Preprocess:
    """What images pass through: the recipe's sizes, and else what the network is published with."""
    return expected_pixels(
        published_pixels(name),
        image_channels(network),
        crop=recipe.crop,
        resize=recipe.resize,
        mean=recipe.mean,
        std=recipe.std,
        network=name,
    )


def require_norms(
    network: nn.Module, frozen: list[nn.Module], preprocess: Preprocess, cure: str
) -> None:
    """Check that the norms of a network, which is on the CPU, can learn from one image at a time.

    Args:
        network: The network. A copy of it is tried.
        frozen: The parts of it that stay in eval mode.
        preprocess: The preprocessing of the images.
        cure: How to compute more images at a time.

    Raises:
        ValueError: if a norm gets one value of each channel, which has no deviation.
    """
    image = torch.zeros(1, len(preprocess.mean), preprocess.crop, preprocess.crop)
    try:
        tried, resting = copy.deepcopy((network, frozen))
        tried.train()
        for part in resting:
            part.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            tried(image)
    except RuntimeError:
        return  # it cannot be copied, or computes on a GPU alone: the first step will show
    except ValueError as error:
        if "Expected more than 1" not in str(error):
            raise
        raise ValueError(
            "A process computes one image at a time, of which a batch norm sees one pixel; it "
            f"needs two. Choose {cure}."
        ) from error


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over the parameters that learn, with the recipe's weight decay."""
    learns = [p for p in network.parameters() if p.requires_grad]
    decays = [p for p in learns if recipe.decay_norms or p.ndim > 1]
    rest = [p for p in learns if not (recipe.decay_norms or p.ndim > 1)]
    groups: list[dict[str, Any]] = [{"params": decays, "weight_decay": recipe.weight_decay}]
    if rest:
        groups.append({"params": rest, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


class TrainStep:
    """A step of the optimizer, on one batch shared by all processes, and all that it changes.

    Args:
        network: The network to train.
        frozen: The parts of it that stay in eval mode.
        recipe: What the network learns.
        options: How it is computed.
        world: The processes.
        device: The device of this process.
        preprocess: The preprocessing of the images.
        classes: The number of classes.
    """

    def __init__(
        self,
        network: nn.Module,
        frozen: list[nn.Module],
        recipe: Recipe,
        options: TrainOptions,
        world: World,
        device: torch.device,
        preprocess: Preprocess,
        classes: int,
    ) -> None:
        self.frozen = frozen
        self.recipe = recipe
        self.options = options
        self.world = world
        self.device = device
        self.preprocess = preprocess
        self.classes = classes
        if options.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not options.deterministic
        self.layout: torch.memory_format = (
            torch.channels_last if options.channels_last else torch.contiguous_format
        )
        network = network.to(device).to(memory_format=self.layout)
        self.network = network
        parallel = (
            DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
            if world.several
            else None
        )
        self.forward: Callable[[Tensor], Tensor] = parallel or network
        self.unsynced: Callable[[], contextlib.AbstractContextManager[None]] = (
            parallel.no_sync if parallel is not None else contextlib.nullcontext
        )
        if options.compile:
            self.forward = torch.compile(self.forward)
        self.ema: AveragedModel | None = (
            AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
            if recipe.ema
            else None
        )
        self.optimizer: torch.optim.Optimizer = make_optimizer(network, recipe)
        self.scaler: torch.amp.GradScaler = torch.amp.GradScaler(
            device.type, enabled=recipe.precision == "float16"
        )
        self.criterion: nn.Module = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.mixer: Mixer | None = make_mixer(recipe, classes)
        self.waited: float = 0.0  # seconds for images; the run reads it and sets it back to 0

    @property
    def averaged(self) -> nn.Module:
        """The network to evaluate and save: the averaged one if the recipe averages."""
        if self.ema is None:
            return self.network
        averaged: nn.Module = self.ema.module
        return averaged

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def autocast(self) -> torch.autocast:
        """The context in which the network computes, for the precision of the recipe."""
        dtype = DTYPES[self.recipe.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def train(self) -> None:
        """Put the network, but for its frozen parts, into training mode."""
        self.network.train()
        for part in self.frozen:
            part.eval()

    def __call__(
        self,
        parts: Iterator[tuple[Tensor, Tensor]],
        epoch: int,
        step: int,
        rate: float,
        loss_sum: Tensor,
        hits: Tensor,
    ) -> None:
        """Do one step.

        Args:
            parts: This process's share of the batch, in ``accumulate`` parts.
            epoch: The epoch, from 0.
            step: The step in the epoch, from 0.
            rate: The learning rate.
            loss_sum: A scalar on the device. The loss of this process is added to it.
            hits: A scalar on the device. The number of correct images is added to it. Nothing
                waits for either.
        """
        accumulate = self.options.accumulate
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        for number in range(accumulate):
            began = time.perf_counter()
            pixels, labels = next(parts)
            self.waited += time.perf_counter() - began
            # What is random from here on follows from the place: no state of it has to be saved.
            torch.manual_seed(derive_seed(self.recipe.seed, epoch, step, self.world.rank, number))
            labels = labels.to(self.device, non_blocking=True)
            images = self.preprocess.normalise(pixels.to(self.device, non_blocking=True))
            images = images.contiguous(memory_format=self.layout)
            if self.mixer is not None:
                images, labels = self.mixer(images, labels)
            with self.unsynced() if number + 1 < accumulate else contextlib.nullcontext():
                with self.autocast():
                    logits = self.forward(images)
                self._check(logits, len(images))
                loss = self.criterion(logits.float(), labels) / accumulate
                self.scaler.scale(loss).backward()
            best = labels if labels.ndim == 1 else labels.argmax(1)
            loss_sum += loss.detach()
            hits += (logits.detach().argmax(1) == best).sum()
        self._update()

    def part(self) -> None:
        """Let go of the other processes: what DDP holds of their group must not outlive it."""
        self.forward, self.unsynced = self.network, contextlib.nullcontext

    def _check(self, logits: Any, images: int) -> None:
        """Check that a network of the user's own gives what a loss can be computed from."""
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if shape != [images, self.classes]:
            raise ValueError(
                f"The network gives {shape} for {images} images of {self.classes} classes. It must "
                f"give a tensor [{images}, {self.classes}]."
            )

    def _update(self) -> None:
        """Change the weights by the gradients that the parts have added up."""
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update_parameters(self.network)

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a result of :meth:`state_dict`.

        Raises:
            CheckpointError: if it is of another network.
        """
        checkpoint.check_structure(state["model"], self.network.state_dict())
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
