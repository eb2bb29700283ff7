"""The device that a process takes, and what a result file says of the machine."""

from __future__ import annotations

import platform

import pytest
import torch
import torchvision

from pyconv.system.devices import DTYPES, choose_device, describe, own_gpu, versions
from pyconv.system.processor import advice, computes_in, usable_cores


def test_each_process_has_its_own_gpu() -> None:
    assert [own_gpu(rank, 4, shared=False) for rank in range(4)] == [0, 1, 2, 3]
    assert [own_gpu(rank, 2, shared=True) for rank in range(4)] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"There are 2 GPUs for .* one process per GPU"):
        own_gpu(2, 2, shared=False)


def test_a_device_asked_for_is_taken_or_said_to_be_missing() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    torch.ones(1, device=choose_device(None))
    for wanted in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"There is no device '{wanted}' here"):
            choose_device(wanted)


def test_a_result_says_what_it_was_computed_with() -> None:
    assert describe(torch.device("cpu")).startswith(f"cpu ({platform.machine()}, ")
    assert versions()["torch"] == torch.__version__
    assert versions()["torchvision"] == torchvision.__version__
    assert usable_cores() >= 1
    assert all(getattr(torch, name) is dtype for name, dtype in DTYPES.items())


def test_what_a_processor_computes_in() -> None:
    assert computes_in("cpu", torch.float32) and computes_in("cuda", torch.float16)
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX2":
        assert not computes_in("cpu", torch.bfloat16)
    if capability.startswith("AVX512"):
        assert computes_in("cpu", torch.bfloat16)


def test_advice_is_given_where_a_dtype_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert advice("cpu", torch.float32) is None and advice("cuda", torch.bfloat16) is None
    monkeypatch.setattr("pyconv.system.processor.computes_in", lambda device, dtype: False)
    message = advice("cpu", torch.bfloat16)
    assert message is not None and "no arithmetic for bfloat16: float32 is" in message
