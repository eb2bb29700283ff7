"""torch.hub finds the networks in a checkout, without an installation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pyconv

ROOT = Path(__file__).parent.parent

USE = """
import sys
import torch

home = sys.argv[1]
local = torch.hub.load(home + "/me_pyconv_main", "pyconvresnet18", source="local", num_classes=3)
print(local(torch.randn(2, 3, 64, 64)).shape)
import pyconv
assert pyconv.__file__.startswith(home), pyconv.__file__

torch.hub.set_dir(home)  # where torch.hub keeps what it has from GitHub
at = {"trust_repo": True, "skip_validation": True}
assert torch.hub.list("me/pyconv:main", **at) == pyconv.list_models()
words = torch.hub.help("me/pyconv:main", "pyconvresnet50", **at)
assert words.startswith("PyConvResNet-50: ") and "num_classes: " in words
ours = pyconv.pyconvresnet_tiny(pretrained=True).state_dict()
tiny = torch.hub.load("me/pyconv:main", "pyconvresnet_tiny", pretrained=True, **at)
assert all(torch.equal(ours[key], tensor) for key, tensor in tiny.state_dict().items())
"""


def test_networks_come_from_a_checkout(tmp_path: Path) -> None:
    checkout = tmp_path / "me_pyconv_main"
    shutil.copytree(Path(pyconv.__file__).parent, checkout / "src/pyconv")
    shutil.copy(ROOT / "hubconf.py", checkout)
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", USE, tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.Size([2, 3])\n"


def test_it_names_the_packages_that_pyconv_needs() -> None:
    listed = re.search(r"^dependencies = \[(.*?)\]", (ROOT / "hubconf.py").read_text(), re.M | re.S)
    assert listed is not None
    names = re.findall(r'"(\w+)"', listed[1])
    needed = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2]
    wanted = re.findall(r'^    "([\w-]+)', needed.partition("\n]")[0], re.M)
    for name, distribution in zip(names, wanted, strict=True):
        installed = {Path(file).parts[0] for file in metadata.files(distribution) or ()}
        assert installed & {name, f"{name}.py"}
