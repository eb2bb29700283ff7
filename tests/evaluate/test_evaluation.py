"""evaluate() counts as the plainest loop does, whatever the batches, models and mishaps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import photos
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import one_thread  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional as F

from pyconv import pyconvresnet_tiny
from pyconv.data import ImageList, Preprocess, make_loader
from pyconv.evaluate import Metrics, evaluate

Batches = list[tuple[Tensor, Tensor]]


def batches(count: int, classes: int, size: int, seed: int = 0) -> Batches:
    """Random logits as images, so that the model can be the identity."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return list(zip(logits.split(size), labels.split(size), strict=True))


def plain(data: Batches) -> tuple[int, int, int, float]:
    """images, correct1, correct5, loss; one image at a time, by sorting."""
    images = correct1 = correct5 = 0
    loss = 0.0
    for logits, labels in data:
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            order = sorted(range(len(row)), key=lambda c: -row[c])
            images += 1
            correct1 += order[0] == label
            correct5 += label in order[:5]
            loss += math.log(sum(math.exp(value) for value in row)) - row[label]
    return images, correct1, correct5, loss / images


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 17), st.integers(0, 2**30))
def test_counts_are_those_of_the_plainest_loop(
    count: int, classes: int, size: int, seed: int
) -> None:
    data = batches(count, classes, size, seed)
    metrics = evaluate(nn.Identity(), data)
    images, correct1, correct5, loss = plain(data)
    assert (metrics.images, metrics.correct1, metrics.correct5) == (images, correct1, correct5)
    assert metrics.loss == pytest.approx(loss, rel=1e-5)
    assert metrics.top1 == 100 * correct1 / images
    assert metrics.top5 == 100 * correct5 / images


def test_counts_of_the_classes_add_up() -> None:
    data = batches(200, 7, 32)
    metrics = evaluate(nn.Identity(), data)
    labels = torch.cat([labels for _, labels in data])
    assert [row[0] for row in metrics.per_class] == torch.bincount(labels, minlength=7).tolist()
    totals = [sum(column) for column in zip(*metrics.per_class, strict=True)]
    assert totals == [metrics.images, metrics.correct1, metrics.correct5]


def test_top_five_of_three_classes_are_all_of_them() -> None:
    metrics = evaluate(nn.Identity(), batches(20, 3, 8))
    assert metrics.correct5 == 20


def test_the_dictionary_is_what_a_result_file_needs() -> None:
    content = evaluate(nn.Identity(), batches(20, 8, 8)).as_dict()
    assert {"images", "correct1", "correct5", "top1", "top5", "loss"} <= set(content)
    assert content["unreadable"] == []
    assert content["images_per_second"] > 0


def test_the_model_ends_in_eval_mode_and_computes_in_its_own_dtype() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(8, 8)).bfloat16().train()
    first, second = evaluate(model, batches(9, 8, 4)), evaluate(model, batches(9, 8, 4))
    assert not model.training
    assert first.loss == second.loss
    with pytest.raises(RuntimeError, match="dtype"):
        evaluate(model, batches(9, 8, 4), dtype=torch.float64)


def test_labels_beyond_the_models_classes_are_said() -> None:
    with pytest.raises(ValueError, match="a label 9 and the model has 4 classes, 0 to 3"):
        evaluate(nn.Identity(), [(torch.zeros(1, 4), torch.tensor([9]))])
    with pytest.raises(ValueError, match="a label -1 and the model has 4 classes"):
        evaluate(nn.Identity(), [(torch.zeros(1, 4), torch.tensor([-1]))])


def test_no_images_are_said() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate(nn.Identity(), [])


