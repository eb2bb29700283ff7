"""Checkpoints that people have: taken, with a line about what was changed, or named for what it is.

``test_checkpoint.py`` has the layouts that are taken in silence and the damage.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import io
import json
import logging
import os
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from pyconv import (
    Backbone,
    CheckpointError,
    get_model,
    pyconvhgresnet50,
    pyconvresnet50,
    pyconvresnet_tiny,
    register_model,
    resnet18,
    resnet34,
    resnet50,
)
from pyconv.models.registry import REGISTRY
from pyconv.weights.checkpoint import load, read

State = dict[str, Tensor]
Make = Callable[[nn.Module], object]


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    return pyconvresnet_tiny(pretrained=True).eval()


def save(content: object, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def to(dtype: torch.dtype, state: State, but: str = "nothing") -> State:
    return {
        k: t.to(dtype) if t.is_floating_point() and but not in k else t for k, t in state.items()
    }


def renamed(state: State, name: str) -> State:
    return {key.replace("fc.", f"{name}."): tensor for key, tensor in state.items()}


def counted(state: State) -> State:
    """As thop leaves a model."""
    number = torch.zeros(1, dtype=torch.float64)
    return {"total_ops": number, **state, "layer1.total_params": number, "fc.total_ops": number}


def averaged(model: nn.Module) -> State:
    return dict(torch.optim.swa_utils.AveragedModel(model).state_dict())


def normed(make: Callable[..., nn.Module]) -> Make:
    def act(model: nn.Module) -> object:
        own = pyconvresnet_tiny()
        own.load_state_dict(model.state_dict())
        for module in own.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                make(module)
        return own.state_dict()

    return act


# What is made of a trained model, and the lines about it.
TAKEN: dict[str, tuple[Make, list[str]]] = {
    "counters of thop": (
        lambda m: counted(m.state_dict()),
        ["holds counters (total_ops, layer1.total_params, fc.total_ops): they were left out."],
    ),
    "Lightning": (
        lambda m: {"state_dict": under("model.", m.state_dict()), "hyper_parameters": {"lr": 0.1}},
        ["has 'model.' before its names: that was taken off."],
    ),
    "Lightning, compiled": (
        lambda m: {"state_dict": under("net._orig_mod.module.", m.state_dict())},
        ["has 'net._orig_mod.module.' before its names: that was taken off."],
    ),
    "a stage compiled": (
        lambda m: {k.replace("layer1.", "layer1._orig_mod."): v for k, v in m.state_dict().items()},
        [],
    ),
    "shards of FSDP, checkpointed": (
        lambda m: {
            f"_fsdp_wrapped_module.{k.replace('layer2.', 'layer2._checkpoint_wrapped_module.')}": v
            for k, v in m.state_dict().items()
        },
        ["has '_fsdp_wrapped_module.' before its names: that was taken off."],
    ),
    "Lightning with a loss that has weights": (
        lambda m: under("model.", m.state_dict()) | {"criterion.weight": torch.ones(10)},
        [
            "has 'model.' before its names: that was taken off.",
            "holds more than the model (criterion.weight): that was left out.",
        ],
    ),
    "part of a detector": (
        lambda m: under("backbone.body.", m.state_dict()) | {"fc.bias": torch.ones(10)},
        [
            "has 'backbone.body.' before its names: that was taken off.",
            "holds more than the model (fc.bias): that was left out.",
        ],
    ),
    "encoder beside its classifier": (
        lambda m: {f"encoder.{k}" if "fc." not in k else k: t for k, t in m.state_dict().items()},
        ["has 'encoder.' before its names: that was taken off."],
    ),
    "averaged": (averaged, ["holds counters (n_averaged): they were left out."]),
    "averaged, in parallel": (
        lambda m: averaged(nn.DataParallel(m)),
        ["holds counters (n_averaged): they were left out."],
    ),
    "averaged, of Lightning": (
        lambda m: under("ema.", averaged(m)),
        [
            "has 'ema.module.' before its names: that was taken off.",
            "holds more than the model (ema.n_averaged): that was left out.",
        ],
    ),
    "float16": (
        lambda m: to(torch.float16, m.state_dict()),
        ["is in float16 and the model in float32: it was converted."],
    ),
    "float16, counted batches too": (
        lambda m: {key: tensor.half() for key, tensor in m.state_dict().items()},
        ["is in float16 and the model in float32: it was converted."],
    ),
    "bfloat16 with norms in float32": (
        lambda m: to(torch.bfloat16, m.state_dict(), but="bn"),
        ["is in bfloat16 and the model in float32: it was converted."],
    ),
    "float64": (
        lambda m: to(torch.float64, m.state_dict()),
        ["is in float64 and the model in float32: it was converted."],
    ),
    "classifier called head": (
        lambda m: renamed(m.state_dict(), "head"),
        ["calls its classifier head and the model fc: it was taken as that."],
    ),
    "classifier in a sequence": (
        lambda m: {"model": under("module.", renamed(m.state_dict(), "classifier.1"))},
        ["calls its classifier classifier.1 and the model fc: it was taken as that."],
    ),
    "model_state_dict": (lambda m: {"epoch": 1, "model_state_dict": m.state_dict()}, []),
    "ema alone": (lambda m: {"ema": m.state_dict(), "epoch": 3}, []),
    "ema with a module": (lambda m: {"ema": {"module": m.state_dict(), "decay": 0.9}}, []),
    "a name of one's own": (lambda m: {"generator": m.state_dict(), "optimizer": {}}, []),
    "averaged beside": (
        lambda m: {"model_ema": to(torch.float16, m.state_dict()), "model": m.state_dict()},
        ["holds weights under model and model_ema: model was taken."],
    ),
    "state_dict_ema beside": (
        lambda m: {"state_dict": m.state_dict(), "state_dict_ema": {"x": torch.zeros(1)}},
        ["holds weights under state_dict and state_dict_ema: state_dict was taken."],
    ),
    "timm": (
        lambda m: {
            "arch": "x",
            "state_dict": m.state_dict(),
            "args": argparse.Namespace(lr=0.1, output=Path("/x")),
        },
        [],
    ),
    "values of numpy": (
        lambda m: {
            "state_dict": m.state_dict(),
            "best_acc1": np.float64(71.2),
            "history": np.arange(6.0).reshape(2, 3),
            "epoch": np.int64(3),
        },
        [],
    ),
    "a date and more": (
        lambda m: {
            "model": m.state_dict(),
            "date": datetime.datetime(2020, 1, 1),
            "config": types.SimpleNamespace(a=1),
        },
        [],
    ),
    "weight_norm": (
        normed(lambda module: parametrizations.weight_norm(module)),
        ["keeps weights in two, as weight_norm does: they were made one."],
    ),
    "weight_norm of old": (
        normed(lambda module: nn.utils.weight_norm(module)),
        ["keeps weights in two, as weight_norm does: they were made one."],
    ),
    "weight_norm by one length": (
        normed(lambda module: parametrizations.weight_norm(module, dim=None)),
        ["keeps weights in two, as weight_norm does: they were made one."],
    ),
    "weight_norm by inputs, compiled": (
        lambda m: under("_orig_mod.", normed(lambda n: parametrizations.weight_norm(n, dim=1))(m)),
        ["keeps weights in two, as weight_norm does: they were made one."],
    ),
    "pruned": (
        normed(lambda module: prune.identity(module, "weight")),
        ["keeps weights in two, as pruning does: they were made one."],
    ),
}
ROUNDED = ("float16", "bfloat16", "weight_norm")


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", TAKEN)
def test_what_people_have_is_taken(
    case: str,
    zipped: bool,
    trained: nn.Module,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make, lines = TAKEN[case]
    path = save(make(trained), tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    caplog.clear()
    model = pyconvresnet_tiny(weights=path).eval()
    assert (model.num_classes, model.conv1.in_channels) == (10, 1)
    assert [record.getMessage() for record in caplog.records] == [f"{path} {x}" for x in lines]
    exact = not any(word in case for word in ROUNDED)
    for key, tensor in model.state_dict().items():
        want = trained.state_dict()[key]
        assert tensor.dtype == want.dtype
        if exact and "num_batches" not in key:
            assert torch.equal(tensor, want), key
        elif "num_batches" not in key:
            torch.testing.assert_close(tensor, want, rtol=1e-2, atol=1e-3)
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())


def test_pruned_weights_are_pruned(trained: nn.Module, tmp_path: Path) -> None:
    own = pyconvresnet_tiny()
    prune.l1_unstructured(own.fc, "weight", amount=0.5)
    loaded = pyconvresnet_tiny(weights=save(own.state_dict(), tmp_path / "c.pth"))
    assert torch.equal(loaded.fc.weight, own.fc.weight)
    assert (loaded.fc.weight == 0).float().mean() == 0.5


HEADLESS: dict[str, Make] = {
    "backbone": lambda m: Backbone(m).state_dict(),  # type: ignore[arg-type]
    "no classes": lambda m: {k: t for k, t in m.state_dict().items() if not k.startswith("fc.")},
    "of Lightning": lambda m: {"state_dict": under("backbone.", HEADLESS["no classes"](m))},  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", HEADLESS)
def test_weights_without_a_classifier(
    case: str, trained: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(HEADLESS[case](trained), tmp_path / "c.pth")
    model = pyconvresnet_tiny(weights=path, num_classes=4)
    assert caplog.records[-1].getMessage() == (
        f"{path} has no classifier: the model's own starts untrained."
    )
    assert model.fc.weight.shape == (4, 128) and model.fc.weight.abs().sum() > 0
    assert torch.equal(model.conv1.weight, trained.conv1.weight)
    caplog.clear()
    pyconvresnet_tiny(weights=path, num_classes=0)
    assert not any("classifier" in record.getMessage() for record in caplog.records)
    assert pyconvresnet_tiny(weights=path).num_classes == 0
    told = (
        "has no classifier, so the model gives features. For a new, untrained one give num_classes."
    )
    assert f"{path} {told}" in [record.getMessage() for record in caplog.records]


def test_a_classifier_of_another_name_and_other_classes(
    trained: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(renamed(dict(trained.state_dict()), "head"), tmp_path / "c.pth")
    assert pyconvresnet_tiny(weights=path, num_classes=3).fc.weight.shape == (3, 128)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} calls its classifier head and the model fc: it was taken as that.",
        f"{path} has a classifier of 10 classes and the model one of 3: it was left out, and the "
        "model's own starts untrained.",
    ]
    caplog.clear()
    pyconvresnet_tiny(weights=path, num_classes=0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} has a classifier (head) and the model none: it was left out."
    ]


def test_half_a_network_is_never_a_whole_one(trained: nn.Module, tmp_path: Path) -> None:
    part = Backbone(trained, (1, 2)).state_dict()  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="holds a part of the model only") as caught:
        pyconvresnet_tiny(weights=save(part, tmp_path / "c.pth"))
    assert "Choose the model" not in str(caught.value)


def test_a_network_that_is_a_part_of_the_model_is_named(tmp_path: Path) -> None:
    """Each block of a ResNet-18 is also one of a ResNet-34."""
    path = save(resnet18(num_classes=3).state_dict(), tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"is of another model: .* It fits resnet18\."):
        resnet34(weights=path)


def test_a_network_of_ones_own_whose_names_share_a_beginning(tmp_path: Path) -> None:
    """What looks like a prefix, a counter or a part is the model's own where the model has it."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Sequential(
                nn.Linear(2, 3), parametrizations.weight_norm(nn.Linear(3, 3))
            )
            self.module.register_buffer("total_ops", torch.zeros(1))

    own, other = Own(), Own()
    load(other, own.state_dict())
    for key, tensor in other.state_dict().items():
        assert torch.equal(tensor, own.state_dict()[key])
    inner = nn.Sequential(nn.Linear(2, 3))
    load(inner, under("body.0.", inner.state_dict()))


