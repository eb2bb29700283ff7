"""A file is whole or as it was before, whatever happens while it is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyconv.system.files import naming, remove_leftovers, replacing, write_json, write_result


def test_a_write_that_fails_half_way_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="power"), replacing(path) as file:
        file.write(b"af")
        raise RuntimeError("power")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from pyconv.system.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"af")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are those of Unix")
def test_what_a_kill_leaves_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"before")
    kept = {path, tmp_path / ".lock", tmp_path / ".other.pt.00000000", tmp_path / ".last.pt.mine"}
    for each in kept - {path}:
        each.touch()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(set(tmp_path.iterdir()) - kept) == 1
    remove_leftovers(tmp_path, ("last.pt", "best.pt"))
    assert set(tmp_path.iterdir()) == kept
    assert path.read_bytes() == b"before"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device is Linux's")
def test_the_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    full = pytest.raises(OSError, match=r"No space left on device: '.*steps\.csv'")
    with full, naming(tmp_path / "steps.csv"), Path("/dev/full").open("w") as file:
        file.write("1,2,3")


def test_the_error_of_a_missing_folder_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, replacing(tmp_path / "nowhere/best.pth"):
        pass
    assert raised.value.filename == str(tmp_path / "nowhere/best.pth")


def test_the_error_of_a_folder_in_its_place_names_it_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"directory: '{tmp_path}'$"), replacing(tmp_path):
        pass


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
