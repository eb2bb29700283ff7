"""The published sets of PyConvSegNet: traced, recounted, and loaded from what a training saved."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from drive_server import Drive
from photos import one_thread  # noqa: F401
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pyconv
from pyconv import CheckpointError, get_model, get_model_weights, get_weight
from pyconv.data import ade20k
from pyconv.pyconvsegnet import SEGNETS
from pyconv.segmentation.report import VALIDATION
from pyconv.weights.__main__ import main as weights_main
from pyconv.weights.drive import read_record
from pyconv.weights.segmentation import SEGMENTATION_ENUMS, SegmentationWeights

EVERY = [member for enum in SEGMENTATION_ENUMS for member in enum]

# README of https://github.com/iduta/pyconvsegnet: mean IoU, pixel accuracy, and where it lies.
CLAIMS = {
    "ResNet50": (42.88, 80.97, "1uIliL_0ZpP20JP6cT9jwrA9nvtriS3v_"),
    "PyConvResNet50": (43.31, 81.18, "1wHK9WrW2YituFg6FLOSU06bPODASdZoT"),
    "ResNet101": (44.39, 81.60, "1C7NPjy0EEZajKrAAfpfOvjr_22O7JozQ"),
    "PyConvResNet101": (44.58, 81.77, "1RVS_nODNQeioBYvdTPS4DYvTozMMIAlh"),
    "ResNet152": (45.28, 81.89, "1YoZhCOBxTGQuZkLokAd_eiaY7R0E36eE"),
    "PyConvResNet152": (45.64, 82.36, "1P2qJNt72bCCDEO9FeKkWY4uakFLz-Ncb"),
}
ON_THE_TEST_SET = (39.13, 73.91, "1MdR9CeECFmMFspcYR8pbJLqo8AXEpMZz")


def test_the_published_sets_and_their_claims() -> None:
    claims = {f"PyConvSegNet_{name}_Weights.ADE20K_V1": row for name, row in CLAIMS.items()}
    claims["PyConvSegNet_PyConvResNet152_Weights.ADE20K_TRAINVAL"] = ON_THE_TEST_SET
    found = {str(w): (w.meta["miou"], w.meta["pixel_acc"], w.file_id) for w in EVERY}
    assert found == claims
    for weights in EVERY:
        assert weights.meta["claimed_by"] == "the authors"
        assert weights.sha256 is None  # until a maintainer has seen the file
        assert weights.meta["categories"] == list(ade20k.class_names())
        (metrics,) = weights.meta["_metrics"].items()
        assert metrics[0] == ("ADE20K-test" if "TRAINVAL" in str(weights) else VALIDATION)


def test_members_have_the_attributes_of_torchvisions() -> None:
    from torchvision.models.segmentation import FCN_ResNet50_Weights as Theirs

    theirs = Theirs.COCO_WITH_VOC_LABELS_V1.meta
    assert {"miou", "pixel_acc"} == {*next(iter(theirs["_metrics"].values()))}
    for enum in SEGMENTATION_ENUMS:
        weights = enum["DEFAULT"]
        assert weights.name == "ADE20K_V1"  # of the other one nothing can be measured on images
        assert {"categories", "num_params", "min_size", "_metrics", "_ops"} <= weights.meta.keys()
        assert get_model_weights(weights.value.model) is enum
        assert get_weight(f"{enum.__name__}.DEFAULT") is weights
        assert getattr(pyconv, enum.__name__) is enum
        pixels = weights.transforms()(torch.zeros(3, 5, 7, dtype=torch.uint8))
        assert pixels.shape == (3, 5, 7)
        assert pixels[:, 0, 0].tolist() == pytest.approx([-2.1179, -2.0357, -1.8044], abs=1e-4)


@pytest.mark.parametrize("weights", [enum["DEFAULT"] for enum in SEGMENTATION_ENUMS], ids=str)
def test_parameters_multiply_adds_and_sizes_are_recounted(weights: SegmentationWeights) -> None:
    with torch.device("meta"):
        model = get_model(weights.value.model).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 473, 473))
    both = [member.meta for member in type(weights)]  # two sets of one network
    assert all(meta["num_params"] == both[0]["num_params"] for meta in both)
    assert sum(p.numel() for p in model.parameters()) == weights.meta["num_params"]
    assert counter.get_total_flops() / 2e9 == pytest.approx(weights.meta["gmacs"], abs=0.005)
    state = model.state_dict()
    tensors = sum(t.numel() * t.element_size() for t in state.values())
    assert 0 < weights.meta["file_size"] - tensors < 400 * len(state)


State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Weights of pyconvsegnet_pyconvresnet50 that differ in every tensor."""
    with torch.device("meta"):
        empty = pyconv.pyconvsegnet_pyconvresnet50().state_dict()
    return {
        key: torch.full(tensor.shape, 0.5 + n / 1000).to(tensor.dtype)
        for n, (key, tensor) in enumerate(empty.items())
    }


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "PYCONV_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYCONV_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_a_training_saved_is_downloaded_proven_and_loaded(
    state: State, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of the real size from an imitation of Drive, in the nested form of its script."""
    weights = pyconv.PyConvSegNet_PyConvResNet50_Weights.ADE20K_V1
    saved = {
        "epoch": 100,
        "state_dict": {f"module.{key}": tensor for key, tensor in state.items()},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(9)}}, "param_groups": []},
        "mIoU_val": 0.4331,
    }
    file = io.BytesIO()
    torch.save(saved, file, _use_new_zipfile_serialization=False)
    assert len(file.getbuffer()) == pytest.approx(weights.meta["file_size"], rel=1e-3)
    assert weights.file_id is not None
    with Drive(file.getvalue(), weights.file_id) as drive:
        monkeypatch.setenv("PYCONV_DRIVE_URL", drive.url)
        model = pyconv.pyconvsegnet_pyconvresnet50(pretrained=True, progress=False)
        assert drive.count("body") == 1
    assert all(map(torch.equal, model.state_dict().values(), state.values()))
    record = read_record(weights.path)
    assert record is not None and record.trust == "trusted-on-first-use"
    again = get_model(weights.value.model, weights="DEFAULT")  # from the cache
    assert torch.equal(again.cls[1].weight, state["cls.1.weight"])
    assert weights_main(["list", weights.value.model]) == 0
    told = capsys.readouterr().out
    assert "43.31" in told and "trusted-on-first-use" in told
    out = cache.parent / "verified.json"
    assert weights_main(["verify", str(weights), "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())["weights"]
    assert (row["top1_claimed"], row["miou_claimed"]) == (None, 43.31)


@pytest.fixture
def files(state: State, tmp_path: Path) -> dict[str, Path]:
    """A file of a segmentation network, and the same values as one of its backbone."""
    with torch.device("meta"):
        shapes = pyconv.pyconvresnet50().state_dict()
    backbone = {key: torch.ones(t.shape).to(t.dtype) for key, t in shapes.items()}
    paths = {"segmentation": tmp_path / "s.pth", "backbone": tmp_path / "b.pth"}
    torch.save(state, paths["segmentation"])
    torch.save(backbone, paths["backbone"])
    return paths


def test_a_file_of_the_other_kind_is_told_apart(files: dict[str, Path]) -> None:
    told = (
        "It fits pyconvsegnet_pyconvresnet50, a network for segmentation: it is no file of "
        "ImageNet's classes.$"
    )
    with pytest.raises(CheckpointError, match=told):
        pyconv.pyconvresnet50(weights=files["segmentation"])
    with pytest.raises(CheckpointError, match=told):
        pyconv.pyconvsegnet_pyconvresnet50(weights_backbone=files["segmentation"])
    told = "It fits pyconvresnet50, which classifies images: give it as weights_backbone.$"
    with pytest.raises(CheckpointError, match=told):
        pyconv.pyconvsegnet_pyconvresnet50(weights=files["backbone"])
    with pytest.raises(CheckpointError, match=r"It fits pyconvsegnet_pyconvresnet50\.$"):
        pyconv.pyconvsegnet_resnet50(weights=files["segmentation"])
    model = pyconv.pyconvsegnet_pyconvresnet50(weights_backbone=files["backbone"])  # the cure
    assert model.layer0[0].weight.eq(1).all() and not model.cls[1].weight.eq(1).all()


def test_options_beside_the_weights(
    files: dict[str, Path], state: State, caplog: pytest.LogCaptureFixture
) -> None:
    path = files["segmentation"]
    model = pyconv.pyconvsegnet_pyconvresnet50(weights=path, num_classes=21)
    assert model.cls[1].weight.shape == model.aux[4].weight.shape == (21, 256, 1, 1)
    assert model.cls[1].weight.isfinite().all() and model.cls[1].weight.std() > 0.01
    assert torch.equal(model.layer3[0].conv1.weight, state["layer3.0.conv1.weight"])
    (line,) = caplog.messages  # once, though there are two classifiers
    assert "a classifier of 150 classes and the model one of 21: it was left out" in line
    caplog.clear()
    model = pyconv.pyconvsegnet_pyconvresnet50(weights=path, aux=False, in_channels=1)
    assert model.aux is None and model.layer0[0].weight.shape[1] == 1
    assert torch.equal(model.cls[1].weight, state["cls.1.weight"])
    bare = {key: tensor for key, tensor in state.items() if not key.startswith("aux.")}
    torch.save(bare, path)
    assert pyconv.pyconvsegnet_pyconvresnet50(weights=path).aux is None
    with pytest.raises(CheckpointError, match=r"holds a part of the model only.*aux"):
        pyconv.pyconvsegnet_pyconvresnet50(weights=path, aux=True)


def test_calls_that_contradict_themselves(files: dict[str, Path]) -> None:
    calls: list[tuple[dict[str, Any], str]] = [
        ({"weights": files["segmentation"], "weights_backbone": files["backbone"]}, "Leave"),
        ({"weights_backbone": "IMAGENET1K_V9"}, "Did you mean 'IMAGENET1K_V2'"),
        ({"weights": "ADE20K_V9"}, "Did you mean 'ADE20K_V1'"),
        ({"pretrained": True, "weights": "DEFAULT"}, "Give one of the two"),
        ({"weights": pyconv.PyConvResNet50_Weights.DEFAULT}, "Give them as weights_backbone"),
    ]
    for options, words in calls:
        with pytest.raises(ValueError, match=words):
            pyconv.pyconvsegnet_pyconvresnet50(**options)


def test_networks_without_published_weights() -> None:
    without = SEGNETS.keys() - {weights.value.model for weights in EVERY}
    assert without == {f"pyconvsegnet_pyconvhgresnet{depth}" for depth in (50, 101, 152)}
    with pytest.raises(ValueError, match="no published weights for pyconvsegnet_pyconvhgresnet50"):
        pyconv.pyconvsegnet_pyconvhgresnet50(pretrained=True)
