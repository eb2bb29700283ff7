"""What the system refuses is no damage: its own words, and nothing is lost or replaced for it."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from failing import refusing

from pyconv import CheckpointError, get_model, load, pyconvresnet_tiny
from pyconv.models.registry import resolve_weights
from pyconv.weights.checkpoint import read, read_noted

unix = pytest.mark.skipif(os.name == "nt", reason="pipes and names as on Unix")
ERRORS = (errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE, errno.ENOMEM)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.pth"
    torch.save(pyconvresnet_tiny().state_dict(), path)
    return path


def run(code: str, *arguments: object, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
import json, os, sys
import pyconv
from pyconv.weights.checkpoint import read_noted
told = []
for path in sys.argv[2:]:
    for act in (lambda: pyconv.pyconvresnet_tiny(weights=path), lambda: read_noted(path)):
        for after in (-1, 0, 100_000):
            for error in map(int, sys.argv[1].split(",")):
                os.environ |= {"FAIL_ERRNO": str(error), "FAIL_AFTER": str(after)}
                try:
                    act()
                    told.append((error, "loaded", "nothing", None))
                except Exception as failure:
                    kind = type(failure).__name__
                    told.append((error, kind, str(failure), getattr(failure, "errno", None)))
    os.environ["FAIL_ERRNO"] = "0"
    pyconv.pyconvresnet_tiny(weights=path)
print(json.dumps(told))
"""


def test_a_checkpoint_that_the_system_does_not_give(path: Path) -> None:
    legacy = path.with_name("legacy-mine.pth")
    torch.save(torch.load(path), legacy, _use_new_zipfile_serialization=False)
    errors = ",".join(map(str, ERRORS))
    told = json.loads(run(LOAD, errors, path, legacy, environment=refusing("mine.pth")))
    assert len(told) == 2 * 2 * 3 * len(ERRORS)
    for error, kind, message, number in told:
        assert (kind, number) == ("PermissionError" if error == errno.EACCES else "OSError", error)
        assert f"mine.pth cannot be read: {os.strerror(error)}. Nothing is known" in message
        assert ("damaged" not in message and "again" not in message) or "Try again" in message
        assert "\n" not in message


MEMORY = """
import resource, sys
from pathlib import Path
import torch, pyconv
from pyconv.weights.checkpoint import read
path = Path(sys.argv[1])
for zipped in (True, False):
    state = {"weight": torch.ones(4000, 4000)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    del state
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 20 * 2**20, before[1]))
    try:
        read(path)
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_a_lack_of_memory_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    lines = run(MEMORY, path, environment=dict(os.environ)).splitlines()
    words = f"{path} cannot be read: Cannot allocate memory. Nothing is known to be wrong with"
    assert len(lines) == 2 and all(line.startswith(words) for line in lines)


def test_a_file_that_claims_more_than_it_has_is_damaged(path: Path) -> None:
    content = {"weight": torch.zeros(1000)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    claim = b"M\xe8\x03"  # 1000, as pickled
    assert claim in data
    path.write_bytes(data.replace(claim, b"\x8a\x06" + (2**45).to_bytes(6, "little")))
    with pytest.raises(CheckpointError, match="is damaged or cut short"):
        read(path)


@unix
@pytest.mark.parametrize("name", [b"not utf-8 \xff.pth", b"two\nlines.pth", b"100 %s.pth", b" "])
def test_any_name_is_a_name(path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # To stderr, as for users; pytest's processes cannot send each other such a name in a log.
    monkeypatch.setattr(logging.getLogger("pyconv"), "propagate", False)
    strange = path.with_name(os.fsdecode(name))
    path.rename(strange)
    model = pyconvresnet_tiny(weights=strange, num_classes=3)  # with a line that names it
    assert torch.equal(model.conv1.weight, pyconvresnet_tiny(weights=str(strange)).conv1.weight)
    strange.write_bytes(strange.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="is damaged or cut short"):
        pyconvresnet_tiny(weights=strange)


@unix
def test_what_is_there_and_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for act in (
        lambda place: pyconvresnet_tiny(weights=place),
        load,
        read_noted,
    ):
        with pytest.raises(IsADirectoryError, match="is a folder"):
            act(tmp_path)
        for place in (pipe, Path("/dev/null")):
            with pytest.raises(ValueError, match="is a pipe or a device"):
                act(place)


@pytest.mark.parametrize("text", ["x" * 5000, "nul\0", "~no-such-user/x.pth", "pyproject.toml/x"])
def test_what_can_be_no_file_is_no_name_of_weights(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a file nor the name of published weights"):
        pyconvresnet_tiny(weights=text)


@unix
def test_a_folder_that_cannot_be_looked_into(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match=r"cannot be read: Permission denied\. Nothing"):
            resolve_weights("pyconvresnet_tiny", False, str(folder / "mine.pth"))
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


# The cache.

CACHE = """
import errno, json, os, sys
from pathlib import Path
from torch import nn
import torch, pyconv
from pyconv.weights import Published, WeightsEnum, __main__ as command

