"""Pyramids to scale, the responses of their levels, effective receptive fields."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import nn

import pyconv
from pyconv import viz
from pyconv.viz.fields import side_with
from pyconv.viz.responses import level_responses, strongest

WEIGHTS = pyconv.PyConvResNetTiny_Weights.DEFAULT


@pytest.fixture(scope="module")
def tiny() -> pyconv.ResNet:
    return pyconv.pyconvresnet_tiny(weights=WEIGHTS)


def boxes(figure: Figure, gid: str) -> list[Rectangle]:
    patches = figure.axes[0].patches
    return [patch for patch in patches if patch.get_gid() == gid and isinstance(patch, Rectangle)]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_a_pyramid_is_drawn_to_scale() -> None:
    layer = pyconv.PyConv2d(64, (16, 8, 40), (3, 5, 9), (1, 4, 8))
    figure = viz.pyramid(layer, title="mine")
    (inputs,) = boxes(figure, "input")
    for number, (level, kernel) in enumerate(zip(layer.levels, (3, 5, 9), strict=True), 1):
        assert isinstance(level, nn.Conv2d)
        (output,), (strip,) = boxes(figure, f"output {number}"), boxes(figure, f"channels {number}")
        (seen,), (bar,) = boxes(figure, f"seen {number}"), boxes(figure, f"parameters {number}")
        (longest,) = boxes(figure, "parameters 3")
        assert len(boxes(figure, f"kernel {number}")) == kernel**2
        channels = level.out_channels / layer.in_channels
        assert output.get_height() / inputs.get_height() == pytest.approx(channels)
        assert seen.get_height() / strip.get_height() == pytest.approx(1 / level.groups)
        share = level.weight.numel() / 9**2 / 8 / 40
        assert bar.get_width() / longest.get_width() == pytest.approx(share)
    told = words(figure)
    for text in ("3×3", "5×5", "9×9", "1 group of 64 channels", "8 groups of 8 channels"):  # noqa: RUF001
        assert text in told
    total = sum(parameter.numel() for parameter in layer.parameters())
    assert f"{total:,} parameters; a plain convolution of these channels (3×3) has 36,864" in told  # noqa: RUF001
    assert figure.axes[0].get_title() == "mine"


def test_dilation_moves_the_pixels_apart_and_a_bias_counts() -> None:
    plain, dilated = (
        boxes(viz.pyramid(pyconv.PyConv2d(8, 8, (3, 5), None, dilation=d, bias=True)), "kernel 1")
        for d in (1, 3)
    )
    steps = [(squares[1].get_x() - squares[0].get_x()) for squares in (plain, dilated)]
    sides = [squares[0].get_width() for squares in (plain, dilated)]
    assert steps == pytest.approx([sides[0], 3 * sides[1]])
    layer = pyconv.PyConv2d(8, 8, (3, 5), None, bias=True)
    assert "has 584" in words(viz.pyramid(layer))  # 9 x 8 x 8 + 8


@pytest.mark.parametrize(
    ("layer", "squares"),
    [
        (pyconv.PyConv1d(8, 8, (3, 5), None), 3),
        (pyconv.PyConv3d(8, 8, (3, 5), None), 9),  # of a volume, one slice
        (nn.Conv2d(8, 8, (1, 7), groups=2), 7),
        (pyconv.pyconvresnet_tiny().layer4.get_submodule("0.conv1"), 9),  # a pyramid of one level
    ],
)
def test_other_dimensions_and_plain_convolutions(layer: nn.Module, squares: int) -> None:
    assert len(boxes(viz.pyramid(layer), "kernel 1")) == squares


def test_no_pyramid_is_an_error_that_names_one(tiny: pyconv.ResNet) -> None:
    with pytest.raises(ValueError, match=r"ResNet is no pyramid. .*get_submodule\('layer1.0.conv1"):
        viz.pyramid(tiny)
    with pytest.raises(ValueError, match=r"^A Linear is no pyramid\.$"):
        viz.pyramid(nn.Linear(2, 2))


@pytest.mark.skipif(not hasattr(pyconv, "optimize"), reason="pyconv.speed is not here")
def test_an_optimised_pyramid_sends_to_the_one_before() -> None:
    layer = pyconv.PyConv2d(8, 8, (3, 5), None).eval()
    with pytest.raises(ValueError, match="before optimize"):
        viz.pyramid(pyconv.optimize(layer, torch.zeros(1, 8, 8, 8)))


def test_responses_are_what_the_levels_give_in_the_network(tiny: pyconv.ResNet) -> None:
    model = copy.deepcopy(tiny).train()
    x = torch.randn(1, 28, 28)
    name, found = level_responses(model, x, "layer2.1.conv1")
    model.eval()
    with torch.no_grad():
        before = model.layer2[0](model.layer1(model.forward_stem(x[None])))
        layer = model.layer2.get_submodule("1.conv1")
        assert isinstance(layer, pyconv.PyConv2d)
        expected = [level(before)[0] for level in layer.levels]
    assert name == "layer2.1.conv1"
    assert [response.groups for response in found] == [1, 4, 8]
    for response, map_ in zip(found, expected, strict=True):
        assert torch.allclose(response.map, map_, atol=1e-5)
    ours = found[0]
    away = ours.map - ours.map.mean((1, 2))[:, None, None]
    assert torch.allclose(ours.strength, (away**2).mean(0) ** 0.5)
    assert strongest(ours, 2) == ours.map.flatten(1).std(1).argsort(descending=True)[:2].tolist()


def test_the_network_stays_as_it_was(tiny: pyconv.ResNet) -> None:
    model = copy.deepcopy(tiny).train()
    model.layer1.eval()  # as frozen stages are
    state = copy.deepcopy(model.state_dict())
    viz.responses(model, torch.rand(1, 28, 28))
    viz.receptive_field(model, stage=1, size=33, samples=1)
    viz.predictions(model, [torch.rand(1, 28, 28)])
    assert model.training and model.layer2[0].training
    assert not any(module.training for module in model.layer1.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_picture_of_responses_has_a_row_for_each_level(tiny: pyconv.ResNet) -> None:
    figure = viz.responses(
        tiny, torch.rand(1, 40, 60), "layer2.0.conv1", channels=2, title="trained on clothes"
    )
    photo, *panels = figure.axes
    assert len(panels) == 3 * 3
    assert [axes.get_ylabel() for axes in panels[::3]] == [
        "3×3\n1 group", "5×5\n4 groups", "7×7\n8 groups",  # noqa: RUF001
    ]  # fmt: skip
    assert panels[0].get_title() == "all 16 channels"
    assert figure.get_suptitle() == "trained on clothes, layer2.0.conv1"
    assert photo.images[0].get_array().shape == (40, 60)
    assert panels[0].images[0].get_array().shape == (10, 15)  # the map's


def test_images_come_as_paths_pictures_and_tensors(tmp_path: Path) -> None:
    image = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")
    image.save(tmp_path / "image.png")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    tensor = pixels.view(60, 90, 3).permute(2, 0, 1)
    layer = pyconv.PyConv2d(3, 8, (3, 5), None)
    pictures = (str(tmp_path / "image.png"), image, tensor, tensor / 255)
    shown = [
        torch.as_tensor(viz.responses(layer, picture, size=30).axes[1].images[0].get_array())
        for picture in pictures
    ]
    assert shown[0].shape == (30, 45)
    for other in shown[1:]:
        assert torch.allclose(shown[0], other, atol=0.02)


RESPONSES: dict[str, Callable[[pyconv.ResNet], object]] = {
    r"tensor \[3, 28, 28\] and the network takes \[1,": lambda m: viz.responses(
        m, torch.rand(3, 28, 28)
    ),
    "no module 'layer9'. Its pyramids: layer1.0.conv1, ": lambda m: viz.responses(
        m, torch.rand(1, 28, 28), "layer9"
    ),
    "Sequential is no pyramid": lambda m: viz.responses(m, torch.rand(1, 28, 28), "layer1"),
    "takes 32 channels, and an image has 1 or 3": lambda m: viz.responses(
        m.layer1.get_submodule("0.conv1"), torch.rand(1, 28, 28)
    ),
    "cannot be read: it is no image": lambda m: viz.responses(m, __file__),
    r"A list is no image.*Image.fromarray": lambda m: viz.responses(m, [[1]]),  # type: ignore[arg-type]
    "PyConv1d sees no images": lambda m: viz.responses(
        pyconv.PyConv1d(3, 4, (3, 5), None), torch.rand(3, 8, 8)
    ),
    "does not call 'spare'": lambda m: viz.responses(with_spare(m), torch.rand(1, 28, 28), "spare"),
    "stage=5 must be one of 1 to 4": lambda m: viz.receptive_field(m, stage=5),
    "no module 'layer9'. It begins with: conv1, ": lambda m: viz.receptive_field(m, stage="layer9"),
    r"'fc' gives no map .* but \[1, 10\]": lambda m: viz.receptive_field(
        m, stage="fc", size=29, samples=1
    ),
    "Conv2d has no stages": lambda m: viz.receptive_field(nn.Conv2d(3, 3, 3)),
    "2 networks and 1 names": lambda m: viz.receptive_field(m, m, names=["a"]),
    "at least one network": lambda m: viz.receptive_field(),
    "No pixel moves": lambda m: viz.receptive_field(silent(), stage="", size=9, samples=1),
}


def with_spare(model: pyconv.ResNet) -> pyconv.ResNet:
    model = copy.deepcopy(model)
    model.spare = pyconv.PyConv2d(8, 8, (3, 5), None)
    return model


def silent() -> nn.Module:
    layer = nn.Conv2d(1, 1, 3, padding=1)
    nn.init.zeros_(layer.weight)
    return layer


@pytest.mark.parametrize("message", RESPONSES)
def test_wrong_use_is_one_clear_error(message: str, tiny: pyconv.ResNet) -> None:
    with pytest.raises(ValueError, match=message):
        RESPONSES[message](tiny)


def ones(layers: int) -> nn.Sequential:
    body = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(layers)))
    for weight in body.parameters():
        nn.init.ones_(weight)
    return body


def test_the_field_of_a_linear_network_is_its_kernel() -> None:
    once = viz.effective_receptive_field(ones(1), "0", size=9, samples=2)
    expected = torch.zeros(9, 9)
    expected[3:6, 3:6] = 1 / 9
    assert torch.allclose(once, expected)
    twice = viz.effective_receptive_field(ones(2), "1", size=9, samples=2)
    line = torch.tensor([0, 0, 1, 2, 3, 2, 1, 0, 0]) / 9
    assert torch.allclose(twice, line[:, None] * line)
    assert [side_with(twice, share) for share in (0.1, 0.5, 0.95)] == [1, 3, 5]


def test_larger_kernels_see_farther() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)))
    pyramids = nn.Sequential(*(pyconv.PyConv2d(16, 16, (3, 5, 7, 9), None) for _ in range(3)))
    sides = [
        side_with(viz.effective_receptive_field(body, "2", size=33, samples=4), 0.95)
        for body in (plain, pyramids)
    ]
    assert sides[0] <= 7 < sides[1] <= 25


def test_fields_stand_side_by_side() -> None:
    networks = pyconv.resnet18(), pyconv.pyconvresnet18()
    fields = [viz.effective_receptive_field(m, 1, size=129, samples=2) for m in networks]
    assert [float(field.sum()) for field in fields] == pytest.approx([1, 1])
    figure = viz.receptive_field(*networks, stage=1, size=129, samples=2, title="untrained")
    assert [axes.get_title() for axes in figure.axes] == ["ResNet-18", "PyConvResNet-18"]
    for axes, field in zip(figure.axes, fields, strict=True):
        sides = [side_with(field, share) for share in (0.5, 0.95)]
        assert axes.get_xlabel() == f"50 % within {sides[0]} px, 95 % within {sides[1]} px"
        assert [square.get_width() for square in axes.patches] == sides
    assert "2 random images of 129×129 pixels" in figure.get_suptitle()  # noqa: RUF001


def test_networks_of_other_libraries_have_fields_too() -> None:
    from torchvision.models import resnet18

    field = viz.effective_receptive_field(resnet18().eval(), "layer1", size=65, samples=1)
    assert 10 < side_with(field, 0.95) < 65
