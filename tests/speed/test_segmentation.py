"""PyConvSegNet, made faster: the same numbers, and nothing of it left as it was."""

from __future__ import annotations

import pytest
import torch
from photos import one_thread  # noqa: F401
from segmentation_data import small
from torch import nn

import pyconv
from pyconv.segmentation import predict
from pyconv.speed.prepared import DirectPyramid, PreparedConv


def trained() -> pyconv.PyConvSegNet:
    """Norms whose statistics are not those of the start."""
    model = small(7)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("example", [True, False])
def test_an_optimised_network_is_equal_and_all_of_it_is_rewritten(example: bool) -> None:
    model, images = trained(), torch.randn(1, 3, 65, 60)
    fast = pyconv.optimize(model, images) if example else pyconv.optimize(model)
    with torch.inference_mode():
        torch.testing.assert_close(fast(images)["out"], model(images)["out"], rtol=1e-4, atol=1e-4)
    norms = [name for name, module in fast.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["aux.1"]  # which is for training
    for level in fast.pyconvhead.local_context.layers[3].modules():  # the head's pyramid as well
        if isinstance(level, nn.Conv2d):
            assert level.groups == 1
    kinds = {type(module) for module in fast.layer3.modules()}
    assert kinds & {PreparedConv, DirectPyramid}  # which is dilated


def test_predict_takes_an_optimised_network() -> None:
    model = trained()
    fast = pyconv.optimize(model, torch.zeros(1, 3, 33, 33))
    image = torch.randn(3, 50, 70)
    same = predict(model, image, window=33, base_size=64) == predict(
        fast, image, window=33, base_size=64
    )
    assert same.float().mean() > 0.99


def test_the_layers_by_themselves_compute_the_same() -> None:
    model, images = trained(), torch.randn(2, 3, 65, 73)
    with torch.no_grad():
        fast = model(images)["out"]
        with pyconv.speed.disabled():
            plain = model(images)["out"]
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    found = []
    for off in (False, True):
        model.zero_grad()
        torch.manual_seed(0)  # dropout
        if off:
            with pyconv.speed.disabled():
                loss = sum(out.square().mean() for out in model.train()(images).values())
                loss.backward()
        else:
            loss = sum(out.square().mean() for out in model.train()(images).values())
            loss.backward()
        found.append(model.layer1[0].conv1.weight.grad.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)