class OwnWeights(WeightsEnum):
    DEFAULT = Published(
        "own", "128iMzBnHQSPNehgb8nUF5cJyKBIB7do5", 0, 9, 0.0, ((224, 1.0),), "none",
        network=lambda: nn.Linear(2, 3),
    )
    OTHER = Published(
        "own", "19RFyaDnJ34IeqwS8QOX29JWH9I0r_ewM", 0, 9, 0.0, ((224, 1.0),), "none",
        network=lambda: nn.Linear(2, 3),
    )

pyconv.register_model("own", lambda num_classes=3: nn.Linear(2, num_classes), weights=OwnWeights)
command.ENUMS = (OwnWeights,)
own, other = OwnWeights
own.path.parent.mkdir(parents=True)
for weights in (own, other):
    torch.save(nn.Linear(2, 3).state_dict(), weights.path)
    weights.download()
record = own.path.with_name(own.path.name + ".json")
changed = json.loads(record.read_text()) | {"trust": "trusted-on-first-use"}
record.write_text(json.dumps(changed))
before = record.read_bytes()
told = []

def note(act):
    try:
        told.append(str(act()))
    except Exception as failure:
        told.append(f"{type(failure).__name__}: {failure}")

for word in ("own-DEFAULT.pth.json", "own-DEFAULT.pth"):  # its record alone, both
    for after in ("-1", "0"):
        os.environ |= {"FAIL_PATH": word, "FAIL_ERRNO": str(errno.ESTALE), "FAIL_AFTER": after}
        note(lambda: pyconv.get_model("own", weights="DEFAULT"))
        note(own.verify)
        note(lambda: command.main(["verify"]))
        note(lambda: command.main(["list"]))
os.environ["FAIL_ERRNO"] = "0"
assert record.read_bytes() == before
assert own.verify().trust == "trusted-on-first-use"
sys.stderr.write(json.dumps(told))
"""


def test_a_cached_file_that_the_system_does_not_give_keeps_its_trust(tmp_path: Path) -> None:
    """A record that cannot be read just now is not a missing one."""
    environment = refusing("nothing yet") | {
        "PYCONV_HOME": str(tmp_path / "cache"),
        "PYCONV_OFFLINE": "1",
    }
    command = [sys.executable, "-c", CACHE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    words = "cannot be read: Stale file handle. Nothing is known to be wrong with the file."
    assert len([line for line in lines if words in line]) == 4  # verify, of the one file
    assert done.stdout.count("OwnWeights.OTHER  intact") == 4  # the other one is looked at as well
    told = json.loads(last)
    for loaded, verified, verify_code, list_code in zip(*[iter(told)] * 4, strict=True):
        assert words in loaded and words in verified
        assert (verify_code, list_code) == ("1", "0")


def test_a_network_of_the_users_own_says_it_too(path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"):
        get_model("pyconvresnet_tiny", weights=path.parent)
