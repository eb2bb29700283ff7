"""How fast the networks run, against what a user has without this library.

    python benchmarks/speed.py                         # inference and training, batch 8, 224x224
    python benchmarks/speed.py --peers --json out.json # also onnxruntime and OpenVINO, if installed
    python benchmarks/speed.py --zoo --batch 1 8 32    # every network: never slower than native?
    python benchmarks/speed.py --memory                # peak memory of one forward pass
    python benchmarks/speed.py --device cuda           # with TF32, bfloat16 and float16

The baseline is the original's computation: NCHW, native grouped convolutions, norms not folded,
float32. All rows start from the same float32 images in NCHW; what another layout or dtype takes
counts. All rows run in one process, in turns; a figure is the median over rounds of the baseline's
time divided by the row's of the same round. ``--cpu-time`` counts the processor's time of a single
thread instead, for machines that are not idle.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
import torchvision
from machine import describe
from pairs import alternate, ratio
from torch import Tensor, nn

from pyconv import get_model, list_models, optimize
from pyconv.speed import kernels, pin
from pyconv.system.processor import computes_in

MODELS = ("pyconvresnet50", "pyconvhgresnet50")
BASELINE = "original float32"
Run = Callable[[], object]


def network(name: str, device: str) -> nn.Module:
    torch.manual_seed(0)
    build = torchvision.models.resnet50 if name == "torchvision resnet50" else get_model
    model = build() if name == "torchvision resnet50" else build(name)
    return model.to(device)


def images(batch: int, size: int, device: str) -> Tensor:
    return torch.randn(batch, 3, size, size, device=device)


def original(model: nn.Module) -> nn.Module:
    """The same weights, computed as the original's code does."""
    model = copy.deepcopy(model)
    pin(model, "native")
    return model


def frozen(model: nn.Module, dtype: torch.dtype, x: Tensor) -> Run:
    """What a user of the original would try first: dtype, channels last, compiled, frozen."""
    model = copy.deepcopy(model).eval().to(dtype, memory_format=torch.channels_last)
    fast = torch.compile(model)  # main() turns freezing on: as an option here, it has no effect
    return lambda: fast(_last(x, dtype))


