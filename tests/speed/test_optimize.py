"""optimize(): the same numbers from a model without norms, whatever the model is made of."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from equality import compiled, copies, error, last, settled
from test_replacements import CHANGES, Doubled, Shuffled, changed_block, one_thread  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torchvision.ops import FrozenBatchNorm2d

from pyconv import Backbone, PyConv1d, PyConv2d, PyConv3d, get_model, list_models, optimize
from pyconv import pyconvresnet_tiny as tiny
from pyconv.evaluate.__main__ import main as pyconv_eval
from pyconv.models.registry import REGISTRY
from pyconv.onednn import CONVS
from pyconv.speed import kernels, pin, table
from pyconv.speed.prepared import DirectPyramid, PreparedConv

inference = importlib.import_module("pyconv.speed.inference")


def grouped(model: nn.Module) -> int:
    return sum(type(m) in CONVS and m.groups > 1 for m in model.modules())  # type: ignore[operator]


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@pytest.mark.parametrize("name", [n for n in list_models() if "101" not in n and "152" not in n])
def test_every_kind_of_network_keeps_its_numbers(name: str) -> None:
    model = settled(get_model(name)).double()
    channels = 1 if name.endswith("tiny") else 3
    x = torch.randn(2, channels, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        fast, expected = optimize(model), model(x)
        assert error(fast(x), expected) < 1e-9
        assert norms(fast) == 0 and type(fast) is type(model)
        assert not grouped(fast)
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
    together = sum(conv.groups > 1 for m in joined for conv in m.together)
    assert apart + together == grouped(model)
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
    monkeypatch.setattr(inference, "computes_in", lambda device, dtype: dtype.itemsize > 2)
    model, x = settled(tiny()), torch.randn(8, 1, 28, 28)
    expected = model(x)
    asked = optimize(model, x, dtype=torch.bfloat16)
    for fast in (asked, optimize(copy.deepcopy(model).bfloat16())):
        assert next(fast.parameters()).dtype == torch.float32
        assert fast(x.bfloat16()).dtype == torch.bfloat16
    assert error(asked(x), expected) < 0.003  # of one rounding
    features = optimize(Backbone(settled(tiny())).eval(), dtype=torch.bfloat16)(x)  # type: ignore[arg-type]
    assert {f.dtype for f in features.values()} == {torch.bfloat16}


@pytest.mark.usefixtures("kernels_win")
def test_what_is_pinned_stays_pinned() -> None:
    layer = PyConv2d(64, 64).eval()
    pin(layer, "blocked:merge=2")
    levels = optimize(layer, torch.randn(1, 64, 28, 28)).levels
    assert [str(level.algorithm) for level in levels[1:]] == ["blocked:merge=2"] * 3


@pytest.mark.parametrize("output_stride", [32, 8])
def test_a_backbone_stays_a_backbone(output_stride: int) -> None:
    body = Backbone(settled(tiny(output_stride=output_stride)), stages=(2, 3))  # type: ignore[arg-type]
    fast, x = optimize(body.eval()), torch.randn(1, 1, 37, 28)
    assert isinstance(fast, Backbone) and fast.channels == body.channels and norms(fast) == 0
    expected = body(x)
    for name, features in fast(x).items():
        assert error(features, expected[name]) < 1e-5


class Calls(nn.ModuleDict):
    """Parts, and a user's way to call them."""

    def __init__(self, how: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__(parts)
        self.how = how

    def forward(self, x: Tensor) -> Any:
        return self.how(self, x)


def mixes(model: Calls, x: Tensor) -> Tensor:  # [N, 4, D, H, W] -> [N, 8, H * W]
    x = model.image(model.volume(x).mean(2))
    x = model.grouped(x) if x.sum() > -1e9 else x  # which symbolic tracing cannot follow
    x = model.sequence(x.flatten(2))
    return model.batch(model.twice(model.twice(x)))


MIXED: dict[str, Callable[[], list[nn.Module]]] = {
    "volume": lambda: [PyConv3d(4, 8, (3, 5), (2, 4), bias=True), nn.BatchNorm3d(8, affine=False)],
    "image": lambda: [
        PyConv2d(8, 16, padding_mode="reflect", pyconv_groups=None),
        nn.BatchNorm2d(16),
    ],
    "grouped": lambda: [nn.Conv2d(16, 16, 3, groups=8, padding=1), nn.BatchNorm2d(16)],
    "sequence": lambda: [PyConv1d(16, 8, (3, 9), (1, 4)), nn.BatchNorm1d(8)],
    "twice": lambda: [nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)],
    "batch": lambda: [nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8, track_running_stats=False)],
}


