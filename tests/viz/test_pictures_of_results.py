"""Accuracy against cost, sheets of predictions, confusion matrices, curves."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image
from torch import Tensor

import pyconv
from pyconv import viz
from pyconv.data import ImageList, find_images, make_loader
from pyconv.data.imagenet import class_names, synsets
from pyconv.evaluate import Metrics, evaluate
from pyconv.evaluate.report import predictions_csv
from pyconv.viz.canvas import BLUE, RED
from pyconv.viz.confusion import coarse, confusion_counts, most_confused, outcomes, percentages
from pyconv.viz.curves import highest
from pyconv.viz.sheet import guesses
from pyconv.weights.rows import ENUMS

WEIGHTS = pyconv.PyConvResNetTiny_Weights.DEFAULT
WORDS = WEIGHTS.meta["categories"]


@pytest.fixture(scope="module")
def images() -> ImageList:
    """Every tenth of the sample's images."""
    found = find_images(WEIGHTS.path.with_name("images"))
    return ImageList(found.classes, found.samples[::10])


@pytest.fixture(scope="module")
def metrics(images: ImageList) -> Metrics:
    pixels = WEIGHTS.transforms()
    model = pyconv.pyconvresnet_tiny(weights=WEIGHTS)
    loader = make_loader(images, pixels)
    return evaluate(model, loader, normalise=pixels.normalise, predictions=True)


def test_the_zoo_is_drawn_from_the_published_rows() -> None:
    axes = viz.accuracy_against_cost().axes[0]
    drawn = {(float(x), float(y)) for line in axes.lines for x, y in line.get_xydata()}
    published = [weights for enum in ENUMS for weights in enum if weights.file_id]
    assert drawn == {(each.meta["gmacs"], each.meta["acc@1"]) for each in published}
    assert "claimed by the authors" in axes.get_title()
    assert "resnet_tiny" not in str([text.get_text() for text in axes.texts]).lower()


def test_a_sheet_says_what_the_network_says(images: ImageList, metrics: Metrics) -> None:
    model = pyconv.pyconvresnet_tiny(weights=WEIGHTS)
    wrong = [i for i, best in metrics.predictions if best[0] != images.samples[i][1]]
    chosen = [*wrong[:2], *(i for i in range(5) if i not in wrong)]
    paths, labels = zip(*(images.samples[i] for i in chosen), strict=True)
    pixels = WEIGHTS.transforms()
    figure = viz.predictions(model, paths, labels, classes=WORDS, preprocess=pixels, columns=4)
    assert len(figure.axes) == 8  # two rows
    for axes, i in zip(figure.axes, chosen, strict=False):
        best, label = dict(metrics.predictions)[i][0], images.samples[i][1]
        mark, colour = ("✓", BLUE) if best == label else ("✗", RED)
        assert axes.get_xlabel().startswith(f"{mark} {WORDS[best]}  ")
        assert to_hex(axes.spines["top"].get_edgecolor()) == colour.lower()
        assert (f"is: {WORDS[label]}" in axes.get_xlabel()) == (best != label)
        assert axes.images[0].get_array().shape == (28, 28)


def test_a_sheet_takes_classes_and_pixels_from_a_model_that_knows_them(images: ImageList) -> None:
    model = pyconv.load(WEIGHTS)
    path, label = images.samples[50]
    (axes,) = viz.predictions(model, [path], [WORDS[label]]).axes
    assert axes.get_xlabel().startswith(f"✓ {WORDS[label]}")


