"""Golden data of the original networks (tests/goldens/README.md) and the rule that refills them."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).with_name("goldens")


@cache
def load(name: str) -> Any:
    """A golden file, such as ``"forward_goldens"``."""
    return json.loads((DATA / f"{name}.json").read_text("utf-8"))


def values(key: str, shape: Iterable[int]) -> np.ndarray[Any, Any]:
    """What the tensor of a state dict was filled with."""
    shape = tuple(shape)
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_mean"):
        return 0.1 * random.standard_normal(shape)
    if key.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape)
    if len(shape) == 1:
        bias = not key.endswith("weight")
        return 0.1 * random.standard_normal(shape) if bias else random.uniform(0.5, 1.0, shape)
    return random.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))


def fill(model: nn.Module) -> nn.Module:
    """The model in float64, with every tensor filled by the rule."""
    state = {key: torch.as_tensor(values(key, t.shape)) for key, t in model.state_dict().items()}
    model.double().load_state_dict(state)
    return model


def images(shape: Iterable[int]) -> Tensor:
    """The input of the networks, float64."""
    return torch.as_tensor(np.random.RandomState(2020).standard_normal(tuple(shape)))


def normal(name: str, shape: Iterable[int]) -> Tensor:
    """Normal numbers, seeded by a name: the input of a layer, and ten times its weights."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.as_tensor(random.standard_normal(tuple(shape)))