def test_a_users_module_of_any_kind() -> None:
    parts = {name: nn.Sequential(*make(), nn.ReLU()) for name, make in MIXED.items()}
    model = settled(Calls(mixes, **parts)).double()
    x = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)
    # The norm of the batch cannot be folded; those of sequences of which somebody may call the
    # parts are only where an example shows that nobody does.
    for fast, left in ((optimize(model), 6), (optimize(model, x), 1)):
        assert error(fast(x), model(x)) < 1e-9
        assert norms(fast) == left
        assert not grouped(fast)


def reads_between(model: Calls, x: Tensor) -> Tensor:
    y = model.conv(x)
    return model.norm(y) + y


def norms_again(model: Calls, x: Tensor) -> Tensor:
    return model.norm(model.conv(x)) + model.norm(x)


def convolves_again(model: Calls, x: Tensor) -> Tensor:
    return model.norm(model.conv(x)) + model.conv(x + 1)


def reads_the_weight(model: Calls, x: Tensor) -> Tensor:
    return F.conv_transpose2d(model.norm(model.conv(x)), model.conv.weight)  # type: ignore[arg-type]


def keeps_all(model: Calls, x: Tensor) -> Tensor:
    found = []
    for part in model.parts:  # type: ignore[union-attr]
        x = part(x)
        if x.sum() > -1e9:  # which symbolic tracing cannot follow
            found.append(x)
    return torch.cat(found)


def calls_a_part_again(model: Calls, x: Tensor) -> Tensor:
    out: Tensor = model.parts(x)
    return torch.cat([out, model.parts[0](x)]) if out.sum() > -1e9 else out  # type: ignore[index]


def walks(model: Calls, x: Tensor) -> Tensor:
    for block in model.blocks:  # type: ignore[union-attr]
        x = block(x) if x.sum() > -1e9 else x
    return x


def by_name(model: Calls, x: Tensor) -> dict[str, Tensor]:
    return {"layer1": model.norm(model.conv(x))}


def remembers(model: Calls, x: Tensor) -> Tensor:
    model.last = model.norm(model.conv(x))
    return model.last


def pair(conv: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(conv or nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8))


def calls(how: Callable[..., Any], conv: nn.Module | None = None, **others: nn.Module) -> Calls:
    return Calls(how, **others, **dict(zip(("conv", "norm"), pair(conv), strict=True)))


def sharing() -> nn.Module:
    """Two convolutions with one weight, of which one has a norm behind it."""
    model = calls(reads_the_weight, first=nn.Conv2d(8, 8, 3, bias=False))
    model.conv.weight = model.first.weight  # type: ignore[union-attr]
    return model


def of_two_names() -> nn.Module:
    """A convolution that is used elsewhere as well, without the norm behind it."""
    one = calls(lambda model, x: model.norm(model.conv(x)))
    return Calls(walks, blocks=nn.ModuleList([one, one.conv]))  # type: ignore[list-item]


def pruned() -> nn.Module:
    model = pair()
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


# How many norms are left: without an example and with one.
FORWARDS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "a map is read": (lambda: calls(reads_between, PyConv2d(8, 8, (3, 5), (4, 4))), 1, 1),
    "a norm is called again": (lambda: calls(norms_again, nn.Conv2d(8, 8, 1)), 1, 1),
    "a convolution is called again": (lambda: calls(convolves_again), 1, 1),
    "a weight is read": (lambda: calls(reads_the_weight), 1, 1),
    "a weight is shared": (sharing, 1, 1),
    "all maps are kept": (lambda: Calls(keeps_all, parts=pair()), 1, 1),
    "a part is called again": (lambda: Calls(calls_a_part_again, parts=pair()), 1, 1),
    "a convolution has two names": (of_two_names, 1, 1),
    "a weight is pruned": (pruned, 1, 1),
    "another convolution": (lambda: pair(Doubled(8, 8, 3, groups=4)), 1, 1),
    "another pyramid": (lambda: pair(Shuffled(8, 8, (3, 5), (1, 4))), 1, 1),
    "one by one": (lambda: Calls(walks, blocks=nn.ModuleList([pair(), pair()])), 2, 0),
    "the last map is kept": (lambda: calls(remembers, nn.Conv2d(8, 8, 3)), 0, 0),
}


