"""Tools of others on the networks; torchvision's ResNet beside them, as the control."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyconv

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.filterwarnings("ignore"),  # the tools' own
]


def control(**options: Any) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.resnet18(**options)
    return model


BUILDERS: dict[str, Callable[..., Any]] = {
    "torchvision": control,
    "resnet18": pyconv.resnet18,
    "pyconvresnet18": pyconv.pyconvresnet18,
}
each_network = pytest.mark.parametrize("name", BUILDERS)


def build(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return BUILDERS[name](num_classes=10, **options).eval()


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 64, 64)


# What a network costs, by the tools that count.

UNCOUNTED = (
    nn.BatchNorm2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Identity,
    nn.Dropout,
)


def by_thop(model: nn.Module, x: Tensor) -> tuple[float, float]:
    import thop

    nothing = {kind: lambda module, inputs, out: None for kind in UNCOUNTED}
    macs, parameters = thop.profile(model, (x,), custom_ops=nothing, verbose=False)
    return macs, parameters


def by_fvcore(model: nn.Module, x: Tensor) -> tuple[float, float]:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    found = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).by_operator()
    return found["conv"] + found["linear"], parameter_count(model)[""]


def by_torchinfo(model: nn.Module, x: Tensor) -> tuple[float, float]:
    import torchinfo

    found = torchinfo.summary(model, input_data=x, verbose=0)
    return found.total_mult_adds, found.total_params


def by_ptflops(model: nn.Module, x: Tensor, backend: str = "pytorch") -> tuple[float, float]:
    import ptflops

    with contextlib.redirect_stdout(io.StringIO()):
        macs, parameters = ptflops.get_model_complexity_info(
            model,
            tuple(x.shape[1:]),
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
            ignore_modules=list(UNCOUNTED) if backend == "pytorch" else [],
        )
    return macs, parameters


def by_operators(model: nn.Module, x: Tensor) -> tuple[float, float]:
    return by_ptflops(model, x, "aten")


@pytest.mark.parametrize("count", [by_thop, by_fvcore, by_torchinfo, by_ptflops, by_operators])
@pytest.mark.parametrize("name", ["torchvision", "resnet50", "pyconvresnet50", "pyconvhgresnet50"])
def test_the_published_counts(count: Callable[..., tuple[float, float]], name: str) -> None:
    import torchvision

    published = pyconv.get_model_weights("resnet50" if name == "torchvision" else name)
    meta = published["DEFAULT"].meta
    model = torchvision.models.resnet50() if name == "torchvision" else pyconv.get_model(name)
    macs, parameters = count(model.eval(), torch.randn(1, 3, 224, 224))
    assert parameters == meta["num_params"]
    # By modules, ptflops counts sums and flattening as well.
    close = 0.005 if count is by_ptflops else 0.0015
    assert macs / 1e9 == pytest.approx(meta["gmacs"], rel=close)


# What a network looks at.


@each_network
def test_captum(name: str, x: Tensor) -> None:
    """The gradient is the gradient; integrated, it adds up; Grad-CAM is its formula."""
    from captum.attr import GuidedBackprop, IntegratedGradients, LayerGradCam, Saliency

    model = build(name)
    images = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(images)[:, 1].sum(), images)
    torch.testing.assert_close(Saliency(model).attribute(images, target=1), grad.abs())
    parts, error = IntegratedGradients(model).attribute(
        x, target=1, n_steps=64, return_convergence_delta=True
    )
    moved = (model(x) - model(torch.zeros_like(x)))[:, 1]
    assert (error.abs() <= 0.1 * moved.abs().max()).all()
    torch.testing.assert_close(
        parts.sum((1, 2, 3)) - moved, error, rtol=1e-2, atol=1e-2, check_dtype=False
    )
    cam = LayerGradCam(model, model.layer4).attribute(x, target=1)
    torch.testing.assert_close(cam[:, 0], grad_cam(model, x), rtol=1e-3, atol=1e-5)
    assert GuidedBackprop(model).attribute(images, target=1).shape == x.shape


def grad_cam(model: Any, x: Tensor) -> Tensor:
    """By its formula (Selvaraju et al. 2017), before the ReLU, for class 1 at the last map."""
    maps: list[Tensor] = []
    with model.layer4.register_forward_hook(lambda module, inputs, out: maps.append(out)):
        out = model(x)
    (grad,) = torch.autograd.grad(out[:, 1].sum(), maps[0])
    return (grad.mean((2, 3), keepdim=True) * maps[0]).sum(1)


@each_network
def test_captums_rules_of_relevance(name: str, x: Tensor) -> None:
    """LRP has no rule for the stem's nn.Identity; nor DeepLift for a ReLU that is used twice."""
    from captum.attr import LRP, DeepLift

    model = build(name)
    if name.startswith("pyconv"):
        with pytest.raises(TypeError, match=r"Identity.* has no rule defined"):
            LRP(model).attribute(x, target=1)
        model = build(name)
        model.maxpool = nn.Dropout(0.0)  # does nothing, and captum knows it
    assert LRP(model).attribute(x, target=1).shape == x.shape
    with pytest.raises(RuntimeError, match="used more than once"):
        DeepLift(build(name)).attribute(x, target=1)