class Hungry(nn.Module):
    """Asks for more memory than any machine has where a batch is larger than ``most``."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            torch.empty(1 << 60, dtype=torch.uint8)
        self.sizes.append(len(x))
        return x


def test_a_batch_too_large_for_memory_is_halved_once_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, model = batches(40, 6, 16), Hungry(5)
    metrics = evaluate(model, data)
    assert (metrics.images, metrics.correct1, metrics.correct5) == plain(data)[:3]
    assert model.sizes == [4] * 10
    assert "Memory ran out with 16 images at once; going on with 8." in capsys.readouterr().err
    with pytest.raises(ValueError, match="Not even one image fits"):
        evaluate(Hungry(0), data)


def test_other_errors_of_the_model_are_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        evaluate(nn.Linear(3, 3), batches(4, 6, 2))


def test_full_batches_for_compiled_models_change_no_count() -> None:
    data, model = [(x[:, :, None, None], y) for x, y in batches(21, 6, 8)], Hungry(8)
    metrics = evaluate(nn.Sequential(model, nn.Flatten()), data, fixed_batch=8)
    assert set(model.sizes) == {8}
    flat = [(x.flatten(1), y) for x, y in data]
    assert (metrics.images, metrics.correct1, metrics.correct5) == plain(flat)[:3]


def test_stopping_gives_what_was_counted_and_marks_it() -> None:
    data = batches(40, 6, 8)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    metrics = evaluate(nn.Identity(), data, stop=stop)
    assert metrics.partial
    assert metrics.as_dict()["partial"]
    assert (metrics.images, metrics.correct1, metrics.correct5) == plain(data[:3])[:3]
    assert not evaluate(nn.Identity(), data).partial


@pytest.fixture
def folder(tmp_path: Path) -> ImageList:
    """Ten images, of which the third and the last cannot be read."""
    paths = [tmp_path / f"{n}.JPEG" for n in range(10)]
    for n, path in enumerate(paths):
        photos.write(path, b"" if n in (2, 9) else photos.encode(photos.picture(n)))
    return ImageList(tuple("abcdefghij"), tuple((path, n) for n, path in enumerate(paths)))


def test_unreadable_images_are_named_and_not_counted(
    folder: ImageList, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocess = Preprocess(28, 28, (0.3,), (0.3,))
    loader = make_loader(folder, preprocess, batch_size=3)
    metrics = evaluate(pyconvresnet_tiny(), loader, normalise=preprocess.normalise)
    assert metrics.images == 8
    assert [Path(path).name for path in metrics.unreadable] == ["2.JPEG", "9.JPEG"]
    assert "2.JPEG cannot be read: " in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"2\.JPEG cannot be read: "):
        evaluate(pyconvresnet_tiny(), loader, normalise=preprocess.normalise, strict=True)
    nothing = ImageList(folder.classes, (folder.samples[2], folder.samples[9]))
    with pytest.raises(ValueError, match=r"None of the 2 images could be read; .*2\.JPEG"):
        evaluate(pyconvresnet_tiny(), make_loader(nothing, preprocess))


def test_predictions_belong_to_their_images(folder: ImageList) -> None:
    preprocess = Preprocess(28, 28, (0.3,), (0.3,))
    torch.manual_seed(0)
    model = pyconvresnet_tiny()
    loader = make_loader(folder, preprocess, batch_size=3)
    metrics = evaluate(model, loader, normalise=preprocess.normalise, predictions=True)
    from PIL import Image

    assert [index for index, _ in metrics.predictions] == [0, 1, 3, 4, 5, 6, 7, 8]
    for index, best in metrics.predictions:
        with torch.inference_mode(), Image.open(folder.samples[index][0]) as image:
            assert tuple(model(preprocess(image)[None])[0].topk(5).indices.tolist()) == best


def test_a_loss_that_is_no_number_stays_out_of_json() -> None:
    metrics = evaluate(nn.Identity(), [(torch.tensor([[math.nan, 1.0]]), torch.tensor([0]))])
    assert metrics.as_dict()["loss"] is None


class Endless:
    """A loader whose memory is known: the same batch again and again."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batch = batches(50, 10, 50)[0]
        return (batch for _ in range(self.times))


def test_loss_is_a_mean_over_all_batches_in_double_precision() -> None:
    data = list(Endless(200))
    expected = F.cross_entropy(*data[0])
    metrics = evaluate(nn.Identity(), Endless(200))
    assert isinstance(metrics, Metrics)
    assert metrics.images == 10_000
    assert metrics.loss == pytest.approx(float(expected), rel=1e-6)


def test_some_outputs_are_compared_beside_all() -> None:
    """As published for ImageNet-A and -R, whose images are of 200 of the network's classes."""
    some = torch.arange(0, 1000, 5)
    logits = torch.zeros(200, 1000)
    logits[range(200), some] = 4
    logits[:, 1] = 5  # a class that no image is of wins everywhere
    batches = list(zip(logits.split(64), some.split(64), strict=True))
    metrics = evaluate(nn.Identity(), batches, subset=some.tolist())
    assert (metrics.top1, metrics.top5) == (0.0, 100.0)
    assert metrics.subset is not None
    assert (metrics.subset.top1, metrics.subset.images) == (100.0, 200)
    assert metrics.subset.loss == pytest.approx(
        float(F.cross_entropy(logits[:, some], torch.arange(200)))
    )
    content = metrics.as_dict()["subset"]
    assert (content["classes"], content["correct1"], content["top1"]) == (200, 200, 100.0)
    assert evaluate(nn.Identity(), batches).as_dict()["subset"] is None


def test_a_subset_counts_as_a_network_with_these_outputs_alone() -> None:
    some = [7, 2, 11]
    data = [(x, torch.tensor(some)[y % 3]) for x, y in batches(60, 12, 16)]
    metrics = evaluate(nn.Identity(), data, subset=some)
    order = torch.tensor(sorted(some))
    alone = evaluate(nn.Identity(), [(x[:, order], torch.searchsorted(order, y)) for x, y in data])
    assert metrics.subset is not None
    assert metrics.subset.per_class == alone.per_class
    assert metrics.subset.loss == alone.loss
    with pytest.raises(ValueError, match="a label 2, which is not in the subset"):
        evaluate(nn.Identity(), data, subset=[7, 11])


def test_images_that_the_system_does_not_read_are_told_from_damaged_ones(
    folder: ImageList, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := folder.samples[4][0]).unlink()
    path.symlink_to("/proc/self/mem")  # whose first byte gives EIO
    preprocess = Preprocess(28, 28, (0.3,), (0.3,))
    loader = make_loader(folder, preprocess, batch_size=3, workers=1)
    metrics = evaluate(pyconvresnet_tiny(), loader, normalise=preprocess.normalise)
    assert [Path(name).name for name in metrics.unreadable] == ["2.JPEG", "4.JPEG", "9.JPEG"]
    (told,) = metrics.system_errors
    assert told.startswith(f"{path} cannot be read: Input/output error. Nothing is known to be")
    err = capsys.readouterr().err
    assert told in err and "2.JPEG cannot be read: the file is empty" in err
    only = ImageList(folder.classes, (folder.samples[4],))
    for strict in (False, True):
        with pytest.raises(OSError, match="Input/output error"):
            evaluate(pyconvresnet_tiny(), make_loader(only, preprocess), strict=strict)
