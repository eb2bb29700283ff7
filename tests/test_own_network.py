"""A network of the user's own, from a file outside the package: everything takes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_fixtures import make_tree, start

SETUP = "import own_networks, torch, pyconv; torch.manual_seed(0); x = torch.randn(2, 1, 32, 32)\n"


def run(code: str) -> str:
    """Run code in a process of its own, so that what it registers stays there."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fails(code: str) -> str:
    """The ValueError that ends the code."""
    return run(f"try:\n    {code}\nexcept ValueError as error:\n    print(error)")


def test_it_is_listed_and_built_by_its_name() -> None:
    assert run("print({'plain', 'short'} <= {*pyconv.list_models()})") == "True"
    assert run("print(pyconv.get_model('plain', num_classes=3)(x).shape)") == "torch.Size([2, 3])"
    assert run("print(pyconv.get_model('short')(x).shape)") == "torch.Size([2, 10])"
    assert run("print(type(pyconv.get_model('own_networks:plain', num_classes=3)).__name__)") == (
        "Plain"
    )


def test_a_name_of_the_zoo_before_which_a_module_stands_is_the_modules() -> None:
    code = "print(type(pyconv.get_model({!r}, num_classes=3)).__name__)"
    assert run(code.format("own_networks:resnet50")) == "Sequential"
    assert run(code.format("pyconv:resnet50")) == run(code.format("resnet50")) == "ResNet"


def test_a_row_has_the_factory_of_the_zoo() -> None:
    code = "short = pyconv.register_model('again', pyconv.architectures.ARCHITECTURES['resnet18'])"
    assert run(f"import inspect\n{code}\nprint(short.__name__, inspect.signature(short))") == (
        "again " + run("import inspect\nprint(inspect.signature(pyconv.resnet18))")
    )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("pyconv.register_model('plain', own_networks.Plain)", "'plain' is registered already."),
        ("pyconv.register_model('resnet50')(own_networks.Plain)", "Choose another name"),
        ("pyconv.get_model('nowhere:plain')", "put the folder of the module on PYTHONPATH"),
        ("pyconv.get_model('own_networks:none')", "own_networks has no none"),
        ("pyconv.get_model('own_networks:not_callable')", "own_networks has no not_callable"),
        ("pyconv.get_model('own_networks:instance', num_classes=3)", "instance is a network. Name"),
        ("pyconv.get_model('own_networks:forgets', num_classes=3)", "forgets returns a NoneType"),
        (
            "pyconv.get_model('own_networks:numbered', weights=pyconv.PyConvResNetTiny_Weights"
            ".DEFAULT.path)",
            "is of another model",
        ),
        ("pyconv.get_model('plain')", "missing a required argument: 'num_classes'"),
        ("pyconv.get_model('plain', num_classes=3, dropout=0.1)", "keyword argument 'dropout'"),
        ("pyconv.get_model('plane')", "Did you mean 'plain'"),
        ("pyconv.get_model('plain', num_classes=3, pretrained=True)", "no published weights"),
        ("pyconv.Backbone(own_networks.Plain(3), (0, 1))", "must name stages of 1 to 2"),
        ("pyconv.Backbone(torch.nn.Linear(1, 1))", "lacks stem, stages, channels, strides"),
    ],
)
def test_what_is_not_possible_is_said_with_its_cure(code: str, words: str) -> None:
    assert words in fails(code)


def test_a_part_that_is_compiled_has_weights_with_and_without(tmp_path: Path) -> None:
    """Its own names, and those of the same network before it was compiled."""
    code = f"""
path = {str(tmp_path / "c.pth")!r}
for make in ("compiled", "numbered"):
    model = pyconv.get_model("own_networks:" + make, num_classes=3)
    torch.save(model.state_dict(), path)
    for other in ("compiled", "numbered"):
        twin = pyconv.get_model("own_networks:" + other, weights=path)
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(ours, theirs)
print("done")
"""
    assert run(code) == "done"