def test_weights_that_share_memory_do_not_share_it_in_the_model(tmp_path: Path) -> None:
    """As tied weights are saved, or slices of something larger."""
    shared = torch.zeros(64)
    state = {"weight": shared[:4].view(2, 2), "bias": shared[:2]}
    model = nn.Linear(2, 2)
    load(model, read(save(state, tmp_path / "c.pth")))
    with torch.no_grad():
        model.weight.fill_(1)
    assert model.bias.abs().sum() == 0
    assert model.weight.untyped_storage().nbytes() == 16
    one = torch.zeros(3)
    model = nn.BatchNorm2d(3)
    state = dict(model.state_dict()) | {"running_mean": one, "bias": one}
    load(model, read(save(state, tmp_path / "c.pth")))
    assert model.running_mean is not None
    assert model.running_mean.data_ptr() != model.bias.data_ptr()


# What is none says what it is.


def traced(model: nn.Module, path: Path) -> None:
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 1, 28, 28)), path)  # type: ignore[no-untyped-call]


def exported(model: nn.Module, path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.zeros(1, 2),)), path)


def optimizer(model: nn.Module, path: Path) -> None:
    chosen = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    save(chosen.state_dict(), path)


class Extra:
    """A class of somebody's own."""


def zipped(name: str) -> Callable[[nn.Module, Path], object]:
    def act(_: nn.Module, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")

    return act


def begins(start: bytes) -> Callable[[nn.Module, Path], object]:
    return lambda _, path: path.write_bytes(start + bytes(600))


WHAT: dict[str, tuple[Callable[[nn.Module, Path], object], str]] = {
    "TorchScript": (traced, "is a TorchScript archive: a program with its weights. Save model.st"),
    "torch.export": (exported, "is a program of torch.export. Save model.state_dict() of the mod"),
    "whole model": (
        lambda m, p: save(m, p),
        "holds a pickled module (pyconv.resnet.ResNet), which is more than tensors and plain "
        "values; nothing in it was executed. Where it was made, save the weights of the model "
        "alone: torch.save(model.state_dict(), FILE).",
    ),
    "whole model within": (
        lambda m, p: save({"model": m, "epoch": 3}, p),
        "holds a pickled module (pyconv.resnet.ResNet)",
    ),
    "whole model, legacy": (
        lambda m, p: save(m, p, _use_new_zipfile_serialization=False),
        "holds a pickled module (pyconv.resnet.ResNet)",
    ),
    "own class beside": (
        lambda m, p: save({"state_dict": m.state_dict(), "x": Extra()}, p),
        f"holds more than tensors and plain values: {__name__}.Extra; nothing in it was executed. "
        "Where it was made, save the weights alone: torch.save(model.state_dict(), FILE).",
    ),
    "a loss beside": (
        lambda m, p: save({"state_dict": m.state_dict(), "loss": nn.CrossEntropyLoss()}, p),
        "holds a pickled module (torch.nn.modules.loss.CrossEntropyLoss), which is more than",
    ),
    "parameters alone": (
        lambda m, p: save(dict(m.named_parameters()), p),
        "has norms of another kind than the model, or only parameters: of 109 entries 32 missing",
    ),
    "spectral_norm": (
        lambda m, p: save(normed(parametrizations.spectral_norm)(m), p),
        "keeps weights in parts, as spectral_norm does: conv1.parametrizations.weight.original",
    ),
    "spectral_norm of old": (
        lambda m, p: save(normed(nn.utils.spectral_norm)(m), p),
        "keeps weights in parts, as spectral_norm does: conv1.weight_orig, layer1.0.conv1",
    ),
    "nothing within": (
        lambda m, p: save({"state_dict": {}, "epoch": 3}, p),
        "the entry 'state_dict' is empty. Save model.state_dict() there.",
    ),
    "names in bytes": (
        lambda m, p: save({k.encode(): t for k, t in m.state_dict().items()}, p),
        "the name b'conv1.weight' is no text. Save model.state_dict() and load that.",
    ),
    "optimizer": (optimizer, "holds no state dict: it is the state of an optimizer."),
    "weights of numpy": (
        lambda m, p: save({k: t.numpy() for k, t in m.state_dict().items()}, p),
        "the entry 'conv1.weight' is a ndarray, not a tensor",
    ),
    "two networks": (
        lambda m, p: save({"generator": m.state_dict(), "critic": m.state_dict()}, p),
        "holds several state dicts: generator, critic. Save that of the model alone.",
    ),
    "twice": (
        lambda m, p: save(under("q.", m.state_dict()) | under("k.", m.state_dict()), p),
        "the network more than once: under 'k.', 'q.'. Save one of them alone.",
    ),
    "git-lfs": (
        begins(b"version https://git-lfs.github.com/spec/v1\noid sha256:"),
        "is a pointer of git-lfs, not the file itself. Run 'git lfs pull'",
    ),
    "Keras, HDF5": (begins(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file, as Keras writes them."),
    "Keras": (zipped("model.weights.h5"), "is a model of Keras."),
    "npz": (zipped("weight.npy"), "holds arrays of NumPy."),
    "npy": (begins(b"\x93NUMPY\x01"), "is an array of NumPy."),
    "ONNX": (begins(b"\x08\x08\x12\x07pytorch"), "is a model in ONNX's or TensorFlow's form."),
    "gzip": (begins(b"\x1f\x8b\x08"), "is packed with gzip. Unpack it first."),
    "tar": (begins(bytes(257) + b"ustar"), "is a tar archive. Unpack it first."),
    "zip around it": (zipped("best.pth"), "that PyTorch did not write; it holds best.pth. Unpack"),
    "pickle": (begins(b"\x80\x04\x95"), "is a plain pickle, and nothing in it was executed."),
    "JSON": (begins(b'{"weight_map": {'), "is JSON, and is not a PyTorch checkpoint."),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", WHAT)
def test_what_is_no_checkpoint_says_what_it_is(
    case: str, trained: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, words = WHAT[case]
    path = tmp_path / "c.pt"
    make(trained, path)
    caplog.clear()
    with pytest.raises(CheckpointError) as caught:
        pyconvresnet_tiny(weights=path)
    message = str(caught.value)
    assert words in message, message
    assert "\n" not in message and "weights_only" not in message and "damaged" not in message
    assert "Choose the model" not in message
    assert caplog.records == []


class Malicious:
    """Makes a file when it is unpickled by what runs what it reads."""

    def __init__(self, path: Path, how: str) -> None:
        self.path, self.how = path, how

    def __reduce__(self) -> tuple[Any, ...]:
        if self.how == "os.mkdir":
            return os.mkdir, (str(self.path),)
        if self.how == "by a method":
            return Path.touch, (self.path,)
        return eval, (f"__import__('os').mkdir({str(self.path)!r})",)


@pytest.mark.parametrize("how", ["os.mkdir", "by a method", "eval"])
@pytest.mark.parametrize("zipped", [True, False])
def test_beside_what_is_left_out_nothing_is_executed(
    how: str, zipped: bool, trained: nn.Module, tmp_path: Path
) -> None:
    """A Namespace opens no door to what comes with it, in it or as its state."""
    trace = tmp_path / "trace"
    inner = argparse.Namespace(x=Malicious(trace, how), y=np.float64(1))
    path = save({"state_dict": trained.state_dict(), "args": inner}, tmp_path / "c.pth",
                _use_new_zipfile_serialization=zipped)  # fmt: skip
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        pyconvresnet_tiny(weights=path)
    assert not trace.exists()


def test_what_stands_for_a_class_is_known_only_while_a_file_is_read(
    trained: nn.Module, tmp_path: Path
) -> None:
    content = {"state_dict": trained.state_dict(), "args": argparse.Namespace(lr=0.1)}
    path = save(content, tmp_path / "c.pth")
    before = set(torch.serialization.get_safe_globals())
    pyconvresnet_tiny(weights=path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(Exception, match="Namespace"):
        torch.load(path, weights_only=True)


# Two networks are never confused.


def test_weights_of_another_network_say_whose_they_are(tmp_path: Path) -> None:
    path = save(pyconvresnet50(num_classes=7, in_channels=1).state_dict(), tmp_path / "c.pth")
    for build in (pyconvhgresnet50, resnet50):
        with pytest.raises(CheckpointError, match=r"of another model: .* It fits pyconvresnet50\."):
            build(weights=path)
    save(to(torch.float16, pyconvresnet_tiny().state_dict()), path)
    with pytest.raises(CheckpointError, match=r"of another model: .* It fits pyconvresnet_tiny"):
        resnet18(weights=path)
    save(under("net.", resnet34().state_dict()), path)
    with pytest.raises(CheckpointError, match=r"of another model: .* It fits resnet34\."):
        resnet18(weights=path)
    save(resnet18().state_dict() | {"layer1.0.conv1.weight": torch.zeros(9, 9)}, path)
    with pytest.raises(CheckpointError, match=r"another model: .*Choose the model that it was"):
        resnet18(weights=path)


def test_a_norm_of_another_kind_is_named() -> None:
    def groups(channels: int) -> nn.Module:
        return nn.GroupNorm(4, channels)

    def no_statistics(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, track_running_stats=False)

    def in_a_sequence(channels: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(0.1))

    def no_weight(channels: int) -> nn.Module:
        return nn.InstanceNorm2d(channels)

    for norm in (groups, no_statistics, in_a_sequence, no_weight):
        with pytest.raises(CheckpointError, match="has norms of another kind") as caught:
            pyconvresnet_tiny(pretrained=True, norm_layer=norm)
        assert "norm_layer" in str(caught.value) and "Choose the model" not in str(caught.value)


def test_and_the_other_way_round(tmp_path: Path) -> None:
    own = pyconvresnet_tiny(norm_layer=lambda channels: nn.GroupNorm(4, channels))
    path = save(own.state_dict(), tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="norms of another kind than the model"):
        pyconvresnet_tiny(weights=path)
    back = pyconvresnet_tiny(weights=path, norm_layer=lambda channels: nn.GroupNorm(4, channels))
    assert torch.equal(back.bn1.weight, own.bn1.weight)


@mock.patch.dict(REGISTRY)
def test_a_network_of_the_users_own_is_met_by_the_same_rules(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(nn.Sequential):
        first_conv, classifier = "0", "3"

        def __init__(self, num_classes: int = 10) -> None:
            super().__init__(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, num_classes)
            )

    register_model("own", Own)
    own = Own(7).half()
    path = save({"net": under("net.", own.state_dict())}, tmp_path / "c.pth")
    model = get_model("own", weights=path)
    assert torch.equal(model[3].weight, own[3].weight.float())  # type: ignore[index,union-attr]
    assert len(caplog.records) == 2


# safetensors.


def safetensors_bytes(state: State) -> bytes:
    """The format as its authors describe it: a length, a table, the bytes."""
    table, data = {}, b""
    for key, tensor in state.items():
        content = tensor.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        ends = [len(data), len(data) + len(content)]
        table[key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": ends}
        data += content
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + data


def test_safetensors(trained: nn.Module, tmp_path: Path) -> None:
    if importlib.util.find_spec("safetensors") is None:
        pytest.skip("safetensors is not installed")
    path = tmp_path / "c.safetensors"
    path.write_bytes(safetensors_bytes(dict(trained.state_dict())))
    model = pyconvresnet_tiny(weights=path)
    path.write_bytes(bytes(path.stat().st_size))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[key])
    path.write_bytes(safetensors_bytes(dict(trained.state_dict()))[:-1000])
    with pytest.raises(CheckpointError, match="is damaged or cut short"):
        pyconvresnet_tiny(weights=path)


def test_without_the_package_safetensors_has_its_cure(
    trained: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    path = tmp_path / "c.safetensors"
    path.write_bytes(safetensors_bytes(dict(trained.state_dict())))
    with pytest.raises(CheckpointError, match=r"pip install 'torch-pyconv\[safetensors\]'"):
        pyconvresnet_tiny(weights=path)


def test_a_line_is_logged_by_the_library_alone(
    trained: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    buffer = io.BytesIO()
    torch.save(to(torch.float16, dict(trained.state_dict())), buffer)
    path = tmp_path / "c.pth"
    path.write_bytes(buffer.getvalue())
    with caplog.at_level(logging.DEBUG):
        pyconvresnet_tiny(weights=path)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"pyconv"}
