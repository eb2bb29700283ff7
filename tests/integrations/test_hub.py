"""Networks as folders and repositories of Hugging Face's Hub: saved, uploaded, built again."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hub_server import serving
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import pyconv
from pyconv import Architecture, ResNet, Stage, Stem, get_model, pyconvresnet_tiny
from pyconv.architectures import ARCHITECTURES
from pyconv.data import Preprocess
from pyconv.integrations import hub
from pyconv.models.registry import REGISTRY

NAMES = ("daisy", "rose", "tulip")
PIXELS = Preprocess(crop=48, resize=56)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 64, 64)


def trained(**options: Any) -> Any:
    """With values that no new network has."""
    model = pyconvresnet_tiny(num_classes=3, in_channels=3, **options)
    model(torch.randn(4, 3, 64, 64))  # running statistics
    return model.eval()


def test_a_folder_gives_the_network_its_classes_and_pixels_back(tmp_path: Path, x: Tensor) -> None:
    model = trained(dropout=0.25, output_stride=8)
    hub.save_pretrained(model, tmp_path / "new/flowers", classes=NAMES, preprocess=PIXELS)
    again = hub.from_pretrained(tmp_path / "new/flowers")
    assert (
        not again.training
        and again.dropout.p == 0.25
        and again.strides == model.strides == (2, 4, 4, 8)
    )
    assert again.classes == list(NAMES) and again.transforms() == PIXELS
    assert again.transforms(crop=96).crop == 96
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    torch.testing.assert_close(again(x), model(x))
    for twin in (copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert twin.classes == list(NAMES) and twin.transforms() == PIXELS
    hub.save_pretrained(again, tmp_path / "twin")  # what it knows goes along
    one, two = ((tmp_path / f / "config.json").read_text() for f in ("new/flowers", "twin"))
    assert one == two


def test_the_files_have_the_standard_form(tmp_path: Path) -> None:
    hub.save_pretrained(trained(), tmp_path, classes=NAMES)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "pyconvresnet_tiny" and config["num_classes"] == 3
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} and "fc.weight" in file.keys()  # noqa: SIM118
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pyconv\npipeline_tag: image-classification\n")
    # The weights alone are a checkpoint like any other.
    pyconvresnet_tiny(weights=tmp_path / "model.safetensors", num_classes=3, in_channels=3)
    (tmp_path / "README.md").write_text("my own words")
    hub.save_pretrained(trained(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own words"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


def test_the_sample(tmp_path: Path) -> None:
    """Grey images of another size, without a word about them in the model."""
    sample = pyconv.get_model_weights("pyconvresnet_tiny")["DEFAULT"]
    model = pyconvresnet_tiny(weights=sample).eval()
    hub.save_pretrained(model, tmp_path, classes=sample.meta["categories"])
    again = hub.from_pretrained(tmp_path)
    assert again.classes[0] == "T-shirt/top" and again.transforms() == sample.transforms()
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(again(images), model(images))


def test_the_weights_alone(tmp_path: Path, x: Tensor) -> None:
    """In channels-last, and two names of one tensor."""
    model = trained().to(memory_format=torch.channels_last)
    model.layer1[1].bn1.weight = model.layer1[0].bn1.weight
    hub.save_weights(model, tmp_path / "c.safetensors")
    again = pyconvresnet_tiny(weights=tmp_path / "c.safetensors").eval()
    torch.testing.assert_close(again(x), model(x))


@pytest.mark.parametrize("kind", ["channels_last", "half", "sync"])
def test_weights_of_any_form_are_written(kind: str, tmp_path: Path, x: Tensor) -> None:
    model = trained()
    expected = model(x)
    if kind == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    elif kind == "half":
        model = model.half()
    else:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    hub.save_pretrained(model, tmp_path)
    again = hub.from_pretrained(tmp_path)
    close = 2e-2 if kind == "half" else 1e-4
    torch.testing.assert_close(again(x), expected, rtol=close, atol=close)


@mock.patch.dict(REGISTRY)
def test_a_network_of_a_users_own_row_is_built_where_nobody_knows_it(tmp_path: Path) -> None:
    stages = tuple(Stage(1, planes, 2, (3, 5), (1, 4)) for planes in (16, 32))
    row = Architecture("Own", "basic2", 1, stages, Stem(width=16, pool=False), pool_shortcut=True)
    pyconv.register_model("own", row)
    model = get_model("own", num_classes=4).eval()
    hub.save_pretrained(model, tmp_path)
    del REGISTRY["own"]
    again = hub.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 32, 32)
    assert again.row == row
    torch.testing.assert_close(again(x), model(x))
    assert "# Own" in (tmp_path / "README.md").read_text()


def test_another_number_of_classes_starts_a_fine_tuning(tmp_path: Path) -> None:
    model = trained()
    hub.save_pretrained(model, tmp_path, classes=NAMES)
    again = hub.from_pretrained(tmp_path, num_classes=5)
    assert again.fc.out_features == 5 and again.classes == ["0", "1", "2", "3", "4"]
    assert torch.equal(again.conv1.weight, model.conv1.weight)
    with pytest.raises(TypeError, match="takes no classes; options are num_classes"):
        hub.from_pretrained(tmp_path, classes=5)


def test_what_config_cannot_describe_is_refused(tmp_path: Path) -> None:
    named: Any = trained()
    named.fc = nn.Sequential(nn.Dropout(), nn.Linear(128, 3))
    wide = trained(norm_layer=lambda channels: nn.GroupNorm(8, channels))
    spectral = trained()
    nn.utils.parametrizations.spectral_norm(spectral.fc)
    for model, said in (
        (named, r"its fc is Sequential\(\), and by its row"),
        (wide, r"its bn1 is GroupNorm\(8, 32"),
        (spectral, "it keeps weights in parts, as pruning and spectral_norm do"),
        (nn.Linear(2, 2), "this Linear: it is not built from a row"),
    ):
        with pytest.raises(ValueError, match=said):
            hub.save_pretrained(model, tmp_path / "no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There are 2 names of classes, and the network has 3"):
        hub.save_pretrained(trained(), tmp_path / "no", classes=["one", "two"])
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "dilated",
    [
        {"replace_stride_with_dilation": [True, False, False]},
        {"output_stride": 16, "dilate_first_block": True},
    ],
)
def test_dilated_networks_come_back_dilated(dilated: Any, tmp_path: Path, x: Tensor) -> None:
    model = ResNet(ARCHITECTURES["pyconvresnet18"], num_classes=3, **dilated).eval()
    hub.save_pretrained(model, tmp_path)
    again = hub.from_pretrained(tmp_path)
    assert again.strides == model.strides
    torch.testing.assert_close(again(x), model(x))
    plain = hub.from_pretrained(tmp_path, output_stride=32)
    assert plain.strides == (4, 8, 16, 32)


def test_what_pyconv_train_wrote_goes_on_with_its_names_and_pixels(tmp_path: Path) -> None:
    images = {"crop": 28, "resize": 30, "mean": [0.5] * 3, "std": [0.25] * 3}
    content = {"state_dict": trained().state_dict(), "classes": list(NAMES), "images": images}
    torch.save(content, tmp_path / "best.pt")
    model = pyconv.load(tmp_path / "best.pt")
    hub.save_pretrained(model, tmp_path / "flowers")
    again = hub.from_pretrained(tmp_path / "flowers")
    assert again.classes == list(NAMES) and again.transforms() == model.transforms()
    assert again.transforms().resize == 30


@pytest.mark.skipif(not hasattr(pyconv, "optimize"), reason="of pyconv.speed")
def test_optimized_models_are_refused_and_their_weights_written(tmp_path: Path, x: Tensor) -> None:
    fast = pyconv.optimize(trained())
    with pytest.raises(
        ValueError, match=r"its conv1 is Conv2d.*, and by its row .*bias=False"
    ) as refused:
        hub.save_pretrained(fast, tmp_path)
    assert str(refused.value).endswith("pyconv.integrations.hub.save_weights(model, FILE).")
    hub.save_weights(fast, tmp_path / "fast.safetensors")
    twin = pyconv.optimize(trained())
    twin.load_state_dict(load_file(tmp_path / "fast.safetensors"))
    assert torch.equal(twin(x), fast(x))


def test_other_folders_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor the name of a repository"):
        hub.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"has no config.json, which save_pretrained writes"):
        hub.from_pretrained(tmp_path)
    config = tmp_path / "config.json"
    for content, said in (
        ("{", "is damaged"),
        ('{"architecture": "resnet50"}', "was not written by this library"),
        ('{"library_name": "pyconv", "architecture": "new"}', r"no network that is known here"),
        ('{"library_name": "pyconv", "architecture": {"title": 3}}', "no network that is known"),
    ):
        config.write_text(content)
        with pytest.raises(ValueError, match=said):
            hub.from_pretrained(tmp_path)
    hub.save_pretrained(trained(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model.safetensors"):
        hub.from_pretrained(tmp_path)


USE = """
import os
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from pyconv import pyconvresnet_tiny
from pyconv.integrations import hub

