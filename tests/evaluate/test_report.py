"""What people read of a result: the table, the hint, the difference to what was published."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from pyconv.evaluate.report import compare, hint, table


def result(**changes: Any) -> dict[str, Any]:
    content = {
        "model": "pyconvresnet50",
        "weights": "PyConvResNet50_Weights.IMAGENET1K_V1",
        "images": 50_000,
        "correct1": 38_900,
        "top1": 77.8,
        "top5": 93.7,
        "loss": 0.9,
        "partial": False,
        "images_per_second": 1234.5,
        "unreadable": [],
        "preprocessing": {"resize": 256, "crop": 224, "decoder": "PIL"},
        "published": compare(77.8, 50_000, 77.88, 224),
        "per_class": dict.fromkeys(range(1000)),
    }
    return content | changes


def test_the_published_figure_is_called_a_claim_and_the_difference_has_its_error() -> None:
    text = table(result())
    assert "published   top-1 77.88 % (the authors' claim for all 50,000 images)" in text
    assert "difference  -0.08 points (95 %: -0.45 to +0.28)" in text
    assert "published" not in table(result(published=None))


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, and by hand at the ends.
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0.0, 16.11), (1, 29, 0.61, 17.18),
     (20, 20, 83.89, 100.0)],
)  # fmt: skip
def test_the_interval_is_wilsons(correct: int, images: int, low: float, high: float) -> None:
    comparison = compare(100 * correct / images, images, 60.0, 224)
    assert comparison["interval"] == pytest.approx([low, high], abs=0.006)
    assert comparison["difference"] == 100 * correct / images - 60


def test_a_difference_at_all_or_none_is_not_called_exact() -> None:
    for top1 in (0.0, 100.0):
        low, high = compare(top1, 1000, 77.88, 224)["interval"]
        assert high - low > 0.3
        assert 0 <= low <= top1 <= high <= 100


def test_a_partial_result_and_unreadable_images_are_in_the_table() -> None:
    text = table(result(partial=True, unreadable=["a", "b"]))
    assert "images      50,000, a partial result" in text
    assert "unreadable  2 images, not counted above" in text


def subset(share: float) -> dict[str, Any]:
    """What was counted among 200 classes."""
    counts = {"correct1": round(50_000 * share), "correct5": 40_000, "loss": 9.0}
    return {"classes": 200, "top1": 100 * share, "top5": 80.0} | counts


def test_both_figures_of_some_classes_are_in_the_table() -> None:
    text = table(result(top1=10.0, subset=subset(0.4)))
    assert "top-1       10.00 %" in text
    both = "top-1 40.00 %, top-5 80.00 %, comparing the 200 classes of the images"
    assert f"subset      {both}" in text


HINTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "fine": ({}, None),
    "labels in another order": ({"correct1": 52, "loss": 11.0}, "labels look to be in another"),
    "untrained": ({"correct1": 48, "loss": math.log(1000)}, "weights look untrained"),
    "infinite": ({"loss": None}, "not a number"),
    "too few to say": ({"images": 10, "correct1": 0, "loss": 11.0}, None),
    "poor but not chance": ({"correct1": 500, "loss": 6.0}, None),
    "some classes": (
        {"present_classes": 200, "correct1": 52, "loss": 11.0},
        "of 200 of the network's 1,000 classes.*--subset-classes",
    ),
    "some classes, asked for": ({"present_classes": 200, "subset": subset(0.4)}, None),
    "some classes, in another order": (
        {"present_classes": 200, "correct1": 52, "subset": subset(0.004)},
        "labels look to be in another",
    ),
    "one class": ({"present_classes": 1}, None),
    "not all was read": (
        {"system_errors": ["a.jpg cannot be read: Stale file handle."]},
        "Images that the system did not read: 1;.*Stale file handle",
    ),
}


@pytest.mark.parametrize("case", HINTS)
def test_results_that_nobody_can_want_come_with_a_hint(case: str) -> None:
    changes, expected = HINTS[case]
    advice = hint(result(**changes))
    if expected is None:
        assert advice is None
    else:
        assert advice is not None and re.search(expected, advice)
