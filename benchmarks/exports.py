"""Whether an optimised model is at least as fast as the plain one in other runtimes.

    python benchmarks/exports.py                       # batch 1 and 8, 224x224, two threads
    python benchmarks/exports.py --models resnet18 --batch 1 --json out.json

Needs onnxruntime and OpenVINO (pip install 'torch-pyconv[ecosystem]'). Models are exported for one
size, by ``torch.onnx.export`` for onnxruntime and by ``torch.export`` for OpenVINO. The forms are

- plain: the network as it is;
- optimised: ``optimize(model)``, by the table for this processor;
- timed: ``optimize(model, images)``; kernels of this library are exported as plain convolutions.

All forms in a runtime run in one process, in turns; a figure is the median over rounds of the plain
form's time divided by the form's of the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import torch
from machine import describe
from pairs import alternate, ratio
from torch import Tensor, nn

from pyconv import get_model, optimize

MODELS = ("pyconvresnet50", "pyconvhgresnet50", "resnet50")
Run = Callable[[], Any]


def in_onnxruntime(model: nn.Module, x: Tensor) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False, external_data=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]


def in_openvino(model: nn.Module, x: Tensor) -> Run:
    wish = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    converted = openvino.convert_model(torch.export.export(model, (x,)))
    program = openvino.Core().compile_model(converted, "CPU", wish)
    return lambda: program([x.numpy()])[0]


RUNTIMES = {"onnxruntime": in_onnxruntime, "OpenVINO": in_openvino}


def measure(name: str, batch: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    model, x = get_model(name).eval(), torch.randn(batch, 3, args.size, args.size)
    with torch.inference_mode():
        forms = {"plain": model, "optimised": optimize(model), "timed": optimize(model, x)}
        expected = model(x)
    rows: dict[str, dict[str, float]] = {}
    for runtime, load in RUNTIMES.items():
        with contextlib.redirect_stdout(sys.stderr):
            runs = {form: load(each, x) for form, each in forms.items()}
        times = alternate(runs, args.rounds)
        for form, seconds in times.items():
            out = torch.from_numpy(runs[form]())
            rows[f"{runtime} {form}"] = {
                "ms": 1e3 * statistics.median(seconds),
                "times as fast": ratio(times["plain"], seconds),
                "error": float((out - expected).norm() / expected.norm()),
            }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # of the exporters, about themselves
    warnings.simplefilter("ignore")
    versions = {"onnxruntime": onnxruntime.__version__, "OpenVINO": openvino.__version__}
    report: dict[str, Any] = {"machine": describe() | versions, "tables": {}}
    print(json.dumps(report["machine"], indent=2))
    for name in args.models:
        for batch in args.batch:
            title = f"{name}, batch {batch}, {args.size}x{args.size}"
            rows = report["tables"][title] = measure(name, batch, args)
            print(f"\n{title}\n{'':24} {'ms':>9} {'times as fast':>14} {'error':>9}")
            for row, found in rows.items():
                print("{:24} {:9.1f} {:14.2f} {:9.1e}".format(row, *found.values()), flush=True)
            if args.json:
                args.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
