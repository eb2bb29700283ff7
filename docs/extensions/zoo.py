"""Directives that follow the rows: ``zoo TASK``, a table, and ``published-weights``."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch.utils.flop_counter import FlopCounterMode

import pyconv
from pyconv import SegmentationWeights, WeightsEnum, get_model_weights

COSTS = {
    "classification": ("params, M", "GMACs", "ms"),
    "segmentation": ("params, M", "GMACs"),
}
CLAIMS = {
    "classification": ("top-1, %", "at 320, %"),
    "segmentation": ("mean IoU, %", "pixels, %"),
}
WORDS = {"network", "weights", "trust"}  # columns set to the left; the others hold numbers
# benchmarks/speed.py --zoo --mode inference --batch 1 --json docs/latency.json
LATENCY = json.loads((Path(__file__).parents[1] / "latency.json").read_text("utf-8"))["tables"]
ENUMS = [
    thing
    for name in pyconv.__all__
    if isinstance(thing := getattr(pyconv, name), type)
    and issubclass(thing, WeightsEnum)
    and len(thing)
]


def networks(task: str) -> list[str]:
    """The names of the networks of a task: by family, plain ones first, and by size."""
    names = pyconv.list_models(task=task)
    return sorted(names, key=lambda name: (len(name.rstrip("0123456789")), cost(name)))


def side(name: str) -> int:
    """The pixels of the images that a network was made for."""
    return 28 if name == "pyconvresnet_tiny" else 473 if "segnet" in name else 224


def cost(name: str) -> tuple[float, float]:
    """Parameters in 1e6, and multiply-adds in 1e9 for one image."""
    pixels = side(name)
    with torch.device("meta"), pyconv.speed.disabled(), FlopCounterMode(display=False) as counter:
        model = pyconv.get_model(name).eval()
        model(torch.empty(1, 1 if pixels == 28 else 3, pixels, pixels))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters / 1e6, counter.get_total_flops() / 2e9


def latency(name: str) -> str:
    """Milliseconds that the optimised network took for one image, where that was measured."""
    measured = LATENCY.get(f"{name}, inference, batch 1, {side(name)}x{side(name)}")
    return f"{measured['optimize channels_last float32']['ms']:.3g}" if measured else ""


def claims(weights: WeightsEnum) -> tuple[str, ...]:
    """What the authors claim, for the columns of the task."""
    if isinstance(weights, SegmentationWeights):
        return tuple(f"{value:.2f}" for _, value in weights.value.metrics)
    by_crop = dict(weights.value.top1)
    first, large = next(iter(by_crop.values())), by_crop.get(320)
    return f"{first:.2f}", "" if large is None else f"{large:.2f}"


def link(weights: WeightsEnum) -> str:
    """The weights, and where their file is."""
    drive = f"https://drive.google.com/file/d/{weights.file_id}/view"
    return weights.name if weights.file_id is None else f"[{weights.name}]({drive})"


def trust(weights: WeightsEnum) -> str:
    if weights.file_id is None:
        return "in package"
    return "not pinned" if weights.sha256 is None else "pinned"


def rows(task: str) -> Iterator[tuple[str, ...]]:
    for name in networks(task):
        parameters, gmacs = cost(name)
        row = [f"`{name}`", f"{parameters:.1f}", f"{gmacs:.2f}"]
        row += [latency(name)] if "ms" in COSTS[task] else []
        try:
            published = list(get_model_weights(name))
        except ValueError:  # none are
            yield *row, "", "", "", "", ""
            continue
        for weights in published:
            size = f"{weights.value.file_size / 1e6:.1f}"
            yield *row, link(weights), size, *claims(weights), trust(weights)


def table(task: str) -> list[str]:
    head = ("network", *COSTS[task], "weights", "MB", *CLAIMS[task], "trust")
    rule = tuple("---" if column in WORDS else "---:" for column in head)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows(task))]


class Zoo(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        page = nodes.Element()
        self.state.nested_parse(table(self.arguments[0]), self.content_offset, page)
        for found in page.findall(nodes.table):
            found["classes"].append("sortable")
        return page.children


def members(enum: type[WeightsEnum]) -> Iterator[str]:
    """The members of an enum in reStructuredText, each with what is claimed of it."""
    yield from (f".. py:class:: pyconv.{enum.__name__}", "", f"   {enum.__doc__}", "")
    for name, weights in enum.__members__.items():
        row = weights.value
        claimed = [f"top-1 {top1:.2f} % at crop {crop}" for crop, top1 in row.top1]
        claimed += [f"{metric} {value:.2f} %" for metric, value in row.metrics]
        told = f"{row.recipe}; {', '.join(claimed)}."
        told = told if name == weights.name else f"``{weights.name}``."
        yield from (f"   .. py:attribute:: {name}", "", f"      {told}", "")


class PublishedWeights(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        page = nodes.Element()
        lines = [line for enum in ENUMS for line in members(enum)]
        self.state.nested_parse(StringList(lines, "rows"), self.content_offset, page)
        return page.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("zoo", Zoo)
    app.add_directive("published-weights", PublishedWeights)
    return {"parallel_read_safe": True}
