"""The processor: its name, its cores, and the dtypes that it has arithmetic for."""

from __future__ import annotations

import os

import torch

__all__ = ["advice", "computes_in", "has_amx", "is_exporting", "processor", "usable_cores"]


def computes_in(device: str, dtype: torch.dtype) -> bool:
    """Whether a type of device has arithmetic for a dtype; without, it computes far slower.

    A CPU with AVX2 alone multiplies matrices of bfloat16 at a hundredth of the speed of float32.
    """
    if device != "cpu" or dtype.itemsize != 2 or not torch.backends.mkldnn.is_available():
        return True
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def processor(device: str = "cpu") -> str:
    """The name of a processor: ``AVX2``, ``AVX512_AMX``, ...; for a GPU ``CUDA_9.0``, ...

    For a CPU it is PyTorch's name for the vector units, with ``_AMX`` if there is AMX. For a GPU it
    is the compute capability, with several GPUs that of the current one.
    """
    if device != "cpu":
        asks = device == "cuda" and torch.version.hip is None and torch.cuda.is_available()
        return "CUDA_{}.{}".format(*torch.cuda.get_device_capability()) if asks else device
    name = torch.backends.cpu.get_cpu_capability()
    return f"{name}_AMX" if has_amx() else name


def has_amx() -> bool:
    """Whether the processor has units that multiply matrices (Intel AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def is_exporting() -> bool:
    """Whether PyTorch only records the computation (``torch.export``), for another machine.

    ``torch.compiler.is_exporting()`` is true under ``torch.compile`` as well, in PyTorch 2.11.
    """
    return bool(torch.compiler._is_exporting_flag)


def advice(device: str, dtype: torch.dtype) -> str | None:
    """A message for a user whose device has no arithmetic for a dtype; None if it has."""
    if computes_in(device, dtype):
        return None
    name = str(dtype).removeprefix("torch.")
    return f"This processor has no arithmetic for {name}: float32 is several times as fast here."


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