@each_network
def test_grad_cam(name: str, x: Tensor) -> None:
    from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = build(name)
    targets = [ClassifierOutputTarget(1)] * 2
    for kind in (GradCAM, GradCAMPlusPlus, EigenCAM):
        with kind(model=model, target_layers=[model.layer4]) as method:
            cams = torch.from_numpy(method(input_tensor=x, targets=targets))
        assert cams.shape == (2, 64, 64) and cams.isfinite().all()
        if kind is GradCAM:  # it is scaled to 0..1, and to the size of the images
            coarse = grad_cam(model, x).relu().detach()
            low, high = coarse.amin((1, 2), keepdim=True), coarse.amax((1, 2), keepdim=True)
            fine = nn.functional.interpolate(
                ((coarse - low) / (1e-7 + high - low))[:, None], (64, 64), mode="bilinear"
            )
            torch.testing.assert_close(cams, fine[:, 0], rtol=0.02, atol=0.02)


# Quantised, sharded, trained.


@each_network
def test_torchao_int8(name: str, x: Tensor) -> None:
    """The classifier in int8: it is what these configurations change."""
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        quantize_,
    )

    for config in (Int8WeightOnlyConfig(), Int8DynamicActivationInt8WeightConfig()):
        model = build(name)
        with torch.inference_mode():
            expected = model(x)
            quantize_(model, config)
            assert type(model.fc.weight) is not nn.Parameter
            assert 0 < (model(x) - expected).norm() < 0.05 * expected.norm()


SHARDED = """
import copy, sys
import torch, torchvision, pyconv
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()

def shard(model):
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        fully_shard(stage)
    fully_shard(model)
    assert isinstance(model.conv1.weight, DTensor)
    return model

def full(model):
    return {k: p.full_tensor().detach() for k, p in model.named_parameters()}

for build in (torchvision.models.resnet18, pyconv.pyconvresnet18):
    torch.manual_seed(0)
    plain = build(num_classes=4).eval()  # without statistics of the batch, both see the same
    sharded = shard(copy.deepcopy(plain))
    x, y = torch.randn(4, 3, 64, 64), torch.arange(4)
    for model, part in ((plain, slice(None)), (sharded, slice(rank, None, size))):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    expected = dict(plain.named_parameters())
    for key, value in full(sharded).items():
        torch.testing.assert_close(value, expected[key].detach(), rtol=1e-3, atol=1e-5, msg=key)

with torch.device("meta"):
    model = pyconv.pyconvresnet18(num_classes=4)
shard(model).to_empty(device="cpu")
model.reset_parameters()
weights = full(model)
assert all(tensor.isfinite().all() for tensor in model.buffers())
assert torch.equal(weights["bn1.weight"], torch.ones(64))
wanted = (2 / (64 * 49)) ** 0.5  # Kaiming, fan out
assert abs(weights["conv1.weight"].std() / wanted - 1) < 0.1
assert 0 < weights["fc.weight"].abs().max() <= 1 / 512**0.5
dist.destroy_process_group()
print("sharded")
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_fully_sharded(processes: int, tmp_path: Path) -> None:
    """Each process keeps its part, and both learn what one would; also built without memory."""
    (tmp_path / "sharded.py").write_text(SHARDED)
    launch = f"-m torch.distributed.run --standalone --nproc-per-node {processes} sharded.py"
    done = subprocess.run(
        [sys.executable, *launch.split()], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sharded") == processes


def grey_control(**options: Any) -> nn.Module:
    model: Any = control(**options)
    model.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return model


@pytest.mark.parametrize("build", [grey_control, pyconv.pyconvresnet_tiny])
def test_lightning_and_torchmetrics(build: Callable[..., nn.Module], tmp_path: Path) -> None:
    """A real fit on real images; what it saves is a checkpoint like any other."""
    import lightning
    import torchmetrics
    from torchvision.datasets import ImageFolder

    pixels = pyconv.get_model_weights("pyconvresnet_tiny")["DEFAULT"].transforms()
    images = ImageFolder(Path(pyconv.__file__).parent / "data/sample/images", pixels)
    some = torch.utils.data.Subset(images, range(0, len(images), 4))

    class Learner(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build(num_classes=10)
            self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=10)
            self.losses: list[float] = []

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            self.accuracy(self.model(batch[0]), batch[1])
            self.log("accuracy", self.accuracy)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=2e-3)

    lightning.seed_everything(0)
    learner = Learner()
    trainer = lightning.Trainer(
        max_epochs=8,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader = torch.utils.data.DataLoader(some, 50, shuffle=True)
    trainer.fit(learner, loader, torch.utils.data.DataLoader(some, 50))
    assert sum(learner.losses[-5:]) < 0.7 * sum(learner.losses[:5])
    right = sum(
        int((learner.model.eval()(x).argmax(1) == y).sum())
        for x, y in torch.utils.data.DataLoader(some, 50)
    )
    assert float(trainer.callback_metrics["accuracy"]) == pytest.approx(right / len(some))
    assert right / len(some) > 0.3
    if build is not grey_control:
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        again = pyconv.pyconvresnet_tiny(weights=tmp_path / "last.ckpt")
        expected = learner.model.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())