def test_probabilities_are_told_as_they_are() -> None:
    probabilities = torch.tensor([[0.999, 0.001], [0.3, 0.7], [1, 0]])
    told = guesses(
        probabilities, ["cat", "cat", "cat"], ["cat", "black-footed ferret of the plains"]
    )
    assert [guess.text for guess in told] == [
        "✓ cat  >99 %",
        "✗ black-footed …  70 %\nis: cat",
        "✓ cat  100 %",
    ]
    assert guesses(probabilities)[1].text == "class 1  70 %"
    assert guesses(probabilities, classes=synsets()[:2])[1].word == class_names()[1]
    crane = guesses(probabilities, [1, 1, 0], ["crane", "crane"])  # ImageNet has two
    assert [guess.right for guess in crane] == [False, True, True]
    with pytest.raises(ValueError, match="label 'crane' is several of the 2 classes"):
        guesses(probabilities, ["crane"], ["crane", "crane"])


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("There are no images", (torch.ones(1, 1), [])),
        (r"Give a list of images, also of a single one: \[image\]", (torch.ones(1, 1), "cat.jpg")),
        ("Give a list of images", (torch.ones(1, 1), Path("cat.jpg"))),
        ("Give a list of images", (torch.ones(1, 1), Image.new("L", (9, 9)))),
        (
            r"1 images, and probabilities \[2, 1\] are not",
            (torch.ones(2, 1), [torch.ones(1, 9, 9)]),
        ),
        ("sum 1. Of logits", (torch.ones(1, 4), [torch.ones(1, 9, 9)])),
        ("label 2 is none of the classes 0 to 0", (torch.ones(1, 1), [torch.ones(1, 9, 9)], [2])),
        ("label 'cat' is none of", (torch.ones(1, 1), [torch.ones(1, 9, 9)], ["cat"])),
        ("1 images and 2 labels", (torch.ones(1, 1), [torch.ones(1, 9, 9)], [0, 0])),
    ],
)
def test_a_sheet_that_cannot_be_is_one_clear_error(message: str, arguments: tuple[object]) -> None:
    with pytest.raises(ValueError, match=message):
        viz.predictions(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There are 2 classes and 1 outputs"):
        viz.predictions(torch.ones(1, 1), [torch.ones(1, 9, 9)], classes=["a", "b"])


def test_the_matrix_counts_what_the_evaluation_did(
    images: ImageList, metrics: Metrics, tmp_path: Path
) -> None:
    expected = torch.zeros(10, 10, dtype=torch.long)
    for index, best in metrics.predictions:
        expected[images.samples[index][1], best[0]] += 1
    truths, found, words = outcomes(metrics, images=images)
    assert torch.equal(confusion_counts(truths, found, len(words)), expected)
    assert words == list(images.classes)
    path = tmp_path / "predictions.csv"
    path.write_text(predictions_csv(images.samples, metrics.predictions, images.classes))
    assert outcomes(path) == (truths, found, words)

    axes = viz.confusion_matrix(path, title="tiny").axes[0]
    rows = expected.sum(1)
    cells = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    for row, column in expected.nonzero().tolist():
        share = 100 * float(expected[row, column]) / float(rows[row])
        assert cells[column, row] == f"{share:.0f}"
    assert [label.get_text() for label in axes.get_yticklabels()] == list(images.classes)
    assert axes.get_title() == f"tiny\n{metrics.correct1} of {metrics.images} images right"
    assert np.allclose(axes.images[0].get_array().sum(1), 100)


def test_labels_are_lists_tensors_arrays_or_words() -> None:
    plain = outcomes([0, 2, 1], [0, 1, 1])
    assert plain == ([0, 2, 1], [0, 1, 1], ["0", "1", "2"])
    assert outcomes(torch.tensor([0, 2, 1]), torch.tensor([0, 1, 1])) == plain
    assert outcomes(np.array([0, 2, 1]), list(np.array([0, 1, 1]))) == plain
    assert outcomes(["rose", "daisy"], ["rose", "rose"]) == ([1, 0], [1, 1], ["daisy", "rose"])
    chosen = outcomes(["rose", "daisy"], ["rose", "rose"], classes=["tulip", "rose", "daisy"])
    assert chosen == ([1, 2], [1, 1], ["tulip", "rose", "daisy"])


def many(classes: int, images: int = 20) -> tuple[Tensor, Tensor]:
    """Each class has so many images, of which its number modulo 5 go to the class before."""
    truths = torch.arange(classes).repeat_interleave(images)
    wrong = torch.arange(images).repeat(classes) < truths % 5
    return truths, torch.where(wrong, truths - 1, truths)


def test_of_many_classes_the_pairs_confused_most_are_told() -> None:
    axes, pairs, _scale = viz.confusion_matrix(*many(100), classes=synsets()[:100]).axes
    assert not axes.texts and len(pairs.texts) == 12
    assert pairs.texts[0].get_text() == f"{class_names()[4]} → {class_names()[3]}  4 of 20"
    assert [bar.get_width() for bar in pairs.patches] == [20.0] * 12
    assert axes.images[0].get_array().shape == (100, 100)


def test_forty_classes_have_words_and_no_numbers() -> None:
    axes = viz.confusion_matrix(*many(40)).axes[0]
    assert not axes.texts
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(n) for n in range(40)]


