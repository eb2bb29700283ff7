"""ImageNet's tables, against those that independent packages carry."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pyconv.data import imagenet

DATA = Path(__file__).parent.with_name("goldens")
SOURCES = json.loads((DATA / "imagenet_sources.json").read_text("utf-8"))


def digest(values: Iterable[object]) -> str:
    return hashlib.sha256("".join(f"{value}\n" for value in values).encode()).hexdigest()


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source['package']}")
def test_the_tables_are_those_of_two_independent_packages(source: dict[str, Any]) -> None:
    ours = {"labels": imagenet.val_labels(), "synsets": imagenet.synsets()}[source["table"]]
    assert len(ours) == source["entries"]
    assert list(ours[:40]) == source["first"]
    assert digest(ours) == source["sha256"]


def test_two_packages_stand_behind_each_table() -> None:
    tables = Counter(source["table"] for source in SOURCES)
    assert tables == {"labels": 2, "synsets": 2}


def test_there_are_fifty_validation_images_of_each_class() -> None:
    assert Counter(imagenet.val_labels()) == dict.fromkeys(range(1000), 50)
    assert list(imagenet.synsets()) == sorted(imagenet.synsets())
