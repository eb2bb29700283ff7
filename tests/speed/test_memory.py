"""Memory that a process keeps from step to step, seen from outside: by the pages it asks for."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from pyconv.speed.memory import keep_memory as kept
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        maps = [torch.ones(12 << 20) for _ in range(4)]  # 48 MiB each
        del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def held():  # MiB
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
faults()
usual, before = faults(), held()
with kept():
    faults()
    print(usual, faults(), held() - before, end=" ")
print(held() - before, faults())
"""
COMMAND = CODE.replace("speed.memory import keep_memory", "train.__main__ import _kept_memory")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
@pytest.mark.parametrize("code", [CODE, COMMAND], ids=["the function", "the command"])
def test_what_is_freed_is_used_again_and_in_the_end_given_back(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    usual, kept, held, still_held, after = map(int, done.stdout.split())
    assert kept < usual / 20
    assert held > 96 > 48 > still_held
    assert after > usual / 20
