"""Checkpoints: every layout that users have, and every file that is none."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from pyconv import CheckpointError, PyConv2d, pyconvresnet_tiny, resnet18
from pyconv.weights.checkpoint import load, read

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return dict(pyconvresnet_tiny().state_dict())


def save(content: object, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


LAYOUTS: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "arch": "x", "state_dict": state, "best_acc1": 1.5},
    "model": lambda state: {"model": state, "args": {"lr": 0.1}},
    "module.": lambda state: {f"module.{key}": t for key, t in state.items()},
    "nested module.": lambda state: {"state_dict": {f"module.{k}": t for k, t in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{key}": t for key, t in state.items()},
    "compiled in parallel": lambda state: {f"module._orig_mod.{k}": t for k, t in state.items()},
    "parallel, compiled": lambda state: {f"_orig_mod.module.{k}": t for k, t in state.items()},
    "parameters": lambda state: {
        k: nn.Parameter(t, t.is_floating_point()) for k, t in state.items()
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_layout_of_a_users_own(
    layout: str, zipped: bool, state: State, tmp_path: Path
) -> None:
    content = LAYOUTS[layout](state)
    path = save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    model = pyconvresnet_tiny(weights=path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    assert not any(buffer.requires_grad for buffer in model.buffers())
    assert len(list(model.parameters())) == len(list(pyconvresnet_tiny().parameters()))


def test_the_originals_general_layer_loads(tmp_path: Path) -> None:
    trained, fresh = PyConv2d(16, 16, pyconv_groups=None), PyConv2d(16, 16, pyconv_groups=None)
    path = save({f"module.{k}": t for k, t in trained.state_dict().items()}, tmp_path / "c.pth")
    load(fresh, read(path))
    assert torch.equal(fresh.levels[3].weight, trained.levels[3].weight)  # type: ignore[arg-type]


def test_another_number_of_classes_drops_the_classifier_alone(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(state, tmp_path / "c.pth")
    with caplog.at_level(logging.INFO):
        model = pyconvresnet_tiny(weights=path, num_classes=3)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        f"{path} has a classifier of 10 classes and the model one of 3: it was left out, and the "
        "model's own starts untrained."
    ]
    assert model.fc.weight.shape == (3, 128)
    assert model.fc.weight.abs().sum() > 0
    for key, tensor in model.state_dict().items():
        if not key.startswith("fc."):
            assert torch.equal(tensor, state[key])


def test_no_classifier_is_no_news(
    state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = pyconvresnet_tiny(weights=save(state, tmp_path / "c.pth"), num_classes=0)
    assert not list(model.fc.parameters())
    assert caplog.records == []


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_other_channels_adapt_the_stem(channels: int, tmp_path: Path) -> None:
    """An image of equal channels gives the same sums as before, however many there are."""
    old = resnet18(num_classes=2).eval()
    path = save(old.state_dict(), tmp_path / "c.pth")
    new = resnet18(weights=path, in_channels=channels, num_classes=2).eval()
    stem, before = new.conv1.weight, old.conv1.weight
    assert stem.shape == (64, channels, 7, 7)
    if channels == 1:
        torch.testing.assert_close(stem, before.sum(1, keepdim=True))
    else:
        cycled = torch.stack([before[:, c % 3] for c in range(channels)], 1) * 3 / channels
        torch.testing.assert_close(stem, cycled)
    assert new(torch.randn(1, channels, 32, 32)).shape == (1, 2)


def test_norms_with_and_without_counters_exchange_weights(state: State, tmp_path: Path) -> None:
    path = save(state, tmp_path / "c.pth")
    frozen = pyconvresnet_tiny(weights=path, norm_layer=FrozenBatchNorm2d)
    back = pyconvresnet_tiny(weights=save(frozen.state_dict(), tmp_path / "f.pth"))
    assert torch.equal(back.bn1.running_var, state["bn1.running_var"])
    assert back.bn1.num_batches_tracked == 0


def test_tensors_are_taken_not_copied(state: State, tmp_path: Path) -> None:
    model, loaded = pyconvresnet_tiny(), read(save(state, tmp_path / "c.pth"))
    load(model, loaded)
    assert model.conv1.weight.data_ptr() == loaded["conv1.weight"].data_ptr()


class Touch:
    """What a malicious file would run when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return (Path.touch, (self.path,))


def overlong() -> Tensor:
    """A tensor of few bytes that claims many elements."""
    return torch.zeros(1).expand(32, 1, 5, 5)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def compressed(state: State, path: Path) -> Path:
    save(state, path)
    with zipfile.ZipFile(path) as plain:
        members = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def cut(state: State, path: Path, zipped: bool, keep: float) -> Path:
    content = save(state, path, _use_new_zipfile_serialization=zipped).read_bytes()
    return write(path, content[: int(keep * len(content))])


def later(state: State, path: Path) -> None:
    """A zip that asks for a version of the format that does not exist."""
    content = bytearray(save(state, path).read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 255
    write(path, bytes(content))


def hidden(state: State, path: Path) -> None:
    """A dict whose attribute stands before its method of the same name."""
    content: OrderedDict[str, float] = OrderedDict(lr=0.1)
    vars(content)["itemz"] = 5
    save(content, path)
    with zipfile.ZipFile(path) as plain:
        members = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member.replace(b"itemz", b"items"))


