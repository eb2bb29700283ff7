"""segmentation_models_pytorch takes the networks through timm, as it takes timm's ResNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyconv import Backbone, DownloadError, get_model

pytestmark = pytest.mark.ecosystem

STRIDES = {  # of the encoder's maps, by the decoder
    "Unet": [1, 2, 4, 8, 16, 32],
    "FPN": [1, 2, 4, 8, 16, 32],
    "UPerNet": [1, 2, 4, 8, 16, 32],
    "DeepLabV3Plus": [1, 2, 4, 8, 16, 16],
    "DeepLabV3": [1, 2, 4, 8, 8, 8],
    "PSPNet": [1, 2, 4, 8],
}


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 64, 64)


def build(kind: str, name: str, **options: Any) -> Any:
    import segmentation_models_pytorch as smp

    import pyconv.integrations.timm  # noqa: F401

    torch.manual_seed(0)
    return getattr(smp, kind)(f"tu-{name}", encoder_weights=None, classes=3, **options)


@pytest.mark.parametrize("name", ["resnet50", "pyconvresnet50"])
@pytest.mark.parametrize("kind", STRIDES)
def test_a_training_step(kind: str, name: str, x: Tensor) -> None:
    """Strides, channels and gradients are those of timm's ResNet."""
    model = build(kind, name).eval()
    strides = STRIDES[kind]
    channels = [3, 64, 256, 512, 1024, 2048][: len(strides)]
    assert model.encoder.out_channels == channels
    assert model.encoder.output_stride == strides[-1]
    assert [64 // each.shape[-1] for each in model.encoder(x)] == strides
    target = x.argmax(1)
    out = model(x)
    assert out.shape == (2, 3, 64, 64)
    loss = nn.functional.cross_entropy(out, target)
    loss.backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None]
    with torch.no_grad():  # a step down the gradient, small enough for any network
        square = sum(p.grad.square().sum() for p in model.parameters())
        for parameter in model.parameters():
            parameter -= 1e-4 * loss / square * parameter.grad
        assert nn.functional.cross_entropy(model(x), target) < loss


@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_encoders_hold_the_networks_own_features(stride: int, x: Tensor) -> None:
    """The weights of the zoo, and the maps of its dilated network."""
    model = build("DeepLabV3Plus", "pyconvresnet50", encoder_output_stride=stride).eval()
    network = get_model("pyconvresnet50", output_stride=stride, num_classes=0).eval()
    network.load_state_dict(model.encoder.model.state_dict())
    with torch.inference_mode():
        _, _, *maps = model.encoder(x)
        for one, other in zip(maps, Backbone(network)(x).values(), strict=True):
            torch.testing.assert_close(one, other)


def test_fewer_stages_and_other_images() -> None:
    model = build(
        "Unet", "pyconvhgresnet50", in_channels=4, encoder_depth=3, decoder_channels=(64, 32, 16)
    )
    assert model(torch.randn(2, 4, 64, 96)).shape == (2, 3, 64, 96)
    assert model.encoder.out_channels == [4, 64, 256, 512]


def test_pretrained_encoders_come_through_our_own_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import segmentation_models_pytorch as smp

    import pyconv.integrations.timm  # noqa: F401

    monkeypatch.setenv("PYCONV_OFFLINE", "1")
    monkeypatch.setenv("PYCONV_HOME", str(tmp_path))
    with pytest.raises(DownloadError, match="PYCONV_OFFLINE forbids its download"):
        smp.Unet("tu-pyconvresnet50", encoder_weights="imagenet")
