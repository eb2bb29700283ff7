"""The factories and the registry: what names, weights and options of a call mean."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

import pyconv
from pyconv import (
    PyConvResNet50_Weights,
    PyConvResNet101_Weights,
    ResNet50_Weights,
    get_model,
    get_weight,
    list_models,
    pyconvresnet18,
    pyconvresnet50,
    pyconvresnet_tiny,
    resnet18,
)
from pyconv.models.registry import resolve_weights


def test_every_name_is_a_public_factory() -> None:
    for name in list_models():
        factory = getattr(pyconv, name)
        assert factory.__name__ == name
        assert factory.__doc__.startswith(pyconv.architectures.ARCHITECTURES[name].title)
        options = inspect.signature(factory).parameters
        assert next(iter(options)) == "pretrained"
        assert options["weights"].kind is inspect.Parameter.KEYWORD_ONLY


def test_patterns_list_networks() -> None:
    assert list_models("pyconvhg*") == [
        "pyconvhgresnet101",
        "pyconvhgresnet152",
        "pyconvhgresnet50",
    ]
    assert list_models("*nothing*") == []
    assert list_models() == sorted(list_models())
    with pytest.raises(ValueError, match="'detection' must be one of classification, segmentation"):
        list_models(task="detection")  # type: ignore[arg-type]


def test_what_a_message_says_it_says_once_and_by_public_names() -> None:
    with pytest.raises(ValueError, match=r"missing\.pth") as caught:
        pyconvresnet50(weights="missing.pth")
    assert str(caught.value).count("IMAGENET1K_V2") == 1
    with pytest.raises(TypeError, match=r"^pyconvresnet50\(\) got an unexpected .* 'num_clases'"):
        pyconvresnet50(num_clases=3)  # type: ignore[call-arg]


def test_get_model_is_the_factory() -> None:
    torch.manual_seed(0)
    ours = get_model("pyconvresnet18", num_classes=7)
    torch.manual_seed(0)
    direct = pyconvresnet18(num_classes=7)
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, direct.state_dict()[key])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: get_model("pyconvresnt50"), "'pyconvresnt50'. Did you mean 'pyconvresnet50'"),
        (lambda: get_model("zzz"), "There is no network named 'zzz'. Known: resnet18, "),
        (lambda: get_model("nets.mine"), "own is given as module:name\\.$"),
        (lambda: get_model("best.pt"), "To load a file, use pyconv.load, or --checkpoint"),
        (lambda: get_model("pyconvresnet50.v1"), "module:name. Did you mean 'pyconvresnet50'"),
        (
            lambda: get_model("pyconvsegnet_pyconvresnet50", weights_backbone="ADE20K_V1"),
            "ADE20K_V1 are weights of pyconvsegnet_pyconvresnet50, not of pyconvresnet50",
        ),
        (
            lambda: get_model("pyconvsegnet_pyconvresnet50", weights="IMAGENET1K_V2"),
            "are weights of pyconvresnet50, not of .*Give them as weights_backbone",
        ),
        (
            lambda: get_weight("PyConvResNet50_Weights.IMAGENET1K_V3"),
            "Did you mean 'PyConvResNet50",
        ),
        (lambda: pyconvresnet50(weights="IMAGENET1K_V7"), "IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        (lambda: pyconvresnet50(weights="IMAGNET1K_V1"), "Did you mean 'IMAGENET1K_V1'"),
        (lambda: pyconvresnet50(weights="missing.pth"), "'missing.pth' is neither a file nor the"),
        (lambda: pyconvresnet50(weights="missing.pth"), "IMAGENET1K_V2, DEFAULT\\.$"),
        (lambda: resnet18(pretrained=True), "no published weights for resnet18. Networks that"),
        # No segmentation networks among them.
        (lambda: resnet18(pretrained=True), "pyconvresnet_tiny\\. For weights of"),
        (lambda: resnet18(weights="DEFAULT"), "no published weights for resnet18. Networks that"),
        (
            lambda: pyconvresnet50(weights=PyConvResNet101_Weights.DEFAULT),
            "PyConvResNet101_Weights.IMAGENET1K_V2 are weights of pyconvresnet101, not of",
        ),
        (
            lambda: pyconvresnet50(pretrained=True, weights="IMAGENET1K_V2"),
            "pretrained=True asks for the paper's weights and weights='IMAGENET1K_V2' for others",
        ),
    ],
)
def test_what_is_not_there_suggests_what_is(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        call()


def test_what_a_call_means(tmp_path: Path) -> None:
    v1, v2 = PyConvResNet50_Weights.IMAGENET1K_V1, PyConvResNet50_Weights.IMAGENET1K_V2
    assert resolve_weights("pyconvresnet50", False, None) is None
    assert resolve_weights("pyconvresnet50", True, None) is v1  # the paper's, as in the original
    assert resolve_weights("pyconvresnet50", False, "DEFAULT") is v2  # the best there is
    assert resolve_weights("pyconvresnet50", False, v1) is v1
    assert resolve_weights("pyconvresnet50", False, str(v1)) is v1
    assert resolve_weights("resnet50", False, "IMAGENET1K_V1") is ResNet50_Weights.IMAGENET1K_V1
    file = tmp_path / "mine.pth"
    file.touch()
    assert resolve_weights("pyconvresnet50", False, file) == file
    assert resolve_weights("pyconvresnet50", False, str(file)) == file


def test_a_checkpoint_is_loaded_by_its_path(tmp_path: Path) -> None:
    trained = pyconvresnet_tiny()
    torch.save(trained.state_dict(), tmp_path / "mine.pth")
    loaded = pyconvresnet_tiny(weights=tmp_path / "mine.pth", dropout=0.1)
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[key])
    assert not any(t.is_meta for t in loaded.state_dict().values())
    loaded.train()(torch.randn(2, 1, 28, 28)).sum().backward()
    assert all(p.requires_grad and p.grad is not None for p in loaded.parameters())


def test_loaded_weights_are_the_models_own(tmp_path: Path) -> None:
    """A training step must never reach the file."""
    path = tmp_path / "mine.pth"
    torch.save(pyconvresnet_tiny().state_dict(), path)
    before = path.read_bytes()
    model = pyconvresnet_tiny(weights=path)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert path.read_bytes() == before
    assert pyconvresnet_tiny(weights=path).conv1.weight.abs().sum() > 0


def test_weights_follow_the_default_dtype(tmp_path: Path) -> None:
    torch.save(pyconvresnet_tiny().state_dict(), tmp_path / "mine.pth")
    torch.set_default_dtype(torch.float64)
    try:
        model = pyconvresnet_tiny(weights=tmp_path / "mine.pth")
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.conv1.weight.dtype == torch.float64