@pytest.mark.parametrize(("make", "left", "left_by_example"), FORWARDS.values(), ids=FORWARDS)
def test_a_norm_is_folded_where_that_is_right(
    make: Callable[[], nn.Module], left: int, left_by_example: int
) -> None:
    model, x = settled(make()), torch.randn(2, 8, 9, 9)
    without = optimize(model)
    assert not hasattr(without, "last")  # looking at a model leaves nothing in it
    for fast, count in ((without, left), (optimize(model, x), left_by_example)):
        assert norms(fast) == count
        assert error(fast(x), model(x)) < 1e-5


@pytest.mark.parametrize("norm", [FrozenBatchNorm2d, nn.SyncBatchNorm])
def test_the_norms_of_detectors_are_folded(norm: type[nn.Module]) -> None:
    model, x = tiny(norm_layer=norm).eval(), torch.randn(2, 1, 28, 28)
    for module in model.modules():
        if type(module) is norm:
            for name in ("weight", "bias", "running_mean", "running_var"):
                nn.init.uniform_(getattr(module, name), 0.5, 1.5)
    fast = optimize(model)
    assert not any(type(module) is norm for module in fast.modules())
    assert error(fast(x), model(x)) < 1e-5


@pytest.fixture
def kernels_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock says, optimize() takes what it races first: all levels in one pass."""
    monkeypatch.setattr(inference, "race", lambda runs: {key: n for n, key in enumerate(runs)})


@pytest.mark.parametrize("name", CHANGES)
def test_what_users_made_of_a_block_is_kept(name: str, request: pytest.FixtureRequest) -> None:
    model, x = settled(changed_block(name)), last(2, 64, 14, 15)
    expected = model(x)
    for fast in (optimize(model), optimize(model, x)):
        assert error(fast(x), expected) < 1e-5
    request.getfixturevalue("kernels_win")
    fast = optimize(model, x)
    assert isinstance(fast.conv2, DirectPyramid) or "conv2" in name or not kernels.available()
    assert error(fast(x), expected) < 1e-5


def test_the_table_is_followed_in_either_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.TABLES, "cpu", table.read_table("AVX512"))
    monkeypatch.setattr(inference, "computes_in", lambda device, dtype: True)
    model = get_model("pyconvhgresnet50").eval()
    for dtype in (torch.float32, torch.bfloat16):
        levels = [m for m in optimize(model, dtype=dtype).modules() if isinstance(m, PreparedConv)]
        others = [level.algorithm.name != "native" for level in levels]
        assert sum(others) > len(others) / 2, dtype


class Fills(nn.Module):
    """Takes its images inside what it is given, maybe by name, and writes into that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, groups=2)

    def forward(self, found: list[Tensor], cache: Any, batch: Any, mask: Tensor) -> Tensor:
        found.append(batch["images"])
        cache["x"] = batch["images"]
        out: Tensor = self.conv(batch["images"]) * mask
        return out


@pytest.mark.parametrize("compile", [False, True])
def test_inputs_by_name_and_nested_ones_are_converted(compile: bool) -> None:
    model, x, mask = settled(Fills()), torch.randn(2, 4, 5, 5), torch.tensor(2)
    fast = optimize(model, dtype=torch.float64, compile=compile)
    out = fast([], {}, batch={"images": x}, mask=mask)
    assert out.dtype == torch.float64
    assert error(out, model([], {}, {"images": x}, mask)) < 1e-5


def test_a_list_given_to_be_filled_is_filled() -> None:
    fast, found, cache = optimize(settled(Fills())), [], {}  # type: ignore[var-annotated]
    fast(found, cache=cache, batch={"images": torch.randn(1, 4, 5, 5)}, mask=torch.tensor(2))
    assert len(found) == 1 and list(cache) == ["x"]


def test_the_result_is_in_eval_mode_and_can_be_optimised_again() -> None:
    model, x = settled(tiny()), torch.randn(2, 1, 28, 28)
    fast = optimize(model)
    for each in (fast, optimize(model, compile=True)):
        assert not any(module.training for module in each.modules())
    assert error(optimize(fast)(x), fast(x)) < 1e-5


