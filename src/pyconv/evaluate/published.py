"""Every published set on the same images: what is there, and the authors' claims beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..models.registry import REGISTRY, list_models

__all__ = ["Plan", "plan", "report", "table"]

Result = Mapping[str, Any]

COLUMNS = ("weights", "crop", "images", "top-1, %", "claimed", "difference", "95 %", "within")
CLAIM = (
    "claimed: by the authors, for all 50,000 images of ImageNet's validation set. difference: of "
    "this run to the claim, in points, and where 95 % of such runs on so many images would lie."
)


class Plan(NamedTuple):
    """What there is to evaluate; sets by their names, which every process knows."""

    runs: tuple[tuple[str, int], ...]  # a set in the cache, and a crop that is claimed for it
    left_out: tuple[str, ...]  # sets that are not in the cache


def plan(pattern: str | None) -> Plan:
    """The published sets of the networks that match a pattern, in the order of the rows.

    Raises:
        ValueError: if there is none, or none is in the cache.
    """
    wanted = {*list_models(pattern or "*")}
    enums = [network.weights for name, network in REGISTRY.items() if name in wanted]
    known = [weights for enum in enums if enum is not None for weights in enum if weights.file_id]
    if not known:
        raise ValueError(
            f"--model {pattern}: no network of this pattern has published weights. See "
            "'pyconv-weights list'."
        )
    here = [weights for weights in known if weights.path.is_file()]
    left_out = tuple(str(weights) for weights in known if weights not in here)
    if not here:
        raise ValueError(f"No published weights are in the cache. Get them: {_cure(left_out)}")
    return Plan(tuple((str(w), crop) for w in here for crop, _ in w.value.top1), left_out)


def _cure(left_out: Sequence[str]) -> str:
    few = len(left_out) < 4
    return f"pyconv-weights download {' '.join(left_out) if few else '--all'}"


def report(
    data: str,
    results: Sequence[Result],
    plan: Plan,
    failed: Mapping[str, str],
    partial: bool,
) -> dict[str, Any]:
    """All of it, ready for JSON.

    Args:
        data: The images.
        results: Those of the evaluations, as ``--json`` writes one.
        plan: What there was to evaluate.
        failed: Sets that could not be evaluated, and why.
        partial: Whether it was stopped before the end.
    """
    return {
        "data": data,
        "partial": partial,
        "runs": len(plan.runs),
        "results": list(results),
        "left_out": {name: f"pyconv-weights download {name}" for name in plan.left_out},
        "failed": dict(failed),
    }


def table(found: Result) -> str:
    """The report as people read it, in Markdown."""
    rows = [COLUMNS, *map(_row, found["results"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join([*(f"| {line} |" for line in lines), "", *_remarks(found)])


def _row(result: Result) -> tuple[str, ...]:
    claim = result["published"]
    low, high = (end - claim["top1"] for end in claim["interval"])
    return (
        result["weights"],
        str(claim["crop"]),
        f"{result['images']:,}" + " (partial)" * result["partial"],
        f"{result['top1']:.2f}",
        f"{claim['top1']:.2f}",
        f"{claim['difference']:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        "yes" if low <= 0 <= high else "no",
    )


def _remarks(found: Result) -> list[str]:
    lines = [CLAIM]
    if found["partial"]:
        lines.append(f"Partial: {len(found['results'])} of {found['runs']} runs were begun.")
    if found["left_out"]:
        names = [*found["left_out"]]
        lines.append(f"Left out, not in the cache: {', '.join(names)}. Get them: `{_cure(names)}`")
    unreadable = max((len(result["unreadable"]) for result in found["results"]), default=0)
    if unreadable:
        lines.append(f"Not counted, as unreadable: {unreadable:,} images.")
    lines += [f"Failed: {name}: {reason}" for name, reason in found["failed"].items()]
    return lines
