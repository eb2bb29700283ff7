"""The result of an evaluation, beside others and as people read it: table, hint, CSV, ...

What people read comes from one dictionary, the one that ``--json`` writes.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..weights.rows import WeightsEnum
from .evaluation import Metrics

__all__ = [
    "agrees",
    "append_csv",
    "check_csv",
    "class_rows",
    "compare",
    "hint",
    "predictions_csv",
    "published",
    "shortened",
    "table",
]

Result = Mapping[str, Any]

Z = 1.96  # of a confidence of 95 %
FEW = 30  # images that say little
LINES = 10  # kinds of files left out that are told on the screen

# The columns of --csv: where each stands in the result.
COLUMNS = (
    "date", "model", "weights", "sha256", "trust", "data", "images", "unreadable", "top1", "top5",
    "loss", "partial", "crop", "resize", "decoder", "device", "dtype", "optimize", "compile",
    "images_per_second", "subset_classes", "subset_top1", "subset_top5", "pyconv", "torch",
)  # fmt: skip


def agrees(record: dict[str, Any], metrics: Metrics) -> bool:
    """Whether the counts are those on record, but for one image in a thousand.

    Processors add up in different orders, so an image on the border of two classes may fall to
    either side; a wrong file, label or preprocessing moves many.
    """
    slack = metrics.images // 1000
    counts = ((record["correct1"], metrics.correct1), (record["correct5"], metrics.correct5))
    return metrics.images == int(record["images"]) and all(abs(a - b) <= slack for a, b in counts)


def published(metrics: Metrics, weights: WeightsEnum | Path, crop: int) -> dict[str, Any] | None:
    """The authors' figure beside this one, where they gave one for these pixels."""
    if not isinstance(weights, WeightsEnum) or weights.file_id is None:
        return None
    claimed = weights.meta["acc@1 by crop"].get(crop)
    return None if claimed is None else compare(metrics.top1, metrics.images, claimed, crop)


def compare(top1: float, images: int, claimed: float, crop: int) -> dict[str, Any]:
    """A measured accuracy beside the published one, all in percent.

    The interval is Wilson's: an accuracy that lies outside of it would give what was measured on so
    many images less than once in 20 times. It has a width at 0 and 100 % as well.
    """
    share, spread = top1 / 100, Z**2 / images
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return {
        "top1": claimed,
        "crop": crop,
        "claimed_by": "the authors",
        "difference": top1 - claimed,
        "interval": [100 * (centre - half), 100 * (centre + half)],
    }