def _last(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return x.to(dtype or x.dtype, memory_format=torch.channels_last)


def dtypes(device: str) -> list[torch.dtype]:
    """Those that the device has arithmetic for; without it, every row would take minutes."""
    half = [torch.bfloat16] if device == "cpu" else [torch.bfloat16, torch.float16]
    return [torch.float32, *(dtype for dtype in half if computes_in(device, dtype))]


def label(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def inference(name: str, args: argparse.Namespace, batch: int) -> dict[str, Run]:
    model, x = network(name, args.device).eval(), images(batch, args.size, args.device)
    before = original(model)
    runs: dict[str, Run] = {BASELINE: lambda: before(x)}
    if args.device != "cpu":
        runs["original float32 without TF32"] = _without_tf32(runs[BASELINE])
    layout = copy.deepcopy(before).to(memory_format=torch.channels_last)
    runs["original channels_last float32"] = lambda: layout(_last(x))
    for dtype in dtypes(args.device)[1:]:
        runs[f"original channels_last autocast {label(dtype)}"] = _autocast(layout, x, dtype)
    runs["layers as they are float32"] = lambda: model(x)
    for dtype in dtypes(args.device):
        text = label(dtype)
        fast = optimize(model, x, dtype=dtype)
        runs[f"optimize {text}"] = lambda fast=fast: fast(x)
        if not args.eager:
            runs[f"original compiled frozen {text}"] = frozen(before, dtype, x)
            compiled = optimize(model, x, dtype=dtype, compile=True)
            runs[f"optimize compiled {text}"] = lambda compiled=compiled: compiled(x)
            resnet = network("torchvision resnet50", args.device)
            runs[f"torchvision resnet50 compiled frozen {text}"] = frozen(resnet, dtype, x)
    if args.peers and args.device == "cpu":
        runs |= peers(before, x)
    return runs


def _autocast(model: nn.Module, x: Tensor, dtype: torch.dtype) -> Run:
    def run() -> object:
        with torch.autocast(x.device.type, dtype):
            return model(_last(x))

    return run


def _without_tf32(run: Run) -> Run:
    def exact() -> object:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return run()

    return exact


def peers(model: nn.Module, x: Tensor) -> dict[str, Run]:
    """The same network through other runtimes, from its ONNX export; those that are installed."""
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        path, array = str(Path(folder) / "model.onnx"), x.numpy()
        torch.onnx.export(model, (x,), path, dynamo=True, external_data=False)
        with contextlib.suppress(ImportError):
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
            feed = {session.get_inputs()[0].name: array}
            runs["onnxruntime float32"] = lambda: session.run(None, feed)
        with contextlib.suppress(ImportError):
            import openvino

            core = openvino.Core()
            for precision, text in (("f32", "float32"), ("bf16", "bfloat16")):
                wish = {
                    "INFERENCE_PRECISION_HINT": precision,
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "PERFORMANCE_HINT": "LATENCY",
                }
                program = core.compile_model(path, "CPU", wish)
                runs[f"OpenVINO {text}"] = lambda program=program: program([array])
    return runs


def training(name: str, args: argparse.Namespace, batch: int) -> dict[str, Run]:
    model, x = network(name, args.device).train(), images(batch, args.size, args.device)
    target = torch.randint(1000, (batch,), device=args.device)
    before, last = original(model), x.contiguous(memory_format=torch.channels_last)
    resnet = network("torchvision resnet50", args.device).train()
    runs: dict[str, Run] = {BASELINE: _as_original(_step(before, x, target))}

    def layout(model: nn.Module) -> nn.Module:
        return copy.deepcopy(model).to(memory_format=torch.channels_last)

    runs["original channels_last float32"] = _as_original(_step(layout(before), last, target))
    runs["layers as they are float32"] = _step(copy.deepcopy(model), x, target)
    runs["channels_last float32"] = _step(layout(model), last, target)
    runs["torchvision resnet50 channels_last float32"] = _step(layout(resnet), last, target)
    for dtype in dtypes(args.device)[1:]:
        text = f"autocast {label(dtype)}"
        plain = _step(layout(before), last, target, dtype)
        runs[f"original channels_last {text}"] = _as_original(plain)
        runs[f"channels_last {text}"] = _step(layout(model), last, target, dtype)
        runs[f"torchvision resnet50 channels_last {text}"] = _step(
            layout(resnet), last, target, dtype
        )
    return runs


def _as_original(run: Run) -> Run:
    """Without the kernels of this library, which would be faster."""

    def plain() -> object:
        with kernels.disabled():
            return run()

    return plain


def _step(model: nn.Module, x: Tensor, target: Tensor, dtype: torch.dtype | None = None) -> Run:
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def run() -> object:
        with torch.enable_grad():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
                loss = nn.functional.cross_entropy(model(x), target)
            loss.backward()
            return optimizer.step()

    return run


def zoo(name: str, args: argparse.Namespace, batch: int, mode: str) -> dict[str, Run]:
    """Each network beside itself with native levels, layout and dtype being equal."""
    channels, size = (1, 28) if name.endswith("tiny") else (3, args.size)
    x = torch.randn(batch, channels, size, size, device=args.device)
    model = get_model(name).to(args.device).train(mode == "training")
    before = original(model)
    target = torch.zeros(batch, dtype=torch.long, device=args.device)
    runs: dict[str, Run] = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        text, y = str(layout).removeprefix("torch."), x.contiguous(memory_format=layout)
        for dtype in dtypes(args.device):
            key = f"{text} {label(dtype)}"
            for which, source in (("native", before), ("rule", model)):
                if mode == "training":
                    twin = copy.deepcopy(source).to(memory_format=layout)
                    half = None if dtype == torch.float32 else dtype
                    step = _step(twin, y, target, half)
                    runs[f"{which} {key}"] = _as_original(step) if which == "native" else step
                else:
                    twin = copy.deepcopy(source).to(dtype, memory_format=layout)
                    z = y.to(dtype)
                    runs[f"{which} {key}"] = lambda twin=twin, z=z: twin(z)
    if mode == "inference":
        for dtype in dtypes(args.device):
            fast = optimize(model, x, dtype=dtype)
            runs[f"optimize channels_last {label(dtype)}"] = lambda fast=fast: fast(x)
    return runs


BUILD = """
import sys, torch
sys.path[:0] = {path!r}
from speed import images, network, original
from pyconv import optimize
torch.set_num_threads({threads})
x = images({batch}, {size}, "cpu")
def build():
    model = network({name!r}, "cpu").eval()
    if {how!r} == "original":
        return original(model).to(torch.{dtype}, memory_format=torch.channels_last)
    return optimize(model, None if {how!r} == "rule" else x, dtype=torch.{dtype})
"""
SAVE = "torch.save(build(), {file!r})"
RUN = """
import ctypes, gc, re
from pathlib import Path
def resident(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
torch.nn.Conv2d(3, 3, 3)(x)
before = resident("VmRSS")
if {how!r} == "loaded":
    model = torch.load({file!r}, weights_only=False)
else:
    model = build()
if {how!r} == "original":
    x = x.to(torch.{dtype}, memory_format=torch.channels_last)
gc.collect()
ctypes.CDLL(None).malloc_trim(0)  # what was freed while building counts no more
Path("/proc/self/clear_refs").write_text("5")
with torch.inference_mode():
    for _ in range(3):
        model(x)
print(resident("VmHWM") - before)
"""


def memory(name: str, how: str, dtype: str, args: argparse.Namespace) -> float:
    """Peak resident MiB of a fresh process while the model runs, above those before it.

    What is loaded was timed and saved by another process: the one that times keeps what PyTorch
    compiled for the algorithms that were not chosen.
    """
    with tempfile.TemporaryDirectory() as folder:
        numbers = {"batch": args.batch[0], "size": args.size, "threads": torch.get_num_threads()}
        known = numbers | {"path": sys.path, "file": f"{folder}/model.pt"}
        programs = [BUILD + SAVE] * (how == "loaded") + [BUILD + RUN]
        for program in programs:
            code = program.format(**known, name=name, how=how, dtype=dtype)
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(
    title: str, runs: dict[str, Run], args: argparse.Namespace, against: Callable[[str], str]
) -> dict[str, Any]:
    """Time the runs in turns and print them; ``against`` names the row that a row is divided by."""
    if args.rows:
        runs = {row: run for row, run in runs.items() if row == BASELINE or row in args.rows}
    clock = time.thread_time if args.cpu_time else time.perf_counter
    with (
        torch.inference_mode(),
        torch.inference_mode(False) if "training" in title else (contextlib.nullcontext()),
    ):
        times = alternate(runs, args.rounds, clock)
    print(f"\n{title}\n{'':46} {'ms':>9} {'times as fast':>14}")
    result = {}
    for name, seconds in times.items():
        row: dict[str, Any] = {"ms": 1e3 * statistics.median(seconds)}
        row |= {"speedup": ratio(times[against(name)], seconds), "seconds": seconds}
        print(f"{name:46} {row['ms']:9.1f} {row['speedup']:14.2f}", flush=True)
        result[name] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", help="default: the two of 50 layers, or all")
    parser.add_argument("--mode", nargs="+", default=["inference", "training"])
    parser.add_argument("--batch", nargs="+", type=int, default=[8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", nargs="+", help="only these rows, by name, beside the baseline")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--eager", action="store_true", help="leave out what needs torch.compile")
    parser.add_argument("--peers", action="store_true", help="also onnxruntime and OpenVINO")
    parser.add_argument("--zoo", action="store_true", help="every network beside native")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--cpu-time", action="store_true", help="time of one thread's processor")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args()
    if args.cpu_time:
        args.threads = 1
    if args.threads:
        torch.set_num_threads(args.threads)
    torch._inductor.config.freezing = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    report: dict[str, Any] = {"machine": describe(), "command": " ".join(sys.argv), "tables": {}}
    print(json.dumps(report["machine"], indent=2))
    for name in args.models or (list_models() if args.zoo else MODELS):
        if args.memory:
            table = {
                f"{how} {dtype}": memory(name, how, dtype, args)
                for dtype in ("float32", "bfloat16")
                for how in ("original", "rule", "timed", "loaded")
            }
            print(f"\n{name}: peak MiB {json.dumps(table, indent=2)}", flush=True)
            report["tables"][f"{name} memory"] = table
            continue
        for mode in args.mode:
            for batch in args.batch:
                title = f"{name}, {mode}, batch {batch}, {args.size}x{args.size}"
                if args.zoo:
                    runs = zoo(name, args, batch, mode)
                    report["tables"][title] = measure(
                        title, runs, args, lambda row: f"native {row.partition(' ')[2]}"
                    )
                else:
                    runs = (inference if mode == "inference" else training)(name, args, batch)
                    report["tables"][title] = measure(title, runs, args, lambda row: BASELINE)
                del runs
                gc.collect()
                torch.compiler.reset()
                if args.json:
                    args.json.write_text(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