@pytest.mark.parametrize("name", ["plain", "short"])
def test_backbone_takes_it(name: str) -> None:
    code = f"""
model = pyconv.get_model({name!r}, num_classes=3).eval()
backbone = pyconv.Backbone(model, (1, 2)).eval()
maps = backbone(x)
assert [tuple(m.shape[1:]) for m in maps.values()] == [
    (c, 32 // s, 32 // s) for c, s in zip(backbone.channels, backbone.strides)
]
own = model.state_dict()
assert {{*backbone.state_dict()}} == {{k for k in own if not k.startswith(("head", "fc"))}}
assert all(v.data_ptr() == own[k].data_ptr() for k, v in backbone.state_dict().items())
print("done")
"""
    assert run(code) == "done"


def test_weights_of_other_classes_and_channels_adapt_it(tmp_path: Path) -> None:
    code = f"""
trained = pyconv.get_model("plain", num_classes=3, in_channels=3)
torch.save(trained.state_dict(), {str(tmp_path / "own.pth")!r})
model = pyconv.get_model("plain", num_classes=5, weights={str(tmp_path / "own.pth")!r})
assert model.num_classes == model.head["linear"].out_features == 5
torch.testing.assert_close(
    model.entry["conv"].weight, trained.entry["conv"].weight.sum(1, keepdim=True)
)
assert torch.equal(model.body[1][1].weight, trained.body[1][1].weight)
print("done")
"""
    assert run(code) == "done"


@pytest.mark.parametrize("name", ["plain", "short"])
def test_the_commands_train_and_evaluate_it(name: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", classes=3, train=8, val=4)
    model = ["--model", f"own_networks:{name}", "--device", "cpu", "--workers", 0]
    output = tmp_path / "run"
    train = start(
        "pyconv.train", tree, *model, "--output", output, "--epochs", 1, "--batch-size", 8,
        "--lr", 0.05, "--crop", 28, "--freeze", 1,
    )  # fmt: skip
    _, error = train.communicate(timeout=300)
    assert train.returncode == 0, error
    best = torch.load(output / "best.pt", weights_only=True)
    summary = json.loads((output / "summary.json").read_text("utf-8"))

    result = tmp_path / "result.json"
    files = ["--checkpoint", output / "best.pt", "--json", result]
    evaluation = start("pyconv.evaluate", tree / "val", *model, *files)
    _, error = evaluation.communicate(timeout=300)
    assert evaluation.returncode == 0, error
    found = json.loads(result.read_text("utf-8"))
    assert found["images"] == 12
    assert found["top1"] == pytest.approx(summary["best_top1"])
    assert list(found["per_class"]) == best["classes"]

    # The stem and the first stage kept their weights; the second stage did not.
    last = torch.load(output / "last.pt", weights_only=True)
    frozen = {"plain": ("entry.", "body.0."), "short": ("conv1.", "bn1.", "layer1.")}[name]
    learns = last["training"]["optimizer"]["param_groups"][0]["params"]
    tensors = [key for key in best["state_dict"] if not key.endswith(("mean", "var", "tracked"))]
    assert len(learns) == len([key for key in tensors if not key.startswith(frozen)])
    counts = [key for key in best["state_dict"] if key.endswith("num_batches_tracked")]
    for key in counts:
        assert int(best["state_dict"][key]) == (0 if key.startswith(frozen) else 3), key


def test_what_it_lacks_is_said(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", classes=2, train=4, val=1)
    train = start(
        "pyconv.train", tree, "--model", "own_networks:resnet50", "--output", tmp_path / "run",
        "--batch-size", 4, "--crop", 28, "--freeze", 1, "--device", "cpu",
    )  # fmt: skip
    _, error = train.communicate(timeout=300)
    assert train.returncode == 2
    assert "--freeze 1: the network lacks stem, stages" in error
