from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from pyconv.train.state import read_state, write_state
from pyconv.weights.checkpoint import CheckpointError

STATE = {
    "format": 1,
    "state_dict": {"weight": torch.arange(1000.0)},
    "run": {"identity": {}, "recipe": {}},
    "position": {"epoch": 1, "step": 2},
    "training": {},
    "history": [],
}


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    write_state(path, STATE)
    back = read_state(path)
    assert torch.equal(back.pop("state_dict")["weight"], STATE["state_dict"]["weight"])
    assert back == {key: value for key, value in STATE.items() if key != "state_dict"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_gone_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Cannot save .*No such file"):
        write_state(tmp_path / "gone" / "last.pt", STATE)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize(
    "kind", ["cut", "empty", "flipped", "bit", "page", "pickle", "weights", "future"]
)
def test_what_is_no_state_is_one_clear_error(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.pt"
    write_state(path, STATE)
    whole = path.read_bytes()
    if kind == "weights":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "future":
        write_state(path, STATE | {"format": 2})
    else:
        contents = {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "flipped": whole[:40] + bytes(b ^ 255 for b in whole[40:400]) + whole[400:],
            "bit": whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:],  # of a weight
            "page": b"<html>Not here</html>",
            "pickle": pickle.dumps(Evil()),
        }
        path.write_bytes(contents[kind])
    with pytest.raises(CheckpointError, match=r"last\.pt") as caught:
        read_state(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_a_missing_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"last\.pt"):
        read_state(tmp_path / "last.pt")
