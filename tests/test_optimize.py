"""optimize(): the same numbers from a model without norms, whatever the model is made of."""

from __future__ import annotations

import copy
import importlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pyconv import Backbone, PyConv1d, PyConv2d, PyConv3d, get_model, list_models, optimize
from pyconv import pyconvresnet_tiny as tiny
from pyconv.layers import GroupedConv, pin
from pyconv.prepared import DirectPyramid, PreparedConv


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of a busy machine wait for each other, and these maps are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settled(model: nn.Module) -> nn.Module:
    """As if trained: norms that do something, and that a wrong fold would get wrong."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    nn.init.uniform_(tensor, low, high)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def error(value: Tensor, target: Tensor) -> float:
    value, target = value.detach().double(), target.detach().double()
    return float((value - target).norm() / target.norm())


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in list_models() if "101" not in n and "152" not in n])
def test_every_kind_of_network_keeps_its_numbers(name: str) -> None:
    model = settled(get_model(name)).double()
    channels = 1 if name.endswith("tiny") else 3
    x = torch.randn(2, channels, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        fast, expected = optimize(model), model(x)
        assert error(fast(x), expected) < 1e-9
        assert norms(fast) == 0 and type(fast) is type(model)
        assert not any(isinstance(m, GroupedConv) for m in fast.modules())
        assert error(optimize(model.float())(x.float()), expected) < 1e-5


def test_the_model_itself_stays_as_it_is() -> None:
    model = settled(tiny())
    before = copy.deepcopy(model.state_dict())
    optimize(model, torch.randn(2, 1, 28, 28), dtype=torch.bfloat16)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert norms(model) > 0 and all(p.requires_grad for p in model.parameters())
    assert not model._forward_pre_hooks


def test_an_example_has_each_level_timed_on_what_it_sees() -> None:
    model, x = settled(tiny()), torch.randn(2, 1, 28, 28)
    fast = optimize(model, x)
    apart = sum(isinstance(m, PreparedConv) for m in fast.modules())
    joined = [m for m in fast.modules() if isinstance(m, DirectPyramid)]
    together = sum(geometry.groups > 1 for m in joined for geometry in m.geometries)
    assert apart + together == sum(isinstance(m, GroupedConv) for m in model.modules())
    assert error(fast(x), model(x)) < 1e-5


def test_bfloat16_is_as_near_the_truth_as_the_native_model() -> None:
    model, x = settled(tiny()), torch.randn(8, 1, 28, 28)
    native = copy.deepcopy(model)
    pin(native, "native")
    with torch.no_grad():
        truth = copy.deepcopy(native).double()(x.double())
        fast = optimize(model, dtype=torch.bfloat16)(x)
        assert fast.dtype == torch.bfloat16
        assert error(fast, truth) <= 1.1 * error(native.bfloat16()(x.bfloat16()), truth)


def test_a_processor_without_halves_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As AVX2 is, where bfloat16 takes many times as long; the answer keeps what float32 knew."""
    module = importlib.import_module("pyconv.optimize")  # pyconv.optimize is the function
    monkeypatch.setattr(module, "computes_in", lambda device, dtype: dtype.itemsize > 2)
    model, x = settled(tiny()), torch.randn(8, 1, 28, 28)
    expected = model(x)
    for fast in (
        optimize(model, x, dtype=torch.bfloat16),
        optimize(copy.deepcopy(model).bfloat16()),
    ):
        assert next(fast.parameters()).dtype == torch.float32
        assert fast(x.bfloat16()).dtype == torch.bfloat16
    assert error(optimize(model, x, dtype=torch.bfloat16)(x), expected) < 0.003  # of one rounding
    features = optimize(Backbone(settled(tiny())).eval(), dtype=torch.bfloat16)(x)  # type: ignore[arg-type]
    assert {f.dtype for f in features.values()} == {torch.bfloat16}


def test_what_is_pinned_stays_pinned() -> None:
    model = settled(tiny())
    pin(model, "blocked:merge=2")
    fast = optimize(model, torch.randn(1, 1, 28, 28))
    assert {str(m.lowering) for m in fast.modules() if isinstance(m, PreparedConv)} == {
        "blocked:merge=2"
    }


@pytest.mark.parametrize("output_stride", [32, 8])
def test_a_backbone_stays_a_backbone(output_stride: int) -> None:
    body = Backbone(settled(tiny(output_stride=output_stride)), stages=(2, 3))  # type: ignore[arg-type]
    fast, x = optimize(body.eval()), torch.randn(1, 1, 37, 28)
    assert isinstance(fast, Backbone) and fast.channels == body.channels and norms(fast) == 0
    expected = body(x)
    for name, features in fast(x).items():
        assert error(features, expected[name]) < 1e-5


