"""What people read of a result: the table, the hint, the difference to what was published."""

from __future__ import annotations

import math
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
    assert "difference  -0.08 +- 0.19 points (standard error)" in text
    assert "published" not in table(result(published=None))


def test_the_standard_error_is_the_binomial_one() -> None:
    comparison = compare(50.0, 100, 60.0, 224)
    assert comparison["difference"] == -10
    assert comparison["standard_error"] == pytest.approx(5.0)


def test_a_partial_result_and_unreadable_images_are_in_the_table() -> None:
    text = table(result(partial=True, unreadable=["a", "b"]))
    assert "images      50,000, a partial result" in text
    assert "unreadable  2 images, not counted above" in text


HINTS = {
    "fine": ({}, None),
    "labels in another order": ({"correct1": 52, "loss": 11.0}, "labels look to be in another"),
    "untrained": ({"correct1": 48, "loss": math.log(1000)}, "weights look untrained"),
    "infinite": ({"loss": None}, "not a number"),
    "too few to say": ({"images": 10, "correct1": 0, "loss": 11.0}, None),
    "poor but not chance": ({"correct1": 500, "loss": 6.0}, None),
}


@pytest.mark.parametrize("case", HINTS)
def test_results_that_nobody_can_want_come_with_a_hint(case: str) -> None:
    changes, expected = HINTS[case]
    advice = hint(result(**changes))
    assert (advice is None) if expected is None else (advice is not None and expected in advice)
