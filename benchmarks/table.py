"""Measure which algorithm suits which shape, and write the tables that ``pyconv.speed`` reads.

    python benchmarks/table.py                # for this kind of processor
    python benchmarks/table.py --device cuda  # for this kind of GPU

Takes every grouped level of the zoo (a depth repeats the shapes of another, so the 50-layer
networks and the tiny one stand for all), in float32 and, where the processor has arithmetic for
it, bfloat16, both layouts, in training, in inference and prepared, on one thread: ten minutes. On
a GPU for 64 images, as its kernels are chosen by default (``cudnn.benchmark`` off).
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
from machine import describe
from torch import nn

import pyconv
from pyconv import get_model
from pyconv.onednn import geometry_of
from pyconv.speed.algorithms import DIRECT, NATIVE, Algorithm
from pyconv.speed.choice import measure
from pyconv.speed.problem import Mode, Problem
from pyconv.system.processor import computes_in, processor

IMAGES = {"pyconvresnet50": (3, 224, 224), "pyconvhgresnet50": (3, 224, 224)}
IMAGES["pyconvresnet_tiny"] = (1, 28, 28)
MODES: tuple[Mode, ...] = ("forward", "prepared", "grad_input", "grad_weight")
BATCH = {"cpu": 4, "cuda": 64}
MARGIN = 0.9  # of native's time: what another algorithm must stay under, so that it never costs
# Milliseconds that it must save on a GPU: it takes its processor longer to tell it more, and where
# the network is small that is what all wait for.
WORTH: dict[Mode, float] = {"forward": 0.1, "prepared": 0.0, "grad_input": 0.2, "grad_weight": 0.2}


@cache
def levels(name: str) -> list[tuple[nn.Conv2d, int]]:
    """Every grouped level of a network with the size of the map that it sees."""
    found: list[tuple[nn.Conv2d, int]] = []
    model = get_model(name).eval()
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups > 1:
            module.register_forward_pre_hook(lambda m, args: found.append((m, args[0].shape[-1])))
    with torch.no_grad():
        model(torch.zeros(1, *IMAGES[name]))
    return found


def problems(dtype: torch.dtype, channels_last: bool, mode: Mode, device: str) -> list[Problem]:
    """The different problems that the levels of the zoo pose."""
    return list(
        dict.fromkeys(
            Problem(
                in_channels=level.in_channels,
                out_channels=level.out_channels,
                kernel=level.kernel_size,
                geometry=geometry_of(level),
                size=(size, size),
                dtype=dtype,
                channels_last=channels_last,
                device=device,
                mode=mode,
            )
            for name in IMAGES
            for level, size in levels(name)
        )
    )


def fastest(times: dict[Algorithm, float], worth: float) -> Algorithm:
    best = min(times, key=times.__getitem__)
    is_worth_it = times[best] <= min(MARGIN * times[NATIVE], times[NATIVE] - worth)
    return best if is_worth_it else NATIVE


def row(problem: Problem, batch: int, rounds: int) -> list[object]:
    clock = time.thread_time if problem.device == "cpu" else time.perf_counter
    times = measure(problem, batch, rounds, clock)
    worth = 0.0 if problem.device == "cpu" else 1e-3 * WORTH[problem.mode]
    without = {one: seconds for one, seconds in times.items() if one != DIRECT}
    best, otherwise = fastest(times, worth), fastest(without, worth)
    ratio = times[NATIVE] / times[best] if best != NATIVE else 1.0
    geometry, kernel, size = problem.geometry, problem.kernel[0], problem.size[0]
    print(
        f"{problem.in_channels:5d} -> {problem.out_channels:4d}, {geometry.groups:3d} groups, "
        f"{kernel}x{kernel}/{geometry.stride[0]} on {size:3d}: {times[NATIVE] * 1e3:8.2f} ms "
        f"native, {ratio:5.2f} times as fast {best}",
        flush=True,
    )
    shape = (problem.inputs, problem.outputs, problem.kernel[0], problem.geometry.stride[0])
    groups = None if problem.device == "cpu" else problem.geometry.groups
    return [*shape, problem.size[0], groups, str(best), str(otherwise)]


def write(file: Path, table: dict[str, list[list[object]]]) -> None:
    """What was measured so far, a row a line."""
    blocks = [
        f'    "{key}": [\n' + ",\n".join(f"      {json.dumps(row)}" for row in rows) + "\n    ]"
        for key, rows in table.items()
    ]
    text = ",\n".join(blocks)
    machine = json.dumps(describe())
    file.write_text(f'{{\n  "machine": {machine},\n  "fastest": {{\n{text}\n  }}\n}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help="default: where the library reads it")
    parser.add_argument("--device", choices=BATCH, default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = processor(args.device)
    file = args.file or Path(pyconv.__file__).parent / "speed" / "tables" / f"{name}.json"
    table: dict[str, list[list[object]]] = {}
    computes = partial(computes_in, args.device)
    dtypes = filter(computes, (torch.float32, torch.bfloat16))
    for dtype, channels_last, mode in product(dtypes, (True, False), MODES):
        posed = problems(dtype, channels_last, mode, args.device)
        key = posed[0].table_key
        print(f"\n{key}")
        table[key] = [row(problem, BATCH[args.device], args.rounds) for problem in posed]
        write(file, table)


if __name__ == "__main__":
    main()
