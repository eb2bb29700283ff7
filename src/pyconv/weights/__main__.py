"""The command ``pyconv-weights``: see, download, verify and pin the published weights."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ..architectures import ARCHITECTURES
from ..system import commands
from ..system.files import require_writable, write_result
from .drive import DownloadError, Record
from .names import nearest
from .rows import ENUMS, WeightsEnum
from .segmentation import SEGMENTATION_ENUMS

__all__ = ["main"]

CLAIMS = ("top1_claimed", "miou_claimed")
PINS = Path(__file__).with_name("pins.json")


def find_weights(names: Sequence[str]) -> list[WeightsEnum]:
    """The published sets that names mean: a network means all of its sets.

    Raises:
        ValueError: if a name is unknown; it suggests the nearest.
    """
    known: dict[str, list[WeightsEnum]] = {}
    for weights in _on_drive():
        for name in (weights.value.model, str(weights), weights.filename.removesuffix(".pth")):
            known.setdefault(name, []).append(weights)
    found: dict[WeightsEnum, None] = {}
    for name in names:
        if name not in known:
            raise ValueError(_unknown(name, known))
        found |= dict.fromkeys(known[name])
    return list(found)


def _unknown(name: str, known: Collection[str]) -> str:
    """Why nothing can be downloaded under a name."""
    packed = [weights for enum in ENUMS for weights in enum if weights.file_id is None]
    if name in {given for weights in packed for given in (weights.value.model, str(weights))}:
        return f"There is nothing to download for {name!r}: its weights are in the package."
    if name.removeprefix("pyconvsegnet_") in ARCHITECTURES:
        return f"There are no weights of {name!r} to download: none were published."
    cure = nearest(name, known, otherwise="See 'pyconv-weights list'.")
    return f"There are no downloadable weights named {name!r}.{cure}"


def _on_drive() -> list[WeightsEnum]:
    enums = (*ENUMS, *SEGMENTATION_ENUMS)
    return [weights for enum in enums for weights in enum if weights.file_id]


def _describe(weights: WeightsEnum) -> dict[str, Any]:
    path, record = weights.path, _record(weights)
    cached = path.is_file()
    return {
        "weights": str(weights),
        "model": weights.value.model,
        "megabytes": round((path.stat().st_size if cached else weights.value.file_size) / 1e6, 1),
        **_claim(weights),
        "pinned": weights.sha256,
        "cached": cached,
        "trust": _trust(weights) if cached else None,
        "path": str(path),
        "sha256": record.sha256 if cached and record is not None else None,
    }


def _claim(weights: WeightsEnum) -> dict[str, float | None]:
    """The authors' first figure, in percent: top-1, or the mean IoU of segmentation networks."""
    top1, metrics = weights.value.top1, dict(weights.value.metrics)
    return {"top1_claimed": top1[0][1] if top1 else None, "miou_claimed": metrics.get("miou")}


def _record(weights: WeightsEnum) -> Record | None:
    """What is known of a file; None where that cannot be read, which is said where it matters."""
    with contextlib.suppress(OSError):
        return weights.record()
    return None


def _trust(weights: WeightsEnum) -> str:
    record = _record(weights)
    if record is None or not record.describes(weights.path.stat()):
        return "unverified"
    if weights.sha256 is not None:
        return "pinned" if record.sha256 == weights.sha256 else "not the pinned file"
    return record.trust


