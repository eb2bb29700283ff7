"""What a figure was measured on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def describe() -> dict[str, str]:
    """The processor, its vector units, the threads, and the versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    info = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    have = info.get("flags", "").split()
    facts = {
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "vector units": " ".join(flag for flag in FLAGS if flag in have),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
