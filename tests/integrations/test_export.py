"""What exporters, compilers and counters make of a network: plain convolutions, same numbers."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

import pyconv
from pyconv import PyConv2d, get_model, get_model_weights, list_models

FORMS = ["plain", *(["optimised"] if hasattr(pyconv, "optimize") else [])]  # with pyconv.speed
each_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    torch.compiler.reset()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters, about themselves
        yield


def network(name: str, form: str = "plain") -> Any:
    """In eval mode, with norms that do something."""
    model = get_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)
    return pyconv.optimize(model) if form == "optimised" else model


def images(model: Any, batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, model.conv1.in_channels, height, width)


def error(value: Any, target: Tensor) -> float:
    return float((torch.as_tensor(value) - target).norm() / target.norm())


def for_any_size(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    """For any batch, and any image of whole tiles of the last stage."""
    dim = torch.export.Dim
    sides = {2: 32 * dim("height", min=1, max=16), 3: 32 * dim("width", min=1, max=16)}
    shapes = {0: dim("batch", min=1, max=64), **sides}
    return torch.export.export(model, (x,), dynamic_shapes=(shapes,))


@pytest.mark.parametrize("name", ["pyconvresnet_tiny", "pyconvhgresnet50"])
def test_what_is_exported_is_plain(name: str) -> None:
    model = network(name)
    program = torch.export.export(model, (images(model, 2, 32, 32),))
    found = Counter(str(n.target) for n in program.graph.nodes if n.op == "call_function")
    count = Counter(type(module) for module in model.modules())
    assert found["aten.conv2d.default"] == count[nn.Conv2d]
    assert found["aten.cat.default"] == sum(isinstance(m, PyConv2d) for m in model.modules())
    others = "dropout batch_norm relu_ cat conv2d max_pool2d add adaptive_avg_pool2d flatten linear"
    assert {target.split(".")[1] for target in found} <= {*others.split()}


def test_fake_tensors_see_plain_convolutions() -> None:
    with FakeTensorMode():
        layer = PyConv2d(64, 64, stride=2)
        x = torch.randn(8, 64, 56, 56).contiguous(memory_format=torch.channels_last)
        with torch.profiler.profile() as profile:
            out = layer(x)
    assert out.shape == (8, 64, 28, 28)
    assert not [event for event in profile.events() if event.name.startswith("pyconv::")]


@each_form
def test_one_graph_for_all_sizes(form: str) -> None:
    model, counter = network("pyconvresnet18", form), CompileCounter()
    run = torch.compile(lambda x: model(x), backend=counter, dynamic=True)
    with torch.no_grad():
        for side in (96, 128, 160, 224):
            x = images(model, 2, side, side)
            assert error(run(x), model(x)) < 1e-5
    assert counter.frame_count == 1


def test_training_is_one_graph_for_all_sizes() -> None:
    layer, counter = PyConv2d(64, 64), CompileCounter()
    run = torch.compile(layer, backend=counter, dynamic=True, fullgraph=True)
    for side in (14, 17, 28):
        x = torch.randn(4, 64, side, side, requires_grad=True)
        found, expected = (
            torch.autograd.grad(call(x).square().sum(), [x, *layer.parameters()])
            for call in (run, layer)
        )
        assert all(error(a, b) < 1e-4 for a, b in zip(found, expected, strict=True))
    assert counter.frame_count == 1


# PyTorch's own formula takes a gradient of grouped weights for that of ungrouped ones.
def backward_flops(
    grad: Any, x: Any, weight: Any, *others: Any, out_shape: Any, **options: Any
) -> int:
    wanted = others[-1]  # of input, weight and bias
    return sum(wanted[:2]) * conv_flop_count(x, weight, grad)


def gmacs(run: Callable[[], object]) -> float:
    formulas = {torch.ops.aten.convolution_backward: backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        run()
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("name", ["pyconvresnet50", "pyconvhgresnet50"])
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    """As on the CPU, where other algorithms compute some of them at once, or zeros as well."""
    published = get_model_weights(name).DEFAULT.meta["gmacs"]
    model, x = get_model(name).eval(), torch.randn(1, 3, 224, 224)
    last = x.contiguous(memory_format=torch.channels_last)
    forms = [model] + [pyconv.optimize(model) for form in FORMS if form == "optimised"]
    with torch.no_grad():
        for each, data in ((each, data) for each in forms for data in (x, last)):
            assert gmacs(lambda each=each, data=data: each(data)) == pytest.approx(  # type: ignore[misc]
                published, abs=0.005
            )
    model.train().to(memory_format=torch.channels_last)
    stem = 112 * 112 * model.conv1.weight.numel() / 1e9  # nobody wants the gradient of the image
    counted = gmacs(lambda: model(last.expand(2, -1, -1, -1)).sum().backward()) / 2
    assert counted == pytest.approx(3 * published - stem, abs=0.015)


@pytest.mark.ecosystem
@each_form
@pytest.mark.parametrize("name", list_models())
def test_every_network_in_onnxruntime_openvino_and_torchscript(
    name: str, form: str, tmp_path: Path
) -> None:
    import onnxruntime
    import openvino

    model = network(name, form)
    x, other = images(model, 2, 64, 64), images(model, 3, 96, 64)
    program, path = for_any_size(model, x), tmp_path / "network.onnx"
    torch.onnx.export(program, (), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["x"]
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    vino = openvino.Core().compile_model(str(path), "CPU", exact)
    runs = {
        "export": program.module(),
        "trace": torch.jit.trace(model, x),
        "onnxruntime": lambda data: session.run(None, {"x": data.numpy()})[0],
        "openvino": lambda data: vino(data.numpy())[0],
    }
    with torch.no_grad():
        for data in (x, other):
            expected = model(data)
            assert {
                k: e for k, run in runs.items() if (e := error(run(data), expected)) > 1e-4
            } == {}


@pytest.mark.ecosystem
@each_form
@pytest.mark.parametrize("name", ["pyconvresnet_tiny", "pyconvresnet18", "pyconvhgresnet50"])
def test_openvino_takes_programs_and_modules_themselves(name: str, form: str) -> None:
    import openvino

    model = network(name, form)
    x = images(model, 2, 64, 64)
    for source, options in (
        (torch.export.export(model, (x,)), {}),
        (model, {"example_input": x}),
    ):
        converted = openvino.convert_model(source, **options)
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        vino = openvino.Core().compile_model(converted, "CPU", exact)
        assert error(vino(x.numpy())[0], model(x).detach()) < 1e-4


@pytest.mark.ecosystem
@each_form
@pytest.mark.parametrize("name", ["pyconvresnet_tiny", "pyconvresnet18"])
def test_aotinductor(name: str, form: str, tmp_path: Path) -> None:
    """A program in C++ for any size."""
    model = network(name, form)
    x, other = images(model, 2, 64, 64), images(model, 5, 96, 64)
    with torch.no_grad():
        program = for_any_size(model, x)
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "network.pt2")
        )
        run = torch._inductor.aoti_load_package(path)
        assert all(error(run(data), model(data)) < 1e-4 for data in (x, other))


@pytest.mark.ecosystem
@pytest.mark.parametrize("name", ["pyconvresnet_tiny", "pyconvhgresnet50"])
def test_xnnpack_runs_all_of_a_network(name: str) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    model = network(name)
    x = images(model, 1, 64, 64)
    program = torch.export.export(model, (x,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    calls = [n for n in lowered.exported_program().graph.nodes if n.op == "call_function"]
    assert sorted(n.target.__name__ for n in calls) == ["executorch_call_delegate", "getitem"]
    # Each by a name: a method does not keep what it was loaded from.
    program = Runtime.get().load_program(lowered.to_executorch().buffer)
    method = program.load_method("forward")
    assert error(method.execute([x])[0], model(x).detach()) < 1e-4