def table(result: Result) -> str:
    """The rows on stdout."""
    sizes, published, subset = result["preprocessing"], result["published"], result.get("subset")
    on_record, unreadable = result.get("on_record"), result["unreadable"]
    loss = "not a number" if result["loss"] is None else f"{result['loss']:.4f}"
    rows = [
        ("model", result["model"]),
        ("weights", result["weights"]),
        ("images", f"{result['images']:,}" + ", a partial result" * result["partial"]),
        ("pixels", f"resize {sizes['resize']}, crop {sizes['crop']}, {sizes['decoder']} decoder"),
        ("top-1", f"{result['top1']:.2f} %"),
        ("top-5", f"{result['top5']:.2f} %"),
        ("loss", loss),
        ("speed", f"{result['images_per_second']:,.0f} images/s"),
    ]
    if subset is not None:
        both = f"top-1 {subset['top1']:.2f} %, top-5 {subset['top5']:.2f} %"
        rows.append(
            ("subset", f"{both}, comparing the {subset['classes']:,} classes of the images")
        )
    if unreadable:
        rows.append(("unreadable", f"{len(unreadable):,} images, not counted above"))
    if on_record is not None:
        verdict = "agrees" if result["agrees"] else "DIFFERS"
        rows.append(("on record", f"top-1 {on_record['top1']:.2f} %: {verdict}"))
    if published is not None:
        claim = f"top-1 {published['top1']:.2f} % (the authors' claim for all 50,000 images)"
        rows.append(("published", claim))
        low, high = (end - published["top1"] for end in published["interval"])
        difference = f"{published['difference']:+.2f} points (95 %: {low:+.2f} to {high:+.2f})"
        rows.append(("difference", difference))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def hint(result: Result) -> str | None:
    """What to look at where a result can hardly be what the user wanted."""
    images, classes, subset = result["images"], len(result["per_class"]), result.get("subset")
    if errors := result.get("system_errors"):
        return (
            f"Images that the system did not read: {len(errors):,}; the result is that of the "
            f"others. Run it again when it reads them. The first: {errors[0]}"
        )
    if result["loss"] is None:
        return (
            "The loss is not a number: the network computes infinities. Try --dtype bfloat16 or "
            "float32; if it stays, look at the weights."
        )
    present = result.get("present_classes", classes)
    if subset is None and images >= FEW and 1 < present < classes / 2:
        return (
            f"The images are of {present:,} of the network's {classes:,} classes, and all outputs "
            "were compared. What is published for such sets, as for ImageNet-A and -R, compares "
            "only those of these classes: --subset-classes."
        )
    counts = result if subset is None else subset
    classes = classes if subset is None else subset["classes"]
    chance = 1 / classes
    near = chance + 2 * math.sqrt(chance * (1 - chance) / images)
    if images < FEW or classes < 2 or counts["correct1"] / images > near:
        return None
    even = math.log(classes)
    if counts["loss"] < 1.05 * even:
        return (
            f"The accuracy is near chance and the loss near that of guessing ({even:.2f}): the "
            "weights look untrained. Is this the checkpoint you meant?"
        )
    return (
        f"The accuracy is near chance and the loss above that of guessing ({even:.2f}): the labels "
        "look to be in another order than the model's classes, or the weights to be untrained."
    )


def shortened(lines: Sequence[str]) -> list[str]:
    """The lines, or the first of many and how many more there are."""
    more = len(lines) - LINES
    return [*lines[:LINES], *([f"... and {more:,} more such lines in --json"] * (more > 0))]


def check_csv(path: Path) -> None:
    """Prove, before hours of work, that a row can be appended.

    Raises:
        ValueError: if the file has other columns.
    """
    if path.exists() and path.stat().st_size:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            if tuple(next(csv.reader(file), ())) != COLUMNS:
                raise ValueError(
                    f"{path} has other columns than this version writes. Give a new file."
                )


def append_csv(path: Path, result: Result) -> None:
    """Add the result as one row, and the names of the columns where the file is new."""
    nested = (result["preprocessing"], result["versions"], result["weights_file"])
    flat = dict(result) | {key: value for part in nested for key, value in part.items()}
    flat["unreadable"] = len(result["unreadable"])
    flat |= {f"subset_{key}": value for key, value in (result["subset"] or {}).items()}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    existing = path.is_file() and path.stat().st_size > 0
    if not existing:
        writer.writeheader()
    elif not path.read_bytes().endswith(b"\n"):  # as an editor or a full disk left it
        text.write("\r\n")
    writer.writerow(flat)
    with path.open("ab") as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))


def predictions_csv(
    samples: Sequence[tuple[Path, int]],
    predictions: Sequence[tuple[int, tuple[int, ...]]],
    classes: Sequence[str],
) -> str:
    """One line per image: its path, its class, and the classes found most likely, best first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    width = len(predictions[0][1]) if predictions else 0
    writer.writerow(["path", "label", *(f"top{rank}" for rank in range(1, width + 1))])
    for index, best in predictions:
        path, label = samples[index]
        writer.writerow([path, classes[label], *(classes[position] for position in best)])
    return text.getvalue()


def class_rows(per_class: Sequence[tuple[int, int, int]], classes: Sequence[str]) -> dict[str, Any]:
    """The counts of each class under its name."""
    keys = ("images", "correct1", "correct5")
    return {
        name: dict(zip(keys, counts, strict=True))
        for name, counts in zip(classes, per_class, strict=True)
    }
