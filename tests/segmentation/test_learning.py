"""A head learns what is on real photographs, by the tutorial that the site shows."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from photos import one_thread  # noqa: F401

import pyconv

pytestmark = pytest.mark.slow

TUTORIAL = Path(__file__).parents[2] / "docs/tutorials/segmenter.py"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What the tutorial made, by the names that it has there."""
    return runpy.run_path(str(TUTORIAL))


def test_label_maps_are_the_photographs_own_pixels(made: dict[str, Any]) -> None:
    assert made["photographs"].shape == (1000, 28, 28)
    assert made["things"].bincount().tolist() == [0, *[100] * 10]
    assert made["for_test"].sum() == 300
    assert torch.equal(made["images"][:, 0] > 0, made["maps"] > 0)


def test_a_head_over_the_frozen_network_learns_to_find_clothes(made: dict[str, Any]) -> None:
    """On mosaics of photographs that the training did not show."""
    losses, mean_iou = made["losses"], made["mean_iou"]
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert made["before"] < 5
    assert mean_iou(torch.zeros_like(made["new_maps"])) < 6  # all of it background
    assert mean_iou(made["classes"]) > 30
    frozen = pyconv.pyconvresnet_tiny(pretrained=True).layer4.state_dict()
    learned = made["model"].layer4.state_dict()
    assert all(torch.equal(tensor, learned[key]) for key, tensor in frozen.items())