WRONG: dict[str, tuple[Callable[[State, Path], object], str]] = {
    "empty": (lambda s, p: write(p, b""), "is empty. Get the file again"),
    "web page": (lambda s, p: write(p, b"\n<!DOCTYPE html><html>"), "is a web page, not a check"),
    "text": (lambda s, p: write(p, b"not found"), "is not a PyTorch checkpoint"),
    "zip cut": (lambda s, p: cut(s, p, True, 0.9), "is damaged or cut short"),
    "zip head": (lambda s, p: cut(s, p, True, 0.01), "is damaged or cut short"),
    "legacy cut": (lambda s, p: cut(s, p, False, 0.9), "is damaged or cut short"),
    "legacy head": (lambda s, p: cut(s, p, False, 0.001), "damaged"),
    "compressed": (compressed, "is a compressed archive"),
    "other zip": (
        lambda s, p: zipfile.ZipFile(p, "w").writestr("a", "b"),
        "is a zip archive that PyTorch did not write; it holds a. Unpack it",
    ),
    "whole model": (lambda s, p: save(pyconvresnet_tiny(), p), "more than tensors"),
    "no tensors": (lambda s, p: save({"lr": 0.1}, p), "the entry 'lr' is a float, not a tensor"),
    "a tensor": (lambda s, p: save(torch.zeros(3), p), "holds no state dict. Save model.state_d"),
    "nothing": (lambda s, p: save({}, p), "holds no state dict"),
    "other model": (
        lambda s, p: save(resnet18().state_dict(), p),
        r"is of another model: of \d+ entries \d+ missing \(.*, \.\.\.\); \d+ unexpected .* wrong",
    ),
    "missing": (
        lambda s, p: save({k: t for k, t in s.items() if k != "bn1.bias"}, p),
        r"a part of the model only: of 109 entries 1 missing \(bn1.bias\)\. Save the whole",
    ),
    "unexpected": (
        lambda s, p: save(s | {"head.weight": torch.zeros(2)}, p),
        r"1 unexpected \(head.weight\)",
    ),
    "misshapen": (
        lambda s, p: save(s | {"bn1.bias": torch.zeros(3)}, p),
        r"1 wrong \(bn1.bias \[3\] instead of \[32\]\)",
    ),
    "integers": (
        lambda s, p: save(s | {"bn1.bias": torch.zeros(32).int()}, p),
        r"is not what a model saves: .* 1 wrong \(bn1.bias int32 instead of float32\)",
    ),
    "bomb": (lambda s, p: save(s | {"conv1.weight": overlong()}, p), "conv1.weight is not stored"),
    "bomb of channels": (
        lambda s, p: save(s | {"conv1.weight": torch.zeros(1).expand(32, 10**9, 5, 5)}, p),
        r"conv1.weight \[32, 1000000000, 5, 5\] instead",
    ),
    "meta": (
        lambda s, p: save(s | {"conv1.weight": s["conv1.weight"].to("meta")}, p),
        "not stored",
    ),
    "later zip": (later, "is damaged or cut short"),
    "hidden method": (hidden, "the entry 'lr' is a float, not a tensor"),
    "NaN": (
        lambda s, p: save(s | {"bn1.bias": torch.full((32,), torch.nan)}, p),
        "values that are not finite, first in bn1.bias",
    ),
    "infinite": (
        lambda s, p: save(s | {"bn1.weight": torch.tensor([torch.inf, -torch.inf] * 16)}, p),
        "not finite, first in bn1.weight",
    ),
    "negative variance": (
        lambda s, p: save(s | {"bn1.running_var": -torch.ones(32)}, p),
        "a negative variance in bn1.running_var",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_no_checkpoint_says_so_in_a_sentence(
    fault: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, words = WRONG[fault]
    path = tmp_path / "c.pth"
    make(state, path)
    with pytest.raises(CheckpointError, match=words) as caught:
        pyconvresnet_tiny(weights=path)
    assert caplog.records == []
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert "weights_only" not in message  # never advise what is dangerous


@pytest.mark.parametrize("format", ["zip", "legacy", "bare pickle"])
def test_a_malicious_pickle_is_not_executed(format: str, state: State, tmp_path: Path) -> None:
    trace, path = tmp_path / "was-executed", tmp_path / "c.pth"
    content = {"state_dict": state, "extra": Touch(trace)}
    if format == "bare pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        save(content, path, _use_new_zipfile_serialization=format == "zip")
    with pytest.raises(CheckpointError, match=r"nothing in it was executed|is not a PyTorch check"):
        pyconvresnet_tiny(weights=path)
    assert not trace.exists()
    if format == "bare pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert trace.exists()  # the file does what it is said to, where it is trusted


def test_large_finite_values_are_finite(state: State, tmp_path: Path) -> None:
    huge = torch.full((32,), 3e38)  # their sum is not finite
    path = save(state | {"bn1.weight": huge}, tmp_path / "c.pth")
    assert torch.equal(pyconvresnet_tiny(weights=path).bn1.weight, huge)


def test_a_refused_state_leaves_the_model_as_it_was(state: State) -> None:
    model = pyconvresnet_tiny()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        load(model, state | {"layer4.0.bn1.bias": torch.full((128,), torch.nan)})
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_a_module_that_is_no_network_of_ours_loads_too(tmp_path: Path) -> None:
    linear = nn.Linear(3, 2)
    path = save(linear.state_dict(), tmp_path / "c.pth")
    other = nn.Linear(3, 2)
    load(other, read(path), "mine")
    assert torch.equal(other.weight, linear.weight)
