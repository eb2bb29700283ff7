"""How much faster ``optimize`` makes a segmentation network, and its backbone by itself.

    python benchmarks/segmentation.py                     # PyConvSegNet over PyConvResNet-50
    python benchmarks/segmentation.py --backbone resnet50 --rounds 9 --json out.json

One image of 473x473. The baseline is the original's computation: NCHW, native grouped convolutions,
norms not folded, float32. All rows run in one process, in turns; a figure is the median over rounds
of the baseline's time divided by the row's of the same round. The backbone's rows are its stem and
stages, dilated as in the network; with ``--plain`` also as they are without. The last lines say how
much of the time lies in the backbone; the rest is the head's.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe
from pairs import alternate, ratio
from torch import Tensor, nn

from pyconv import PyConvSegNet, optimize
from pyconv.architectures import ARCHITECTURES
from pyconv.pyconvsegnet import dilated
from pyconv.resnet import ResNet
from pyconv.speed import pin
from pyconv.system.processor import computes_in


class Features(nn.Module):
    """The stem and the stages of a network."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.forward_features(x)


def original(model: nn.Module) -> nn.Module:
    """The same weights, computed as the original's code does."""
    model = copy.deepcopy(model)
    pin(model, "native")
    return model


def runs(name: str, model: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    before = original(model)
    found: dict[str, Callable[[], object]] = {f"{name}, original float32": lambda: before(x)}
    for dtype in (torch.float32, torch.bfloat16):
        if computes_in("cpu", dtype):
            fast = optimize(model, x, dtype=dtype)
            label = str(dtype).removeprefix("torch.")
            found[f"{name}, optimize {label}"] = lambda fast=fast: fast(x)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backbone", default="pyconvresnet50")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=473)
    parser.add_argument("--plain", action="store_true", help="the backbone without dilation, too")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    row, x = ARCHITECTURES[args.backbone], torch.randn(1, 3, args.size, args.size)
    networks = {
        "network": PyConvSegNet(dilated(row)),
        "backbone": Features(dilated(row)),
    }
    if args.plain:
        networks["plain backbone"] = Features(ResNet(row))
    all_runs: dict[str, Callable[[], object]] = {}
    for name, model in networks.items():
        all_runs |= runs(name, model.eval(), x)
    with torch.inference_mode():
        times = alternate(all_runs, args.rounds)
    rows = {}
    for name, seconds in times.items():
        base = times[f"{name.split(',')[0]}, original float32"]
        rows[name] = {"ms": 1e3 * statistics.median(seconds), "speed-up": ratio(base, seconds)}
        print(f"{name:40} {rows[name]['ms']:8.0f} ms  {rows[name]['speed-up']:5.2f}")
    for kind in sorted({name.split(", ")[1] for name in times}):
        share = ratio(times[f"backbone, {kind}"], times[f"network, {kind}"])
        print(f"share of the backbone, {kind}: {100 * share:.0f} %")
    if args.json is not None:
        result = {"machine": describe(), "backbone": args.backbone, "rows": rows}
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
