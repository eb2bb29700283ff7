"""What the original's evaluation does wrong, one test for each case."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import photos
import pytest
import torch
from photos import one_thread  # noqa: F401
from torch.utils.data import DistributedSampler

from pyconv import pyconvresnet_tiny
from pyconv.data import find_images, make_loader
from pyconv.evaluate.__main__ import evaluate, main
from pyconv.evaluate.evaluation import Tally, _one_behind, merge
from pyconv.system.processes import World
from pyconv.weights.rows import PyConvResNetTiny_Weights

PREPROCESS = PyConvResNetTiny_Weights.DEFAULT.transforms()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images of three classes, in val/ alone."""
    root = tmp_path_factory.mktemp("data")
    for n in range(10):
        photos.write(root / "val" / "abc"[n % 3] / f"{n}.JPEG", photos.encode(photos.picture(n)))
    return root


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return pyconvresnet_tiny(num_classes=3).state_dict()


def result(folder: Path, data: Path, content: object) -> dict[str, object]:
    """Evaluate a checkpoint of some form on the CPU."""
    torch.save(content, folder / "c.pth")
    options = ["--model", "pyconvresnet_tiny", "--checkpoint", str(folder / "c.pth")]
    code = main([str(data), *options, "--device", "cpu", "--json", str(folder / "r.json")])
    assert code == 0
    content = json.loads((folder / "r.json").read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def test_counting_works_on_current_pytorch_and_with_fewer_than_five_classes(
    tmp_path: Path, data: Path, state: dict[str, torch.Tensor]
) -> None:
    found = result(tmp_path, data, state)
    assert (found["images"], found["correct5"]) == (10, 10)


def test_an_evaluation_needs_neither_train_nor_a_gpu(
    tmp_path: Path, data: Path, state: dict[str, torch.Tensor]
) -> None:
    assert not (data / "train").exists()
    assert str(result(tmp_path, data, state)["device"]).startswith("cpu")


def test_there_is_a_file_of_the_result(
    tmp_path: Path, data: Path, state: dict[str, torch.Tensor]
) -> None:
    assert result(tmp_path, data, state)["top5"] == 100.0


def test_checkpoints_of_parallel_runs_load_like_others(
    tmp_path: Path, data: Path, state: dict[str, torch.Tensor]
) -> None:
    wrapped = {f"module.{key}": value for key, value in state.items()}
    training = {"epoch": 3, "arch": "pyconvresnet_tiny", "state_dict": wrapped, "best_acc1": 1.0}
    one, other = result(tmp_path, data, state), result(tmp_path, data, training)
    assert one["loss"] == other["loss"]


def test_a_missing_checkpoint_is_an_error_not_random_weights(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), "--model", "pyconvresnet_tiny", "--checkpoint", "gone.pth"]) == 2
    assert "gone.pth" in capsys.readouterr().err


@pytest.mark.parametrize("size", [2, 3, 4, 16])
def test_shards_pad_nothing_where_the_originals_sampler_does(
    size: int, data: Path, state: dict[str, torch.Tensor]
) -> None:
    images = find_images(data)
    padded = sum(len(DistributedSampler(range(10), size, rank)) for rank in range(size))  # type: ignore[arg-type]
    shards = [make_loader(images, PREPROCESS, 2, shard=(rank, size)) for rank in range(size)]
    seen = sorted(int(n) for shard in shards for batch in shard for n in batch.indices)
    assert seen == list(range(10))
    assert padded > 10 or 10 % size == 0


def test_counts_are_those_of_all_processes(data: Path, state: dict[str, torch.Tensor]) -> None:
    model, images = pyconvresnet_tiny(num_classes=3), find_images(data)
    model.load_state_dict(state)

    def count(rank: int, size: int, world: World | None = None) -> Tally:
        """One process's share: the world only keeps what would be exchanged."""
        kept: list[Tally] = []

        class Listening(World):
            def gather(self, value: Tally) -> list[Tally]:  # type: ignore[override]
                kept.append(value)
                return [value]

        loader = make_loader(images, PREPROCESS, 2, shard=(rank, size))
        evaluate(model, loader, normalise=PREPROCESS.normalise, world=Listening(rank, size))
        return kept[0]

    alone = merge([count(0, 1)])
    shared = merge([count(rank, 3) for rank in range(3)])
    assert (shared.images, shared.correct1, shared.per_class) == (
        alone.images,
        alone.correct1,
        alone.per_class,
    )
    assert shared.loss == pytest.approx(alone.loss)


def test_a_batch_is_read_only_after_the_next_has_been_started() -> None:
    events: list[str] = []

    def start() -> Iterator[int]:
        for n in range(3):
            events.append(f"start {n}")
            yield n

    for n in _one_behind(start()):
        events.append(f"read {n}")
    assert events == ["start 0", "start 1", "read 0", "start 2", "read 1", "read 2"]
