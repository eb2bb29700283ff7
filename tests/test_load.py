"""pyconv.load: a file or a name in, a model out that knows its classes and its pixels."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pyconv
from pyconv import (
    CheckpointError,
    PyConvResNetTiny_Weights,
    get_model,
    list_models,
    load,
    register_model,
)
from pyconv.data import Preprocess
from pyconv.data.imagenet import class_names
from pyconv.models.registry import REGISTRY
from pyconv.weights.checkpoint import whose
from pyconv.weights.rows import sample_file

TINY = "pyconvresnet_tiny"
CLASSES = ["ant", "bee", "cat"]


def save(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def trained(path: Path, model: str = TINY, **parts: Any) -> Path:
    """A file as pyconv-train writes it."""
    torch.manual_seed(0)
    network = get_model(TINY, num_classes=3, in_channels=3)
    about = {"crop": 20, "resize": 24, "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.1]}
    content = {"state_dict": network.state_dict(), "classes": CLASSES, "images": about}
    return save(content | {"run": {"identity": {"model": model}}} | parts, path)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(min((sample_file("images") / "9-ankle-boot").iterdir()))


def test_a_file_of_pyconv_train_says_all(
    tmp_path: Path, photo: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    path = trained(tmp_path / "best.pt")
    model = load(path)
    assert caplog.records == [] and not model.training
    assert model.classes == CLASSES
    assert model.transforms() == Preprocess(20, 24, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))
    assert model.transforms(crop=40) == model.transforms().sized(40, 48)
    state = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert model(model.transforms()(photo)[None]).shape == (1, 3)
    assert load(str(path), model=TINY, dropout=0.1).dropout.p == 0.1


@pytest.mark.parametrize(
    "source",
    [
        TINY,
        PyConvResNetTiny_Weights.DEFAULT,
        "PyConvResNetTiny_Weights.FASHION_MNIST",
        "PyConvResNetTiny_Weights.DEFAULT",
    ],
)
def test_a_name_or_a_set_is_what_is_published(source: Any, photo: Image.Image) -> None:
    model = load(source)
    assert type(model).__name__ == "ResNet"
    assert model.transforms() == PyConvResNetTiny_Weights.DEFAULT.transforms()
    with torch.inference_mode():
        best = int(model(model.transforms()(photo)[None]).argmax())
    assert model.classes[best] == "Ankle boot"
    assert load("DEFAULT", model=TINY, device="meta").conv1.weight.is_meta


def test_what_load_adds_disturbs_nothing() -> None:
    model, plain = load(TINY), pyconv.pyconvresnet_tiny(pretrained=True).eval()
    assert list(model.state_dict()) == list(plain.state_dict())
    x = torch.rand(1, 1, 28, 28)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.classes == model.classes and other.transforms() == model.transforms()
        assert torch.equal(other(x), model(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that scripting is old
        torch.testing.assert_close(torch.jit.script(model)(x), plain(x))
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), plain(x))


FOREIGN: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "a state dict": lambda state: state,
    "of a parallel run": lambda state: {f"module.{k}": v for k, v in state.items()},
    "below a prefix": lambda state: {"model": {f"net.body.{k}": v for k, v in state.items()}},
    "beside others": lambda state: (
        {f"net.{k}": v for k, v in state.items()} | {"criterion.weight": torch.ones(3)}
    ),
    "in half": lambda state: {k: v.half() if v.ndim else v for k, v in state.items()},
    "with a counter": lambda state: state | {"layer1.total_ops": torch.zeros(1)},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_of_a_foreign_file_the_network_is_told_by_its_tensors(case: str, tmp_path: Path) -> None:
    state = get_model(TINY, num_classes=4, in_channels=3).state_dict()
    model = load(save(FOREIGN[case](dict(state)), tmp_path / "f.pth"))
    assert isinstance(model, pyconv.ResNet) and model.row.title == "PyConvResNet-tiny"
    assert (model.num_classes, model.conv1.in_channels) == (4, 3)
    assert model.classes == ["0", "1", "2", "3"]
    assert (model.transforms().crop, len(model.transforms().mean)) == (28, 3)


def test_what_is_assumed_of_a_foreign_file_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(get_model("resnet18").state_dict(), tmp_path / "f.pth")
    assert load(path).classes == list(class_names())
    assert load(path, num_classes=2).classes == ["0", "1"]
    first, _, last = [record.getMessage() for record in caplog.records]
    assumed = f"{path} does not say what images it takes: resize 256 and crop 224 are assumed, and"
    assert (first, last) == (
        f"{assumed} ImageNet's classes.",
        f"{assumed} its classes are numbered.",
    )


@pytest.mark.parametrize("name", list_models())
def test_every_network_is_known_by_its_tensors(name: str) -> None:
    with torch.device("meta"):
        state = get_model(name, num_classes=7, in_channels=5).state_dict()
    assert whose(state) == name
    assert whose({f"any.prefix.{key}": tensor for key, tensor in state.items()}) == name
    del state["layer3.0.bn1.weight"]
    assert whose(state) is None


def test_a_weight_kept_in_two_is_one_weight() -> None:
    model = get_model(TINY)
    nn.utils.parametrizations.weight_norm(model.get_submodule("layer1.0.conv2"))
    assert whose(model.state_dict()) == TINY


def test_weights_without_a_classifier_give_features(tmp_path: Path) -> None:
    path = save(get_model(TINY, num_classes=0).state_dict(), tmp_path / "body.pth")
    model = load(path)
    assert model.classes == []
    assert model(torch.rand(1, 1, 28, 28)).shape == (1, 128)


def test_a_file_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a network in a file could be that of any module and function."""
    (tmp_path / "evil.py").write_text(
        "import pyconv\n"
        "def network(**options):\n"
        "    return pyconv.pyconvresnet_tiny(in_channels=3, **options)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = trained(tmp_path / "best.pt", model="evil:network")
    with pytest.raises(CheckpointError, match=r"model='evil:network' \(--model evil:network\)"):
        load(path)
    assert "evil" not in sys.modules
    model = load(path, model="evil:network")  # which the user asks for
    assert model.classes == CLASSES and model.num_classes == 3
    sys.modules.pop("evil")


WRONG: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "a misspelt network": (
        lambda _: load("pyconvresnt50"),
        ValueError,
        r"'pyconvresnt50' is neither a file, a network nor published weights\. Did you mean "
        "'pyconvresnet50'",
    ),
    "no such file": (
        lambda path: load(path / "no.pth"),
        ValueError,
        r"no\.pth' is neither a file, .* pyconv\.list_models\(\) lists the networks",
    ),
    "nothing published": (lambda _: load("resnet18"), ValueError, "no published weights for res"),
    "a folder": (lambda path: load(path), IsADirectoryError, "is a folder"),
    "two networks": (
        lambda _: load(PyConvResNetTiny_Weights.DEFAULT, model="resnet18"),
        ValueError,
        "are weights of pyconvresnet_tiny, not of resnet18",
    ),
    "no network of the zoo": (
        lambda path: load(save(nn.Linear(2, 2).state_dict(), path / "l.pth")),
        CheckpointError,
        r"l\.pth fits no network of the zoo .* model='resnet50' \(--model resnet50\)",
    ),
    "a network that nobody registered here": (
        lambda path: load(trained(path / "b.pt", model="mine")),
        CheckpointError,
        r"is of mine, a network of your own, .* model='module:mine' \(--model module:mine\)",
    ),
    "a file that lies": (
        lambda path: load(trained(path / "b.pt", model="resnet18")),
        CheckpointError,
        "is of another model: .* It fits pyconvresnet_tiny",
    ),
    "four channels": (
        lambda path: load(
            save(get_model(TINY, in_channels=4).state_dict(), path / "f.pth")
        ).transforms(),
        ValueError,
        r"f\.pth takes 4 channels, and image files give 1 or 3",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_does_not_work_is_one_line_with_its_cure(fault: str, tmp_path: Path) -> None:
    act, kind, words = WRONG[fault]
    with pytest.raises(kind, match=words) as caught:
        act(tmp_path)
    assert "\n" not in str(caught.value)


# The sizes of a network that are not given are those of its weights.


def test_a_factory_takes_the_sizes_of_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A fine-tuned classifier is not thrown away, and a stem not adapted, unless asked for."""
    path = trained(tmp_path / "best.pt")
    state = torch.load(path, weights_only=True)["state_dict"]
    for build in (pyconv.pyconvresnet_tiny, lambda **o: get_model(TINY, **o)):
        model = build(weights=path)
        assert (model.num_classes, model.conv1.in_channels) == (3, 3)
        assert torch.equal(model.fc.weight, state["fc.weight"])
    assert caplog.records == []
    asked = pyconv.pyconvresnet_tiny(weights=path, num_classes=5, in_channels=1)
    assert (asked.fc.weight.shape, asked.conv1.in_channels) == ((5, 128), 1)
    assert len(caplog.records) == 2  # and both are told
    plain = pyconv.pyconvresnet_tiny()
    assert (plain.num_classes, plain.conv1.in_channels) == (10, 1)
    assert pyconv.resnet18(num_classes=None).num_classes == 1000


@mock.patch.dict(REGISTRY)
def test_a_factory_of_ones_own_is_given_the_sizes_of_a_file(tmp_path: Path) -> None:
    asked: list[dict[str, int]] = []

    @register_model
    def own(**sizes: int) -> nn.Module:
        asked.append(sizes)
        return pyconv.pyconvresnet_tiny(**sizes)

    path = trained(tmp_path / "own.pt", model="own")
    assert load(path).classes == CLASSES
    assert asked[-1] == {"num_classes": 3, "in_channels": 3}
    get_model("own", weights=path, num_classes=5)
    assert asked[-1] == {"num_classes": 5}
    register_model("bare", lambda: pyconv.pyconvresnet_tiny(num_classes=3, in_channels=3))
    assert get_model("bare", weights=path).num_classes == 3  # a factory without the option
