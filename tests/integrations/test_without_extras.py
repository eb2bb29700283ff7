"""Without any extra pyconv works, and what needs one says which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXTRAS = ["timm", "huggingface_hub", "safetensors", "matplotlib", "onnx", "onnxruntime"]
USE = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))  # as if these were not installed
import importlib
import torch
import pyconv, pyconv.data, pyconv.evaluate, pyconv.integrations, pyconv.train

model = pyconv.pyconvresnet_tiny(pretrained=True).eval()
fast = pyconv.optimize(model) if hasattr(pyconv, "optimize") else model
print(fast(torch.ones(1, 1, 28, 28)).shape, pyconv.Backbone(model).channels)
for use in (
    lambda: importlib.import_module("pyconv.integrations.timm"),
    lambda: importlib.import_module("pyconv.integrations.hub"),
    lambda: pyconv.pyconvresnet_tiny(weights=sys.argv[1]),
):
    try:
        use()
    except (ImportError, ValueError) as error:
        print(error)
"""


def test_pyconv_works_and_what_needs_an_extra_names_it_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    done = subprocess.run(
        [sys.executable, "-c", USE, path], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    works, timm, hub, safetensors = done.stdout.splitlines()
    assert works == "torch.Size([1, 10]) (32, 64, 96, 128)"
    assert timm.startswith("pyconv.integrations.timm needs timm (")
    assert timm.endswith("): pip install 'torch-pyconv[timm]'.")
    assert hub.startswith("pyconv.integrations.hub needs huggingface_hub and safetensors (")
    assert hub.endswith("): pip install 'torch-pyconv[hub]'.")
    assert safetensors.startswith(f"{path} is a safetensors file, and the package that reads it")
    assert safetensors.endswith("pip install 'torch-pyconv[safetensors]'.")
