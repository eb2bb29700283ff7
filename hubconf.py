"""For torch.hub: each network of the zoo by its name.

torch.hub.load("FOLDER OF THIS FILE", "pyconvresnet50", source="local", pretrained=True)
"""

import sys as _sys
from pathlib import Path as _Path

# The library of this checkout, whether another one is installed or none. The path stays: other
# processes, such as those of a DataLoader, look for it as well.
_sys.path.insert(0, str(_Path(__file__).resolve().parent / "src"))

import pyconv as _pyconv
from pyconv.architectures import ARCHITECTURES as _ARCHITECTURES

# What torch.hub asks for before it imports anything: the packages that pyconv needs.
dependencies = [
    "torch",
    "torchvision",
    "requests",
    "urllib3",
    "tqdm",
    "PIL",
    "filelock",
    "google_crc32c",
]

globals().update({name: getattr(_pyconv, name) for name in _ARCHITECTURES})
