"""What computes: devices, cores, number formats, and the versions that a result is written with."""

from __future__ import annotations

import os
import platform

import torch
from torch.distributed import get_node_local_rank

__all__ = [
    "DTYPES",
    "advice",
    "choose_device",
    "computes_in",
    "describe",
    "has_amx",
    "is_exporting",
    "local_processes",
    "own_gpu",
    "processor",
    "usable_cores",
    "versions",
]

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


def computes_in(device: str, dtype: torch.dtype) -> bool:
    """Whether a type of device has arithmetic for a dtype, or makes do without, far slower.

    A CPU with AVX2 alone multiplies matrices of bfloat16 at a hundredth of the speed of float32.
    """
    if device != "cpu" or dtype.itemsize != 2 or not torch.backends.mkldnn.is_available():
        return True
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def processor(device: str = "cpu") -> str:
    """The kind of processor: ``AVX2``, ``AVX512``, ``AVX512_AMX``, ..., of a GPU ``CUDA_9.0``, ...

    A CPU's is PyTorch's name for its vector units, and whether there is AMX besides; a GPU's is its
    compute capability, of several GPUs that of the current one.
    """
    if device != "cpu":
        asks = device == "cuda" and torch.version.hip is None and torch.cuda.is_available()
        return "CUDA_{}.{}".format(*torch.cuda.get_device_capability()) if asks else device
    name = torch.backends.cpu.get_cpu_capability()
    return f"{name}_AMX" if has_amx() else name


def has_amx() -> bool:
    """Whether the processor multiplies matrices (Intel AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def is_exporting() -> bool:
    """Whether what is computed is only recorded, for another machine.

    ``torch.compiler.is_exporting()`` says so of all that PyTorch 2.11 compiles as well.
    """
    return bool(torch.compiler._is_exporting_flag)


def advice(device: str, dtype: torch.dtype) -> str | None:
    """What to tell whoever asked for a dtype that a type of device does without; None if fine."""
    if computes_in(device, dtype):
        return None
    name = str(dtype).removeprefix("torch.")
    return f"This processor has no arithmetic for {name}: float32 is several times as fast here."


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


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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

    from . import __version__

    return {
        "pyconv": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,  # of Pillow-SIMD as well
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
