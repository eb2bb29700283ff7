"""The device that a process computes on, and what a result file says about the machine."""

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
    """The device of this process; where there are several GPUs, each process takes its own.

    Args:
        wanted: ``cpu``, ``cuda``, ``cuda:1``, ...; None for the accelerator of this machine,
            or the CPU if it has none.
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
        torch.empty(0, device=device).cpu()  # which meta, a device without values, refuses
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"There is no device {wanted!r} here. Leave --device out.") from error
    return device


def own_gpu(local_rank: int, gpus: int, shared: bool) -> int:
    """The number of the GPU that a process takes.

    Args:
        local_rank: The rank of the process on this machine.
        gpus: The number of GPUs.
        shared: Whether several processes may use one GPU.

    Raises:
        ValueError: if there are fewer GPUs than processes and none may be shared.
    """
    if local_rank >= gpus and not shared:
        raise ValueError(
            f"There are {gpus} GPUs for {local_processes()} processes. Start at most one process "
            "per GPU, or use --device cpu."
        )
    return local_rank % gpus


def local_processes() -> int:
    """The number of processes of this job on this machine, as torchrun and ``launch()`` set it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def describe(device: torch.device) -> str:
    """The name of a device, for a result file."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"cpu ({platform.machine()}, {processor()})"
    return str(device)


def versions() -> dict[str, str]:
    """The versions of Python and the libraries, for a result file."""
    import PIL
    import torchvision

    package = sys.modules[__name__.partition(".")[0]]  # looked up: nothing here imports it
    return {
        "pyconv": package.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,  # or Pillow-SIMD's
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
