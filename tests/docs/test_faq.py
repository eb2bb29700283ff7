"""The messages that the FAQ quotes are those of the library, word for word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyconv

PACKAGE = Path(pyconv.__file__).parent
FAQ = Path(__file__).parents[2] / "docs/faq.md"
BLOCKS = re.findall(r"^```text\n(.*?)\n?^```", FAQ.read_text("utf-8"), re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?<![:/\w.-])[~/]\S+/\S*\w|\b[\w-]+\.(pth|pt|onnx)\b")
ANYTHING = ".+?"
LEAST = 6  # letters that a text of the source has to have to prove anything

pytestmark = pytest.mark.skipif(not hasattr(pyconv, "speed"), reason="it quotes pyconv.speed too")


def patterns() -> Iterator[re.Pattern[str]]:
    """The texts of the source; what is filled in may be anything."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.JoinedStr, ast.Constant)):
                pattern = "".join(map(_pattern, getattr(node, "values", [node])))
                if len(re.findall(r"\w", pattern.replace(ANYTHING, ""))) >= LEAST:
                    yield re.compile(pattern)


def _pattern(part: ast.expr) -> str:
    """What a part of an f-string matches."""
    value = getattr(part, "value", None)
    return re.escape(value).replace("%s", ANYTHING) if isinstance(value, str) else ANYTHING


def uncovered(message: str, texts: list[re.Pattern[str]]) -> str:
    """The message with dots for what is the library's, or is filled into the library's."""
    rest = list(message)
    for text in texts:
        for match in text.finditer(message):
            rest[match.start() : match.end()] = "." * (match.end() - match.start())
    return "".join(rest)


@pytest.fixture(scope="module")
def texts() -> list[re.Pattern[str]]:
    return list(patterns())


@pytest.mark.parametrize("message", BLOCKS)
def test_a_quoted_message_is_still_what_the_library_says(
    message: str, texts: list[re.Pattern[str]]
) -> None:
    rest = uncovered(FILE.sub("X", message), texts)
    assert not re.search(r"\w{3}", rest), rest


@pytest.mark.parametrize(
    ("said", "changed"),
    [("a day later often does", "a week later often does"), ("Install one, or", "Install it, or")],
)
def test_a_changed_word_is_found(said: str, changed: str, texts: list[re.Pattern[str]]) -> None:
    (message,) = (block for block in BLOCKS if said in block)
    assert re.search(r"\w{3}", uncovered(message.replace(said, changed), texts))


def test_the_faq_quotes_messages() -> None:
    assert len(BLOCKS) > 25