def test_a_layer_alone() -> None:
    layer, x = settled(PyConv2d(16, 16, pyconv_groups=(1, 4, 4, 4))), torch.randn(2, 16, 16, 16)
    pin(layer, "tiled:2x2")
    for image in (x, x[0]):
        assert error(optimize(layer)(image), layer(image)) < 1e-5
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_is_saved_exported_and_compiled(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = settled(tiny()), torch.randn(3, 1, 28, 28)
    pin(model, "tiled:2x2")
    fast = optimize(model, dtype=dtype)
    expected, path = fast(x), tmp_path / "tiny.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(fast, (x,), dynamic_shapes=({0: batch},)), path)
    for twin in (
        *copies(fast),
        torch.export.load(path).module(),
        torch.compile(fast, fullgraph=True, backend="aot_eager"),
    ):
        assert error(twin(x), expected) < 1e-5


@pytest.mark.parametrize("example", [False, True])
def test_others_who_record_a_model_may_call_it_with_any_size(example: bool) -> None:
    model = nn.Sequential(PyConv2d(32, 32, (3, 5), (4, 8)), PyConv2d(32, 32, (3, 5), (1, 8))).eval()
    pin(model, None if example else "tiled:2x2")
    x, other = torch.randn(2, 32, 28, 28), torch.randn(2, 32, 19, 22)
    fast = optimize(model, x if example else None)
    height, width = (torch.export.Dim(name, min=8, max=64) for name in ("height", "width"))
    exported = torch.export.export(fast, (x,), dynamic_shapes=({2: height, 3: width},))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit.trace is deprecated
        traced = torch.jit.trace(fast, x)
    for twin in (exported.module(), traced, torch.fx.symbolic_trace(fast)):
        for image in (x, other):
            assert error(twin(image), model(image)) < 1e-5


def test_forward_mode_goes_through_the_result() -> None:
    layer = settled(PyConv2d(64, 64)).requires_grad_(False)
    x, along = last(4, 64, 28, 28), last(4, 64, 28, 28)
    truth = torch.func.jvp(copy.deepcopy(layer).double(), (x.double(),), (along.double(),))
    pin(layer, "direct")
    for model in (layer, optimize(layer, x)):
        for value, target in zip(torch.func.jvp(model, (x,), (along,)), truth, strict=True):
            assert error(value, target) < 1e-5


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


@pytest.mark.ecosystem
@pytest.mark.parametrize("algorithm", ["blocked:merge=4", "tiled:2x2:merge=2", "depthwise"])
def test_openvino_takes_every_algorithm(algorithm: str) -> None:
    """As a trace, which leaves the size open, and as a program for one size."""
    import openvino

    layer, x = PyConv2d(64, 64, (3, 5), (16, 16)).eval(), torch.randn(2, 64, 14, 14)
    pin(layer, algorithm)
    fast = optimize(layer)
    traced = openvino.convert_model(fast, example_input=x)
    program = openvino.convert_model(torch.export.export(fast, (x,)))
    for converted, size in ((traced, 17), (program, 14)):
        run = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        image = torch.randn(2, 64, size, size)
        assert error(torch.from_numpy(run(image.numpy())[0]), layer(image)) < 1e-5


@pytest.mark.parametrize("algorithm", [None, "tiled:2x2", "depthwise", "blocked:merge=2", "direct"])
def test_vmap_over_the_result(algorithm: str | None) -> None:
    model, x = settled(tiny()), torch.randn(3, 1, 1, 28, 28)
    pin(model, algorithm)
    assert error(torch.vmap(optimize(model))(x)[:, 0], model(x[:, 0])) < 1e-5


def test_on_the_meta_device_nothing_can_be_timed() -> None:
    model, x = tiny().to("meta").eval(), torch.randn(1, 1, 28, 28)
    with pytest.raises(ValueError, match="meta device cannot be timed: load it first, or give no"):
        optimize(model, x)
    assert optimize(model)(x.to("meta")).shape == (1, 10)


def test_compiled_and_frozen() -> None:
    model, x = settled(calls(by_name, PyConv2d(8, 8, (3, 5), (1, 4)))), torch.randn(2, 8, 9, 9)
    model.channels = 8  # as a backbone has them
    fast = optimize(model, compile=True)
    assert fast.channels == 8
    for twin in (fast, *copies(fast)):
        out = twin(x)["layer1"]
        assert not out.requires_grad
        assert error(out, model(x)["layer1"]) < 1e-5
    names = [*inspect.signature(model.forward).parameters]
    assert [*torch.export.export(fast, (x,)).graph_signature.user_inputs] == names


def test_many_compiled_models_do_not_take_each_others_place() -> None:
    models = [settled(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))) for _ in range(2)]
    x = torch.randn(2, 2, 5, 5)
    limit = torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True)
    with limit:  # as with many more models without it
        fast = [optimize(model, compile=True) for model in models]
        for _ in range(2):
            for one, model in zip(fast, models, strict=True):
                assert error(one(x), model(x)) < 1e-5
        fast[0].load_state_dict(fast[1].state_dict())
        assert error(fast[0](x), models[1](x)) < 1e-5  # the weights of a program can be replaced
        assert error(fast[0].double()(x.double()), models[1](x)) < 1e-5


