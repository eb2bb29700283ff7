"""Photographs of the user's: read upright, segmented, drawn and written one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from ..data.decoding import read_image
from ..system import commands
from ..system.files import replacing, write_json
from ..system.streams import message
from . import report
from .job import Job
from .picture import overlay, shares
from .prediction import predict

__all__ = ["segment"]


def segment(
    model: nn.Module, job: Job, targets: Mapping[Path, Path], stop: Callable[[], bool]
) -> tuple[dict[str, Any], int]:
    """Write a picture and the shares of each photograph; the result of all, and the exit code.

    Args:
        model: The network, ready.
        job: What was asked for.
        targets: Where the picture of each photograph goes; its shares go beside it, as JSON.
        stop: Asked before each photograph; True ends it with a partial result.
    """
    done: list[dict[str, Any]] = []
    unreadable: list[str] = []
    unwritten: list[str] = []
    code = commands.DONE
    several = len(targets) > 1
    with tqdm(total=len(targets), unit="photo", disable=not several or sys.stderr is None) as bar:
        for photo, target in targets.items():
            if stop():
                code = commands.INTERRUPTED
                break
            try:
                image = _upright(photo)
            except (OSError, ValueError) as error:
                text = str(error) if isinstance(error, OSError) else f"{photo}: {error}"
                message(text)
                unreadable.append(text)
                code = max(code, commands.exit_code(error))
                continue
            classes = predict(model, image, progress=not several, **job.options)
            seen = shares(classes, job.names)
            row = {"photo": str(photo), "picture": str(target), "classes": seen}
            drawn = overlay(image, classes, job.names, report.colors(len(job.names)))
            try:
                with replacing(target) as file:
                    drawn.save(file, "PNG")
                write_json(target.with_suffix(".json"), {**report.facts(job), **row})
            except OSError as error:  # such as a full disk: what was seen is not lost
                message(str(error))
                unwritten.append(str(error))
                code = max(code, commands.FAILED)
            commands.say(report.line(photo, seen))
            done.append(row)
            bar.update()
    lost = {"unreadable": unreadable, "unwritten": unwritten}
    result = {**report.facts(job), "photos": done, **lost}
    return result | {"partial": code == commands.INTERRUPTED}, code


def _upright(path: Path) -> Any:
    """The photograph as it is to be looked at: a camera may only note how it was held."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(read_image(path))