class Mixed(nn.Module):
    """A user's module: pyramids of three kinds, reused parts, and a branch on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.volume = nn.Sequential(
            PyConv3d(4, 8, (3, 5), (2, 4), bias=True), nn.BatchNorm3d(8, affine=False), nn.ReLU()
        )
        self.image = nn.Sequential(
            PyConv2d(8, 16, padding_mode="reflect", pyconv_groups=None), nn.BatchNorm2d(16)
        )
        self.grouped = nn.Sequential(nn.Conv2d(16, 16, 3, groups=8, padding=1), nn.BatchNorm2d(16))
        self.sequence = nn.Sequential(PyConv1d(16, 8, (3, 9), (1, 4)), nn.BatchNorm1d(8))
        self.twice = nn.Sequential(nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8))
        self.batch = nn.Sequential(nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8, track_running_stats=False))

    def forward(self, x: Tensor) -> Tensor:  # [N, 4, D, H, W] -> [N, 8, H * W]
        x = self.image(self.volume(x).mean(2))
        x = self.grouped(x) if x.sum() > -1e9 else x  # which symbolic tracing cannot follow
        x = self.sequence(x.flatten(2))
        out: Tensor = self.batch(self.twice(self.twice(x)))
        return out


def test_a_users_module_of_any_kind() -> None:
    model = settled(Mixed()).double()
    x = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)
    for fast in (optimize(model), optimize(model, x)):
        assert error(fast(x), model(x)) < 1e-9
        assert norms(fast) == 1  # that of the batch cannot be folded
        assert not any(isinstance(m, GroupedConv) for m in fast.modules())


class Shared(nn.Module):
    """Where folding would be wrong: the convolution's output, or the norm, is used elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = PyConv2d(8, 8, (3, 5), (4, 4)), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        out: Tensor = self.norm(y) + self.norm(x) + y
        return out


def test_what_others_read_is_not_folded() -> None:
    model, x = settled(Shared()), torch.randn(2, 8, 9, 9)
    fast = optimize(model, x)
    assert norms(fast) == 1
    assert error(fast(x), model(x)) < 1e-5


def test_a_layer_alone() -> None:
    layer = settled(PyConv2d(16, 16, pyconv_groups=(1, 4, 4, 4)))
    x = torch.randn(2, 16, 9, 9)
    assert error(optimize(layer)(x), layer(x)) < 1e-5
    level = layer.levels[1]  # type: ignore[attr-defined]
    fast = optimize(level, x, dtype=torch.float64)
    assert isinstance(fast, PreparedConv) and fast(x).dtype == torch.float64
    assert error(fast(x), level(x)) < 1e-5


@pytest.mark.parametrize("part", ["", "layer2.0"])
def test_training_mode_is_refused_with_the_cure(part: str) -> None:
    model = tiny().eval()
    model.get_submodule(part).train()
    with pytest.raises(ValueError, match=r"in training mode\. Call model\.eval\(\) first"):
        optimize(model)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_is_copied_saved_exported_and_compiled(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model, x = settled(tiny()), torch.randn(3, 1, 28, 28)
    pin(model, "tiled:2x2")
    fast = optimize(model, dtype=dtype)
    expected, path, buffer = fast(x), tmp_path / "tiny.pt2", io.BytesIO()
    torch.save(fast, buffer)
    buffer.seek(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(fast, (x,), dynamic_shapes=({0: batch},)), path)
    for twin in (
        copy.deepcopy(fast),
        pickle.loads(pickle.dumps(fast)),
        torch.load(buffer, weights_only=False),
        torch.export.load(path).module(),
        torch.compile(fast, fullgraph=True, backend="aot_eager"),
    ):
        assert error(twin(x), expected) < 1e-5


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is checked where it is installed")
    pytest.importorskip("onnxscript", reason="torch.onnx needs it")
    model, x = settled(tiny()), torch.randn(3, 1, 28, 28)
    pin(model, "tiled:2x2")
    path = tmp_path / "tiny.onnx"
    torch.onnx.export(optimize(model), (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert error(torch.from_numpy(out), model(x)) < 1e-5


@pytest.mark.slow
def test_compiled_and_frozen() -> None:
    body = Backbone(settled(tiny()), stages=(1,)).eval()  # type: ignore[arg-type]
    fast, x = optimize(body, compile=True), torch.randn(2, 1, 28, 28)
    assert fast.channels == body.channels
    for twin in (fast, pickle.loads(pickle.dumps(fast))):
        out = twin(x)["layer1"]
        assert not out.requires_grad
        assert error(out, body(x)["layer1"]) < 1e-5


@pytest.mark.slow
def test_many_compiled_models_do_not_take_each_others_place() -> None:
    models = [settled(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))) for _ in range(3)]
    x = torch.randn(2, 2, 5, 5)
    limit = torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True)
    with limit:  # as with many more models without it
        fast = [optimize(model, compile=True) for model in models]
        for _ in range(2):
            for one, model in zip(fast, models, strict=True):
                assert error(one(x), model(x)) < 1e-5
        fast[0].load_state_dict(fast[1].state_dict())
        assert error(fast[0](x), models[1](x)) < 1e-5  # the weights of a program can be replaced
