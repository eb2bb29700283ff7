"""Devices: the one that a process takes, and what a result file says of it."""

from __future__ import annotations

import os
import platform
import sys

import torch
from torch.distributed import get_node_local_rank

from .processor import processor

__all__ = ["DTYPES", "choose_device", "describe", "local_processes", "own_gpu", "versions"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(wanted: str | None, *, shared: bool = False) -> torch.device:
    """The device of this process; of several GPUs each process takes its own.

    Args:
        wanted: ``cpu``, ``cuda``, ``cuda:1``, ...; None takes the accelerator there is, else the
            CPU.
        shared: Whether several processes may use one GPU.

    Raises:
        ValueError: if there is no such device here, or there are fewer GPUs than processes.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    try:
        device = torch.device(wanted or found or "cpu")
        if device.type == "cuda" and device.index is None and torch.cuda.device_count():
            rank = get_node_local_rank(fallback_rank=0)
            device = torch.device("cuda", own_gpu(rank, torch.cuda.device_count(), shared))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"There is no device {wanted!r} here. Leave --device out.") from error
    return device


def own_gpu(local_rank: int, gpus: int, shared: bool) -> int:
    """Which of several GPUs is that of a process, counted on this machine.

    Raises:
        ValueError: if there is none left for it and none may be shared.
    """
    if local_rank >= gpus and not shared:
        raise ValueError(
            f"There are {gpus} GPUs for {local_processes()} processes. Start at most one process "
            "per GPU, or use --device cpu."
        )
    return local_rank % gpus


def local_processes() -> int:
    """How many processes of this job share the machine, as torchrun and ``launch()`` tell them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def describe(device: torch.device) -> str:
    """The device in words, for a result file."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu ({platform.machine()}, {processor()})"
    return str(device)


def versions() -> dict[str, str]:
    """What a result was computed with, for its file."""
    import PIL
    import torchvision

    house = sys.modules[__name__.partition(".")[0]]  # imported long ago
    return {
        "pyconv": house.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,  # of Pillow-SIMD as well
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
