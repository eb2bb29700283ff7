"""Results of the command: what is written as JSON, and what people read of it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import ade20k
from ..system import commands, devices
from ..system.files import write_result
from ..weights.rows import WeightsEnum, provenance
from .counts import PixelMetrics
from .job import Job

__all__ = ["colors", "evaluation", "facts", "line", "table", "targets", "write"]

Result = Mapping[str, Any]

FIRST = 4  # classes that are told of a photograph
ALL = 2000  # images of ADE20K for validation
VALIDATION = "ADE20K-val"


def facts(job: Job) -> dict[str, Any]:
    """What was asked for, ready for JSON."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": job.name,
        "weights": str(job.weights),
        "weights_file": provenance(job.weights),
        "procedure": job.options | {"scales": list(job.options["scales"])},
        "device": devices.describe(job.device),
        "dtype": str(job.dtype).removeprefix("torch."),
        "optimize": job.optimize,
        "versions": devices.versions(),
    }


def targets(photos: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Where the picture of each photograph goes.

    Raises:
        ValueError: if two would go to one place.
    """
    places: dict[Path, Path] = {}
    for photo in photos:
        target = output / f"{photo.stem}-segmented.png"
        other = next((known for known, place in places.items() if place == target), None)
        if other is not None:
            raise ValueError(
                f"{other} and {photo} would both become {target}. Segment them into two folders."
            )
        places[photo] = target
    return places


def colors(count: int) -> list[tuple[int, int, int]]:
    """A colour for each class: ADE20K's, again and again."""
    palette = ade20k.colors()
    return [palette[n % len(palette)] for n in range(count)]


def line(photo: Path, seen: Mapping[str, Mapping[str, Any]]) -> str:
    """What is seen in a photograph, the largest first."""
    few = [f"{name} {found['share']:.1f} %" for name, found in seen.items()]
    more = f", {len(few) - FIRST} more" if len(few) > FIRST else ""
    return f"{photo}  {', '.join(few[:FIRST])}{more}"


def evaluation(job: Job, metrics: PixelMetrics, processes: int) -> dict[str, Any]:
    """All there is to know of a finished evaluation, ready for JSON."""
    assert job.data is not None
    rows = zip(job.names, metrics.iou, metrics.per_class, strict=True)
    return {
        **facts(job),
        "finding": job.data.finding,
        **metrics.as_dict(),
        "left_out": list(job.data.left_out),
        "published": _published(job),
        "processes": processes,
        "per_class": {
            name: {"iou": iou, "right": right, "found": found, "labelled": labelled}
            for name, iou, (right, found, labelled) in rows
        },
    }


def _published(job: Job) -> dict[str, Any] | None:
    """The authors' figures, where they are for these classes."""
    if not isinstance(job.weights, WeightsEnum) or job.names != ade20k.class_names():
        return None
    row = job.weights.value
    return {**dict(row.metrics), "dataset": row.dataset, "claimed_by": "the authors"}


def table(result: Result) -> str:
    """The rows on stdout."""
    how, published, unreadable = result["procedure"], result["published"], result["unreadable"]
    scales = ", ".join(f"{scale:g}" for scale in how["scales"])
    mirrored = ", mirrored as well" if how["mirror"] else ""
    classes = len(result["per_class"])
    rows = [
        ("model", result["model"]),
        ("weights", result["weights"]),
        ("images", f"{result['images']:,}" + ", a partial result" * result["partial"]),
        ("scales", f"{scales}{mirrored}"),
        ("mean IoU", f"{result['mean_iou']:.2f} %, of all {classes} classes"),
        ("pixels", f"{result['pixel_accuracy']:.2f} % right"),
        ("speed", f"{result['images_per_second']:,.2f} images/s"),
    ]
    if result["present_classes"] < classes:
        present = f"{result['mean_iou_present']:.2f} %, of the {result['present_classes']} classes"
        rows.insert(5, ("", f"{present} that are labelled"))
    if unreadable:
        rows.append(("not counted", f"{len(unreadable):,} images; the first: {unreadable[0]}"))
    if published is not None:
        what = f"mean IoU {published['miou']:.2f} %, pixels {published['pixel_acc']:.2f} %"
        images = f"all {ALL:,} images" if published["dataset"] == VALIDATION else "the test images"
        rows.append(("published", f"{what} (the authors' claim for {images}, six scales)"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if published is not None and published["dataset"] != VALIDATION:
        lines.append("These weights were trained on the images for validation as well.")
    return "\n".join(lines)


def write(result: Result, path: Path | None) -> None:
    """Write and print a result; where the file cannot be written, it is printed all the same."""
    commands.deliver(table(result), (path, lambda path: write_result(path, result)))
