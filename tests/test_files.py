"""A file is whole or as it was before, whatever happens while it is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pyconv.files import replacing, write_json, write_result


def test_a_write_that_fails_half_way_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="power"), replacing(path) as file:
        file.write(b"af")
        raise RuntimeError("power")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_file_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    write_json(file, {"images": 1})
    with pytest.raises(TypeError):
        write_json(file, {"images": object()})
    assert file.read_text("utf-8") == '{\n  "images": 1\n}\n'
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_is_replaced_and_what_it_points_to_is_left(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "result.json"
    victim.write_text("precious")
    path.symlink_to(victim)
    write_json(path, {})
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_a_file_that_lies_in_the_way_is_neither_written_nor_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)  # as if it were guessed
    victim = tmp_path / "victim"
    victim.write_text("precious")
    trap = tmp_path / ".result.json.00000000"
    trap.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "result.json", {})
    assert victim.read_text() == "precious"
    assert trap.is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="pipes are those of Unix")
def test_a_result_goes_into_a_device_or_through_a_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        write_result(tmp_path / name, {"a": 1})
        assert json.loads(os.read(reader, 100)) == {"a": 1}
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()