def test_no_confused_pair_of_a_thousand_classes_is_lost() -> None:
    counts = torch.eye(1000, dtype=torch.long) * 50
    counts[17, 900] = 1
    counts[3] = 0  # without images
    percent = percentages(counts)
    assert percent[3].isnan().all() and float(percent[17, 900]) == pytest.approx(100 / 51)
    cells = coarse(percent)
    assert cells.shape == (250, 250)
    assert float(cells[17 // 4, 900 // 4]) == pytest.approx(100 / 51)
    assert coarse(percent[:8, :8])[3].isnan().all()
    truths, found = many(1000)
    viz.confusion_matrix(truths, truths)  # nothing is confused
    pairs = most_confused(confusion_counts(truths.tolist(), found.tolist(), 1000), synsets())
    assert (pairs[0].truth, pairs[0].predicted) == (synsets()[4], synsets()[3])


def test_what_is_no_evaluation_is_one_clear_error(tmp_path: Path, metrics: Metrics) -> None:
    path = tmp_path / "result.csv"
    path.write_text("date,model\n2026,tiny\n")
    with pytest.raises(
        ValueError, match=r"no column 'path'. Give the file that pyconv-eval --pred"
    ):
        viz.confusion_matrix(path)
    path.write_text("path,label,top1\n")
    with pytest.raises(ValueError, match="has no rows"):
        viz.confusion_matrix(path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        viz.confusion_matrix(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"predictions=True there, and the labels .* images="):
        viz.confusion_matrix(metrics)
    with pytest.raises(ValueError, match="predicted="):
        viz.confusion_matrix([0, 1])
    with pytest.raises(ValueError, match="1 true classes and 2 predicted ones"):
        viz.confusion_matrix([0], [0, 1])
    with pytest.raises(ValueError, match="The class 1 is none of 0 to 0"):
        viz.confusion_matrix([0], [1], classes=["a"])
    with pytest.raises(ValueError, match="'c' is none of the 2 classes"):
        viz.confusion_matrix(["a"], ["c"], classes=["a", "b"])


def test_curves_are_those_of_the_log(tmp_path: Path) -> None:
    columns = ["epoch", "train_loss", "val_loss", "train_top1", "val_top1"]
    rows = [(1, 2.0, 2.5, 30.0, 25.0), (2, 1.0, 1.5, 60.0, 50.0)]
    with (tmp_path / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    losses, accuracies = viz.training_curves(tmp_path, title="flowers").axes
    assert [list(line.get_ydata()) for line in losses.lines[::2]] == [[2, 1], [2.5, 1.5]]
    assert [list(line.get_ydata()) for line in accuracies.lines[::2]] == [[30, 60], [25, 50]]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["train", "val"]
    with pytest.raises(ValueError, match=r"no column 'epoch'. Give the folder that pyconv-train"):
        viz.training_curves(__file__)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        viz.training_curves(tmp_path / "none")
    with pytest.raises(ValueError, match="Give one run at a time"):
        viz.training_curves([tmp_path, tmp_path])  # type: ignore[list-item]


def test_a_wild_first_epoch_does_not_flatten_the_others() -> None:
    assert highest([[7118.0, 2.1, 1.5, 1.2], [62477.0, 1.9, 1.6, 1.4]]) == 2.1
    assert highest([[6.9, 2.1, 1.5], [6.5, 1.9, 1.6]]) == 6.9
    assert highest([[2.0], [7000.0]]) == 7000.0
    falling = [7 * 0.85**epoch for epoch in range(40)]  # to a hundredth of the first
    assert highest([falling, falling]) == 7
    assert highest([[2.0, math.nan], [math.inf, 1.0]]) == 2.0
    assert highest([[math.nan], [math.inf]]) == 1.0
    columns = "epoch", "train_loss", "val_loss", "train_top1", "val_top1"
    rows = [
        dict(zip(columns, row, strict=True)) for row in ((1, 7118.0, 2.5, 1, 2), (2, 2, 2, 3, 4))
    ]
    losses = viz.training_curves(rows).axes[0]
    assert losses.get_ylim() == pytest.approx((0, 1.05 * 2.5))
    assert losses.get_legend().get_texts()[0].get_text() == "train, 7,118 in epoch 1"
