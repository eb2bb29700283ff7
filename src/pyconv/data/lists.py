"""A text file of names and labels, as people and programs write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .decoding import read_bytes
from .listing import is_image

__all__ = ["Row", "read_list"]

BLANKS = re.compile(r"\s+")
MARKS = "\t,;"  # between columns; else blanks
TRIED = 50  # rows whose images are looked for, to choose the mark between columns
LABEL_WORDS = {"label", "labels", "class", "class_name", "classname", "target", "category"}
COMMENT = re.compile(r"#\s")  # as numpy.savetxt writes its header
NUMBER = re.compile(r"-?\d+(\.\d*)?", re.ASCII)


class Row(NamedTuple):
    """An image and its label, as they are written."""

    name: str
    label: str


def read_list(path: Path, is_there: Callable[[str], bool]) -> list[Row]:
    """The names and labels of a text file, without its header and the index that pandas writes.

    Columns are separated by tabs, commas, semicolons or blanks, with quotes where they contain the
    separator. Where that leaves a choice, the one is taken whose names are there.

    Args:
        path: The text file.
        is_there: Whether there is an image of this name.

    Raises:
        ValueError: if it is no text, or not of names and labels.
        OSError: if the system does not read it.
    """
    text = _text(path)
    lines = {
        number: line.strip("\r\n")
        for number, line in enumerate(io.StringIO(text, newline=None), 1)
        if line.strip()
    }
    for number in list(lines):
        if not COMMENT.match(lines[number]):
            break
        del lines[number]
    mark = _mark(list(lines.values()), is_there)
    if mark is None:
        rows = [_by_blanks(number, line, path, is_there) for number, line in lines.items()]
    else:
        rows = _by_columns(lines, mark, path, is_there)
    for row in rows:  # names of files may be any bytes
        if not (_is_utf8(row.label) and (_is_utf8(row.name) or is_there(row.name))):
            raise ValueError(f"{path} is no text in UTF-8. Save it as such.")
    return rows[1:] if _is_header(rows, is_there) else rows


def _text(path: Path) -> str:
    text = read_bytes(path).decode("utf-8-sig", "surrogateescape")  # with a mark in front, or none
    if "\0" in text:
        raise ValueError(f"{path} is no text in UTF-8: it has bytes of value 0. Save it as such.")
    return text


def _is_utf8(text: str) -> bool:
    """Whether no byte had to be escaped to make it a text."""
    return not any("\udc80" <= letter <= "\udcff" for letter in text)


def _mark(lines: Sequence[str], is_there: Callable[[str], bool]) -> str | None:
    """What separates the columns; None for blanks."""

    def found(mark: str | None) -> int:
        """How many of the first images are there, read so."""
        few = lines[:TRIED]
        if mark is None:
            return sum(any(map(is_there, _parts(line))) for line in few)
        return sum(any(map(is_there, _cells(line, mark))) for line in few)

    marks = [mark for mark in MARKS if all(mark in line for line in lines)]
    options = [*marks, None]
    return max(options, key=found) if lines and marks else None


def _cells(line: str, mark: str) -> list[str]:
    """The cells of a row; one whose quotes are wrong is no row."""
    line = re.sub(f'(?<!")" +(?={mark}|$)', '"', line)
    try:
        (row,) = csv.reader([line], delimiter=mark, skipinitialspace=True, strict=True)
    except csv.Error:
        return []
    return [cell.strip() for cell in row]


def _parts(line: str) -> list[str]:
    """What may be the name, where blanks separate it from the label and it may contain some."""
    return [line[: blank.start()].strip('"') for blank in BLANKS.finditer(line.strip())]


def _by_blanks(number: int, line: str, path: Path, is_there: Callable[[str], bool]) -> Row:
    line = line.strip()
    ends = [(blank.start(), blank.end()) for blank in BLANKS.finditer(line)]
    rows = [Row(line[:start].strip('"'), line[end:].strip('"')) for start, end in ends]
    if not rows:
        raise ValueError(
            f"Line {number} of {path} is not 'name label': {line!r}. The devkit's list of numbers "
            "needs no --labels: ImageNet's own file names say their classes."
        )
    there = (row for row in rows if is_there(row.name))
    named = (row for row in rows if is_image(Path(row.name)))
    return next(there, None) or next(named, None) or rows[-1]


def _by_columns(
    lines: dict[int, str], mark: str, path: Path, is_there: Callable[[str], bool]
) -> list[Row]:
    table = [_cells(line, mark) for line in lines.values()]
    width = max(map(len, table))
    for number, row in zip(lines, table, strict=True):
        if len(row) != width or not row:
            fault = f"does not have the {width} columns of other lines" if width else "is no row"
            raise ValueError(
                f"Line {number} of {path} {fault}: {lines[number]!r}. Put what contains {mark!r} "
                "into quotes, and close them."
            )
    head, body = table[0], table[1:] or table
    columns = [n for n in range(width) if any(row[n] for row in table)]
    if len(columns) > 2 and _is_index([row[columns[0]] for row in body]):
        if not head[columns[0]]:  # above an index, pandas writes the names of the columns
            table = body
        del columns[0]

    def names(column: int) -> int:
        return sum(is_image(Path(row[column])) or is_there(row[column]) for row in body[:TRIED])

    name = max(columns, key=names)
    labels = [n for n in columns if n != name]
    if len(labels) > 1:
        labels = [n for n in labels if head[n].casefold() in LABEL_WORDS]
    if len(labels) != 1:
        raise ValueError(
            f"{path} has {len(columns)} columns, such as {', '.join(head)}. Keep two: the name "
            "of the image and its label."
        )
    return [Row(row[name], row[labels[0]]) for row in table]


def _is_index(cells: Sequence[str]) -> bool:
    """Whether a column counts the rows, from 0 or 1."""
    return any(cells == [str(n) for n in range(first, first + len(cells))] for first in (0, 1))


def _is_header(rows: Sequence[Row], is_there: Callable[[str], bool]) -> bool:
    """Whether the first row is none of an image but the names of the columns."""
    if len(rows) < 2 or is_image(Path(rows[0].name)) or is_there(rows[0].name):
        return False
    (_, label), others = rows[0], rows[1:]
    if NUMBER.fullmatch(label):
        return False
    numbers = all(NUMBER.fullmatch(row.label) for row in others)
    images = [is_image(Path(row.name)) for row in others]
    return numbers or all(images) or (any(images) and all(row.label != label for row in others))
