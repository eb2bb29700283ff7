"""A head learns what is on real photographs, by the script that the page shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from photos import one_thread  # noqa: F401

SCRIPT = Path(__file__).parent.parent.parent / "docs/segmentation_example.py"


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("segmentation_example", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_label_maps_are_the_photographs_own_pixels(example: Any) -> None:
    pixels, labels = example.photographs()
    assert pixels.shape == (1000, 28, 28) and labels.bincount().tolist() == [0, *[100] * 10]
    images, maps = example.mosaics(pixels, labels, 4, tiles=2, seed=0)
    assert images.shape == (4, 1, 57, 57)
    assert torch.equal(images[:, 0] > 0, maps > 0)


def test_a_head_over_the_frozen_network_learns_to_find_clothes(example: Any) -> None:
    """On mosaics of photographs that the training did not show; the script's is a longer one."""
    torch.manual_seed(0)
    pixels, labels = example.photographs()
    test = torch.arange(1000) % 100 >= 70
    images, maps = example.mosaics(pixels[~test], labels[~test], 64, tiles=2, seed=1)
    new, truth = example.mosaics(pixels[test], labels[test], 16, tiles=2, seed=2)
    model = example.network()
    frozen = {key: tensor.clone() for key, tensor in model.layer4.state_dict().items()}
    before = example.measure(example.found(model, new), truth)
    losses = example.learn(model, images, maps, steps=25, batch=8)
    after = example.measure(example.found(model, new), truth)
    alone = example.measure(torch.zeros_like(truth), truth)  # all of it background
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert before.mean_iou < 5 and alone.mean_iou < 6
    assert after.mean_iou > 20
    assert all(torch.equal(frozen[key], t) for key, t in model.layer4.state_dict().items())
