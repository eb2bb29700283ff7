"""What the tests of training share: image trees, a network of one's own, real processes."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from pyconv import PyConv2d, pyconvresnet_tiny
from pyconv.weights.rows import sample_file

ROOT = Path(__file__).parent.parent


def make_tree(root: Path, classes: int = 4, train: int = 16, val: int = 4) -> Path:
    """28x28 grey images with a bright band whose place is the class, in noise."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", train), ("val", val)):
        for label in range(classes):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(90, (28, 28), generator=generator, dtype=torch.uint8)
                pixels[label * 28 // classes : (label + 1) * 28 // classes] += 140
                Image.fromarray(pixels.numpy()).save(folder / f"{number:03d}.png")
    return root


def real_tree(root: Path, train: int, val: int) -> Path:
    """A part of the sample's real photographs of clothes, so many of each of the ten classes."""
    for folder in sorted(sample_file("images").iterdir()):
        photos = sorted(folder.iterdir())
        for split, part in (("train", photos[:train]), ("val", photos[train : train + val])):
            place = root / split / folder.name
            place.mkdir(parents=True)
            for photo in part:
                shutil.copy(photo, place)
    return root


class InDouble(nn.Module):
    """A network that computes in float64: rounding does not grow to what a test would see."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images.double())
        return logits


def frozen_norm_tiny(num_classes: int) -> nn.Module:
    """A network whose arithmetic does not depend on how a batch is divided."""
    return InDouble(pyconvresnet_tiny(num_classes=num_classes, norm_layer=FrozenBatchNorm2d))


class Interrupting(nn.Module):
    """A network that sends its process a signal, once, while it is validated."""

    sent = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training and not Interrupting.sent:
            Interrupting.sent = True
            os.kill(os.getpid(), signal.SIGTERM)
        logits: torch.Tensor = self.network(images)
        return logits


def interrupting_tiny(num_classes: int) -> nn.Module:
    return Interrupting(pyconvresnet_tiny(num_classes=num_classes))


def little(num_classes: int) -> nn.Module:
    """A network that is compiled in seconds."""
    pyramid = nn.Sequential(PyConv2d(1, 8, (3, 5), (1, 1)), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(
        pyramid, nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(8 * 49, num_classes)
    )


class Uncopied(nn.Linear):
    """A layer that cannot be copied, as one with weights that are computed."""

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("Only Tensors created explicitly by the user support deepcopy")


def uncopied(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Uncopied(28 * 28 * 3, num_classes))


def of_ten_classes(num_classes: int) -> nn.Module:
    """A network that has other classes than it is asked for."""
    return pyconvresnet_tiny()


class Greedy(nn.Conv2d):
    """A layer that needs more memory than any machine has."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + torch.empty(2**50, device=images.device).sum()


def greedy(num_classes: int) -> nn.Module:
    return nn.Sequential(Greedy(1, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def environment() -> dict[str, str]:
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    hidden = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    return kept | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(*command: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def wait_for_steps(process: subprocess.Popen[str], output: Path, count: int) -> None:
    """Until the run in ``output`` has logged ``count`` steps."""
    end = time.monotonic() + 120
    while len(read_steps(output)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run does not get going"
        time.sleep(0.02)


def read_steps(output: Path) -> list[tuple[int, int, float]]:
    """(epoch, step, loss) of every step that the run has logged, whole lines only."""
    path = output / "steps.csv"
    text = path.read_text() if path.is_file() else ""
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return [(int(row["epoch"]), int(row["step"]), float(row["loss"])) for row in rows]


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    state = torch.load(output / "last.pt", weights_only=True)
    live = {f"live.{key}": value for key, value in state["training"]["model"].items()}
    momenta = {
        f"momentum.{key}": value["momentum_buffer"]
        for key, value in state["training"]["optimizer"]["state"].items()
    }
    return state["state_dict"] | live | momenta


def assert_same_weights(one: Path, other: Path) -> None:
    """Bit for bit: weights, averages, statistics of the norms, momenta."""
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    unequal = [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert not unequal
