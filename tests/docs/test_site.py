"""The site builds without a warning, links lead somewhere, and every public name is in it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import pyconv
from pyconv import WeightsEnum
from pyconv.architectures import ARCHITECTURES

pytestmark = pytest.mark.docs

PACKAGE = Path(pyconv.__file__).parent
INNER = {"system", "models"}  # nobody outside imports from there


class Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors |= {values.get("id") or "", values.get("name") or ""}
        self.links += [link for key in ("href", "src") if (link := values.get(key))]


def test_every_link_and_anchor_is_there(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) > 30
    wrong = []
    for page, found in pages.items():
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchors = pages[target].anchors if target in pages else {""}
            if not target.exists() or unquote(parts.fragment) not in anchors:
                wrong.append(f"{page.relative_to(site)}: {link}")
    assert not wrong


def rooms() -> Iterator[str]:
    """The packages and integrations that say what of them is public."""
    yield "pyconv"
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names = {ast.unparse(n.targets[0]) for n in ast.parse(path.read_text("utf-8")).body
                 if isinstance(n, ast.Assign)}  # fmt: skip
        is_room = path.stem == "__init__" or parts[0] == "integrations"
        if is_room and parts[0] not in INNER and len(parts) > 1 and "__all__" in names:
            yield ".".join(["pyconv", *parts]).removesuffix(".__init__")


def documented(site: Path) -> set[str]:
    """The names that other projects can link to."""
    lines = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = zlib.decompress(lines).decode().splitlines()
    return {entry.split()[0] for entry in entries if entry.split()[1].startswith("py:")}


def public() -> Iterator[tuple[str, object]]:
    for room in rooms():
        module = importlib.import_module(room)
        for name in set(module.__all__) & set(dir(module)):  # timm looks for some names only
            thing = getattr(module, name)
            if getattr(thing, "__module__", "").startswith("pyconv"):  # not an alias of a type
                yield f"{room}.{name}", thing


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """Under its own name, or another public one of the same thing."""
    known = documented(site)
    there = {id(thing) for name, thing in public() if name in known}
    missing = [name for name, thing in public() if id(thing) not in there]
    assert not missing, f"add to a page of docs/reference: {missing}"


def test_factories_have_their_signatures(site: Path) -> None:
    page = (site / "reference/networks.html").read_text("utf-8")
    for name in ARCHITECTURES:
        signature = page.partition(f'id="pyconv.{name}"')[2].partition("</dt>")[0]
        assert all(option in signature for option in signature_of(name)), name


def signature_of(name: str) -> list[str]:
    return list(inspect.signature(getattr(pyconv, name)).parameters)


def test_recipes_say_what_their_fields_mean(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "reference/train.html").read_text("utf-8"))
    assert "Passes over the training images" in page


def test_the_zoo_is_the_rows(site: Path) -> None:
    page = (site / "models.html").read_text("utf-8")
    enums = [thing for _, thing in public() if isinstance(thing, type(WeightsEnum))]
    for weights in (weights for enum in enums for weights in enum):
        claims = [f"{value:.2f}" for _, value in (*weights.value.top1, *weights.value.metrics)]
        for text in (weights.file_id or weights.value.model, *claims):
            assert text in page
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
    assert sum(">resnet18<" in cell for cell in cells) == 1