def _list(args: argparse.Namespace) -> tuple[int, list[dict[str, Any]]]:
    rows = [_describe(weights) for weights in find_weights(args.names) or _on_drive()]
    table = [("weights", "MB", "top-1 %", "mIoU %", "cached", "trust")]
    table += [
        (
            row["weights"],
            f"{row['megabytes']:.1f}",
            *("" if row[key] is None else f"{row[key]:.2f}" for key in CLAIMS),
            "yes" if row["cached"] else "no",
            row["trust"] or ("pinned" if row["pinned"] else "not pinned"),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        name, *rest = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        commands.say("  ".join([name, *rest]).rstrip())
    commands.say("\nFigures as the authors state them; sizes of files not cached are computed.")
    return commands.DONE, rows


def _each(
    chosen: Sequence[WeightsEnum], act: Callable[[WeightsEnum], str]
) -> tuple[int, list[dict[str, Any]]]:
    """Do the same with every set, whatever becomes of the others; 1 if any failed."""
    code, rows = commands.DONE, []
    for weights in chosen:
        try:
            outcome, error = act(weights), None
        except OSError as problem:  # DownloadError is one
            outcome, error, code = "FAILED", str(problem), commands.FAILED
            sys.stderr.write(f"pyconv-weights: {weights}: {error}\n")
        commands.say(f"{weights}  {outcome}")
        rows.append({**_describe(weights), "error": error})
    return code, rows


def _download(args: argparse.Namespace) -> tuple[int, list[dict[str, Any]]]:
    def act(weights: WeightsEnum) -> str:
        path = weights.download(force=args.force)
        return f"{_trust(weights)}  {path}"

    return _each(_on_drive() if args.all else find_weights(args.names), act)


def _verify(args: argparse.Namespace) -> tuple[int, list[dict[str, Any]]]:
    def act(weights: WeightsEnum) -> str:
        if not weights.path.exists():
            raise FileNotFoundError(
                f"{weights.path} is not there. Get it with 'pyconv-weights download {weights}'."
            )
        weights.verify()
        return f"intact, {_trust(weights)}"

    here = [weights for weights in _on_drive() if weights.path.exists()]
    chosen = find_weights(args.names) if args.names else here
    if not chosen:
        commands.say("Nothing is cached.")
    return _each(chosen, act)


def _pin(args: argparse.Namespace) -> tuple[int, list[dict[str, Any]]]:
    pins = _read_pins(args.output)
    before_all = dict(pins)

    def act(weights: WeightsEnum) -> str:
        weights.download()
        record = weights.verify()
        if record.trust == "user-supplied":
            raise DownloadError(
                f"{weights.path} was placed by hand, so it is not known to be what Drive sends. "
                "Remove it to download it, then pin."
            )
        before = pins.get(str(weights))
        if before not in (None, record.sha256):
            raise DownloadError(
                f"{args.output} pins {before} and Drive sends {record.sha256}. Find out why before "
                "you remove the old pin by hand."
            )
        pins[str(weights)] = record.sha256
        return f"{record.sha256}"

    result = _each(find_weights(args.names) or _on_drive(), act)
    if pins != before_all:
        write_result(args.output, dict(sorted(pins.items())))
    return result


def _read_pins(path: Path) -> dict[str, str]:
    """The hashes pinned so far.

    Raises:
        ValueError: if the file is no such list; it is not to be lost.
    """
    if not path.exists():
        return {}
    try:
        pins = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}). Mend it, or name another --output."
        ) from error
    if not isinstance(pins, dict) or not all(isinstance(pin, str) for pin in pins.values()):
        raise ValueError(f"{path} is no list of pins. Name another --output.")
    return pins


EXAMPLES = """\
  pyconv-weights list
      the published weights: size, accuracy, whether they are here, how far they are trusted
  pyconv-weights download pyconvresnet50
      all weights published for a network; by full name, one: PyConvResNet50_Weights.IMAGENET1K_V2
  pyconv-weights verify
      hash and check again whatever is cached; exit code 1 if anything is not as it was
  pyconv-weights pin
      for maintainers: write the hashes of what Drive sends into the library's list
"""


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser("pyconv-weights", "Manage the authors' published weights.", EXAMPLES)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, act: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = subparsers.add_parser(name, help=text, description=text)
        command.add_argument("names", nargs="*", metavar="NAME", help="a network, or one set")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
        command.set_defaults(act=act)
        return command

    add("list", _list, "show what is published and what is here")
    download = add("download", _download, "download and verify, unless it is here already")
    download.add_argument("--all", action="store_true", help="everything that is published")
    download.add_argument(
        "--force", action="store_true", help="download anew; accept another file than at first"
    )
    add("verify", _verify, "hash and check cached files again; default: all of them")
    pin = add("pin", _pin, "record the hashes of what Drive sends; default: of everything")
    pin.add_argument(
        "--output", type=Path, default=PINS, metavar="FILE", help="default: the library's own list"
    )
    return parser


def _command(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command == "download" and args.all == bool(args.names):
        parser.error("give either names of weights or --all")
    if args.json is not None:  # before gigabytes of downloads
        require_writable(args.json)
    code, rows = args.act(args)
    if args.json is not None:
        write_result(args.json, {"weights": rows})
    return int(code)


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pyconv-weights``."""
    return commands.run("pyconv-weights", _command, argv)


if __name__ == "__main__":
    sys.exit(main())
