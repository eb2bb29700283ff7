"""Tables that the commands wrote, read again."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..data.decoding import read_bytes

__all__ = ["read_table"]


def read_table(path: Path, columns: tuple[str, ...], what: str) -> list[dict[str, str]]:
    """The rows of a CSV file that has at least these columns, and one row.

    Raises:
        ValueError: if it has not; ``what`` says which file is wanted.
        OSError: if the system does not read it.
    """
    text = read_bytes(path).decode("utf-8", "surrogateescape")  # names of files may be any bytes
    table = csv.DictReader(io.StringIO(text, newline=""))
    if missing := [name for name in columns if name not in (table.fieldnames or ())]:
        raise ValueError(f"{path} has no column {missing[0]!r}. Give {what}.")
    rows = list(table)
    if not rows or any(row[name] is None for row in rows for name in columns):
        raise ValueError(f"{path} has no rows, or rows that end early. Give {what}.")
    return rows