@compiled
@pytest.mark.usefixtures("kernels_win")
@pytest.mark.slow
def test_a_joined_pyramid_is_saved_copied_exported_and_compiled(tmp_path: Path) -> None:
    pyramid = nn.Sequential(PyConv2d(64, 64), nn.BatchNorm2d(64), nn.ReLU()).eval()
    x = torch.randn(2, 64, 14, 14)
    with torch.no_grad():
        expected = pyramid(x)
    fast = optimize(pyramid, x)
    assert isinstance(fast[0], DirectPyramid) and len(fast[0].together) == 4  # type: ignore[index]
    path = tmp_path / "pyramid.pt2"
    torch.export.save(torch.export.export(fast, (x,)), path)
    for twin in (
        fast,
        *copies(fast),
        torch.export.load(path).module(),
        torch.compile(fast, fullgraph=True),
        optimize(pyramid, x, compile=True),
    ):
        assert error(twin(x), expected) < 1e-5
    assert error(fast(x[0]), expected[0]) < 1e-5  # without a batch
    assert "direct" not in path.read_bytes().decode("latin1")  # others can read what is exported
    x.requires_grad_()
    ours, theirs = (torch.autograd.grad(model(x).sum(), x)[0] for model in (fast, pyramid))
    assert error(ours, theirs) < 1e-5


def test_the_fastest_of_joined_some_joined_and_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "fits", lambda *_: True)
    pyramid, x = nn.Sequential(PyConv2d(64, 64), nn.ReLU()).eval(), torch.randn(1, 64, 9, 9)
    for apart in (0, 1, 4):
        monkeypatch.setattr(inference, "race", lambda runs, n=apart: {k: abs(k - n) for k in runs})
        fast = optimize(pyramid, x)
        joined = [len(m.apart) for m in fast.modules() if isinstance(m, DirectPyramid)]
        assert joined == ([apart] if apart < 4 else [])
        with torch.no_grad():
            assert error(fast(x), pyramid(x)) < 1e-5


@compiled
@pytest.mark.usefixtures("kernels_win")
def test_a_joined_pyramid_follows_autocast() -> None:
    model, x = nn.Sequential(PyConv2d(64, 64), PyConv2d(64, 64)).eval(), torch.randn(2, 64, 14, 14)
    fast = optimize(model, x)
    assert isinstance(fast[0], DirectPyramid)  # type: ignore[index]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = [fast(x), optimize(model, x)(x)]
    with torch.no_grad():
        for out in found:
            assert out.dtype == torch.bfloat16 and error(out, model(x)) < 0.01


@pytest.mark.parametrize("name", ["plain", "short"])
@mock.patch.dict(REGISTRY)
def test_a_network_of_a_users_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    model = settled(get_model(f"own_networks:{name}", num_classes=3))
    x = torch.randn(2, 1, 32, 32)
    assert error(optimize(model, x)(x), model(x)) < 1e-5
    backbone = Backbone(model, (1, 2)).eval()  # type: ignore[arg-type]
    fast = optimize(backbone, x)(x)
    for key, value in backbone(x).items():
        assert error(fast[key], value) < 1e-5


def test_the_command_evaluates_an_optimised_network(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert pyconv_eval(["--sample", "--optimize", "--json", str(file)]) == 0
    result = json.loads(file.read_text("utf-8"))
    assert result["optimize"] and result["agrees"]
