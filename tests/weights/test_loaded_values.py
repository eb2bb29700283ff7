"""A loaded model keeps its values, whatever happens to the file it came from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pyconv import get_model, pyconvresnet_tiny

# Files are rewritten in place, cut and removed under the model, which may end the process.
KEEPS = """
import os, sys
from pathlib import Path
import torch, pyconv
from torch import nn
from pyconv.weights import Published, WeightsEnum

class OwnWeights(WeightsEnum):
    DEFAULT = Published(
        "own", "128iMzBnHQSPNehgb8nUF5cJyKBIB7do5", 0, 9, 0.0, ((224, 1.0),), "none",
        network=lambda: nn.Linear(200, 300),
    )

zipped = sys.argv[1] == "zip"
pyconv.register_model("own", lambda num_classes=3: nn.Linear(200, 300), weights=OwnWeights)
cached = OwnWeights.DEFAULT.path
cached.parent.mkdir(parents=True)
torch.save(nn.Linear(200, 300).state_dict(), cached, _use_new_zipfile_serialization=zipped)
mine = Path("best.pth")
torch.save(pyconv.pyconvresnet_tiny().state_dict(), mine, _use_new_zipfile_serialization=zipped)

def rewrite(path):
    with path.open("r+b") as file:  # as cp does, and torch.save
        file.write(b"\\x01" * path.stat().st_size)

def cut(path):
    os.truncate(path, 100)

for path, build in (
    (mine, lambda: pyconv.pyconvresnet_tiny(weights=mine)),
    (cached, lambda: pyconv.get_model("own", pretrained=True)),
):
    content = path.read_bytes()
    for change in (rewrite, cut, Path.unlink):
        times = path.stat()
        model, twin = build(), build()
        before = {key: tensor.clone() for key, tensor in twin.state_dict().items()}
        change(path)
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

model = pyconv.pyconvresnet_tiny(weights="best.pth")
with torch.no_grad():
    model.fc.bias.fill_(3)
torch.save(model.state_dict(), "best.pth")  # the loop of every training script
again = pyconv.pyconvresnet_tiny(weights="best.pth")
for key, tensor in model.state_dict().items():
    assert torch.equal(tensor, again.state_dict()[key])
print("kept")
"""


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_loaded_model_keeps_its_values(form: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYCONV_HOME": str(tmp_path / "home"), "PYCONV_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KEEPS, form],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "kept\n"


def test_a_file_that_is_being_written_is_neither_mixed_nor_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process begins to save while this one reads."""
    path = tmp_path / "best.pth"
    torch.save(pyconvresnet_tiny().state_dict(), path)
    content, real = path.read_bytes(), torch.load

    def meanwhile(file: object, **options: object) -> object:
        path.write_bytes(content[: len(content) // 2])
        return real(file, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(OSError, match="was changed while it was"):
        patch.setattr(torch, "load", meanwhile)
        pyconvresnet_tiny(weights=path)


@pytest.mark.parametrize("name", ["pyconvresnet18", "pyconvresnet_tiny"])
def test_tensors_have_the_default_strides_whatever_the_file_has(name: str, tmp_path: Path) -> None:
    """Other strides would pass on to whatever is saved next, and safetensors refuses them."""
    trained = get_model(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert trained.layer1[0].conv2.weight.stride()[1] == 1  # a 1x1, which both orders fit
    torch.save(trained.state_dict(), tmp_path / "best.pt")
    model = get_model(name, weights=tmp_path / "best.pt")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[key])
        assert tensor.stride() == torch.empty(tensor.shape).stride(), key
    save_file(model.state_dict(), tmp_path / "best.safetensors")
    again = get_model(name, weights=tmp_path / "best.safetensors").state_dict()
    assert all(torch.equal(again[key], tensor) for key, tensor in model.state_dict().items())


def test_the_samples_own_weights_have_the_default_strides() -> None:
    for key, tensor in pyconvresnet_tiny(pretrained=True).state_dict().items():
        assert tensor.stride() == torch.empty(tensor.shape).stride(), key
