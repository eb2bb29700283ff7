"""From a folder of one's own photographs to a model that names others: four commands, no guess.

The first of the four is ``pip install``, which tests/test_readme.py runs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from train_fixtures import start

from pyconv.weights.rows import sample_file

COMMANDS = {
    "pyconv-train": "pyconv.train",
    "pyconv-eval": "pyconv.evaluate",
    "pyconv-predict": "pyconv.predict",
}
NAMES = {"1-trouser": "my trousers", "8-bag": "my bags", "9-ankle-boot": "my boots"}


def run(command: str, folder: Path) -> str:
    """A command in a process of its own, as it is typed; what it prints."""
    name, *words = command.split()
    process = start(COMMANDS[name], *words, cwd=folder)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return str(out)


def test_train_evaluate_predict(tmp_path: Path) -> None:
    for source, name in NAMES.items():
        files = sorted((sample_file("images") / source).iterdir())
        parts = {"photos/train": files[:24], "photos/val": files[24:32], "new": files[32:36]}
        for part, photos in parts.items():
            for photo in photos:
                place = tmp_path / part / name / photo.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(photo, place)
    run(
        "pyconv-train photos --model pyconvresnet_tiny --weights DEFAULT --output run "
        "--epochs 3 --batch-size 24 --lr 0.02 --workers 0 --device cpu",
        tmp_path,
    )
    run("pyconv-eval photos/val --checkpoint run/best.pt --json eval.json", tmp_path)
    table = run("pyconv-predict new --checkpoint run/best.pt --json predict.json", tmp_path)

    summary = json.loads((tmp_path / "run/summary.json").read_text("utf-8"))
    evaluation = json.loads((tmp_path / "eval.json").read_text("utf-8"))
    prediction = json.loads((tmp_path / "predict.json").read_text("utf-8"))
    assert evaluation["model"] == prediction["model"] == "pyconvresnet_tiny"
    assert [*evaluation["per_class"]] == sorted(NAMES.values())
    assert evaluation["images"] == 24
    assert evaluation["top1"] == pytest.approx(summary["best_top1"])
    answers = {each["path"]: each["classes"][0]["name"] for each in prediction["predictions"]}
    assert len(answers) == 12
    right = sum(Path(path).parent.name == name for path, name in answers.items())
    assert right >= 10, answers
    assert all(f"%  {name}" in table for name in NAMES.values())
