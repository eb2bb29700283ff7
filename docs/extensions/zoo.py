"""Directives that follow the rows: ``zoo``, a table of all networks, and ``published-weights``."""

from collections.abc import Iterator

import torch
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch.utils.flop_counter import FlopCounterMode

import pyconv
from pyconv import WeightsEnum, get_model_weights
from pyconv.architectures import ARCHITECTURES
from pyconv.weights.rows import ENUMS

HEAD = ("network", "params, M", "GMACs", "weights", "MB", "top-1, %", "at 320, %", "trust")
RIGHT = {1, 2, 4, 5, 6}  # the columns of numbers


def cost(name: str) -> tuple[float, float]:
    """Parameters in 1e6, and multiply-adds in 1e9 for one image of the size it was made for."""
    size, channels = (28, 1) if name == "pyconvresnet_tiny" else (224, 3)
    with torch.device("meta"), pyconv.speed.disabled(), FlopCounterMode(display=False) as counter:
        model = pyconv.get_model(name).eval()
        model(torch.empty(1, channels, size, size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters / 1e6, counter.get_total_flops() / 2e9


def rows() -> Iterator[tuple[str, ...]]:
    for name in ARCHITECTURES:
        parameters, gmacs = cost(name)
        row = f"`{name}`", f"{parameters:.1f}", f"{gmacs:.2f}"
        try:
            published = list(get_model_weights(name))
        except ValueError:  # none are
            yield *row, "", "", "", "", ""
            continue
        for weights in published:
            top1 = dict(weights.value.top1)
            claims = f"{next(iter(top1.values())):.2f}", f"{top1[320]:.2f}" if 320 in top1 else ""
            yield (
                *row,
                link(weights),
                f"{weights.value.file_size / 1e6:.1f}",
                *claims,
                trust(weights),
            )


def link(weights: WeightsEnum) -> str:
    """The weights, and where their file is."""
    drive = f"https://drive.google.com/file/d/{weights.file_id}/view"
    return weights.name if weights.file_id is None else f"[{weights.name}]({drive})"


def trust(weights: WeightsEnum) -> str:
    if weights.file_id is None:
        return "in the package"
    return "not pinned" if weights.sha256 is None else "pinned"


def table() -> str:
    rule = ("---:" if column in RIGHT else "---" for column in range(len(HEAD)))
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, tuple(rule), *rows()))


class Zoo(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        page = nodes.Element()
        lines = table().splitlines()
        self.state.nested_parse(lines, self.content_offset, page)
        for found in page.findall(nodes.table):
            found["classes"].append("sortable")
        return page.children


def members(enum: type[WeightsEnum]) -> Iterator[str]:
    """The members of an enum in reStructuredText, each with what is claimed of it."""
    yield from (f".. py:class:: pyconv.{enum.__name__}", "", f"   {enum.__doc__}", "")
    for name, weights in enum.__members__.items():
        row = weights.value
        claims = " and ".join(f"{top1:.2f} % at crop {crop}" for crop, top1 in row.top1)
        told = f"``{weights.name}``." if name != weights.name else f"{row.recipe}; top-1 {claims}."
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