x = torch.randn(1, 3, 28, 28)
for words in ("", "my own words"):
    model = pyconvresnet_tiny(num_classes=3, in_channels=3).eval()
    print(hub.push_to_hub(model, "me/flowers", classes=["daisy", "rose", "tulip"], token="hf_x"))
    again = hub.from_pretrained("me/flowers")
    assert torch.equal(again(x), model(x)) and again.classes == ["daisy", "rose", "tulip"]
    HfApi(token="hf_x").upload_file(
        path_or_fileobj=b"my own words", path_in_repo="README.md", repo_id="me/flowers"
    )
try:
    hub.from_pretrained("me/others")
except RepositoryNotFoundError as error:
    told = str(error)
assert "no folder me/others, and no repository of that name" in told, told
os.environ["PYCONV_OFFLINE"] = "1"
assert torch.equal(hub.from_pretrained("me/flowers")(x), model(x))  # from the cache
try:
    hub.from_pretrained("me/others")
except LocalEntryNotFoundError as error:
    assert "no folder me/others, and" in str(error) and "PYCONV_OFFLINE forbids" in str(error)
hub.push_to_hub(model, "me/flowers")
"""


def test_uploaded_and_downloaded(tmp_path: Path) -> None:
    """With the real package, to a server that answers as the Hub does."""
    with serving() as (address, commits):
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", USE],
            env=environment | {"HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.stderr.endswith("ValueError: PYCONV_OFFLINE forbids uploading. Unset it.\n")
    first, own, second, _ = commits
    assert first.keys() == {"README.md", "config.json", "model.safetensors"}
    assert b'from_pretrained("me/flowers")' in first["README.md"]
    assert own == {"README.md": b"my own words"}
    assert second.keys() == {"config.json", "model.safetensors"}  # the card stays
    assert done.stdout.count(f"{address}/me/flowers/commit/") == 2
