"""Published weights on this machine: downloaded, proven, cached, and managed by the command.

A file of the real size, in the format of 2020 and filled by the rule of the goldens, stands for
the authors'; it comes from an imitation of Drive over real sockets. Faults 34 to 36 are here.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import golden
import pytest
import torch
from drive_server import QUOTA, Drive, page
from fetching import ONCE, fails, left, succeeds
from torch import Tensor, nn

from pyconv import (
    DownloadError,
    PyConvResNet50_Weights,
    PyConvResNetTiny_Weights,
    get_model,
    get_model_weights,
    get_weight,
    pyconvresnet50,
    pyconvresnet_tiny,
    register_model,
)
from pyconv.models.registry import REGISTRY
from pyconv.weights import Published, WeightsEnum
from pyconv.weights.__main__ import main as weights_main
from pyconv.weights.drive import read_record
from pyconv.weights.rows import ENUMS
from pyconv.weights.segmentation import SEGMENTATION_ENUMS

V1, V2 = PyConvResNet50_Weights.IMAGENET1K_V1, PyConvResNet50_Weights.IMAGENET1K_V2
State = dict[str, Tensor]


def saved(content: object, legacy: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def state() -> State:
    """The weights of pyconvresnet50 by the rule of the goldens, in single precision."""
    with torch.device("meta"):
        empty = pyconvresnet50().state_dict()
    return {
        key: torch.as_tensor(golden.values(key, tensor.shape)).to(tensor.dtype)
        for key, tensor in empty.items()
    }


@pytest.fixture(scope="module")
def content(state: State) -> bytes:
    return saved(state)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own and no way out; returns the cache."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "PYCONV_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYCONV_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYCONV_DRIVE_URL", "http://127.0.0.1:9")
    return tmp_path / "cache"


@pytest.fixture
def drive(content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drive]:
    assert V1.file_id is not None
    with Drive(content, V1.file_id) as drive:
        monkeypatch.setenv("PYCONV_DRIVE_URL", drive.url)
        yield drive


@pytest.fixture
def cached(no_network: Path, content: bytes) -> Path:
    """The file, placed by hand."""
    path = no_network / V1.filename
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_pretrained_is_the_file_that_was_served(
    drive: Drive, state: State, no_network: Path
) -> None:
    model = pyconvresnet50(pretrained=True, progress=False).eval()
    assert drive.requests == ONCE
    assert left(no_network) == [f".{V1.filename}.lock", V1.filename, f"{V1.filename}.json"]
    loaded = model.state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], value) for key, value in state.items())

    # The file holds single precision, the goldens double: rounding is all that may differ.
    case = golden.load("forward_goldens")["pyconvresnet50"][0]
    with torch.no_grad():
        logits = model.double()(golden.images(case["input_shape"]))
    assert abs(logits.norm().item() / case["logits_norm"] - 1) < 1e-6
    difference = logits[:, :8] - torch.tensor(case["logits_first8"], dtype=torch.float64)
    assert difference.norm() < 1e-6 * case["logits_norm"]
    assert logits.argmax(1).tolist() == case["logits_argmax"]


def test_second_call_opens_no_socket(drive: Drive, cached: Path) -> None:
    pyconvresnet50(pretrained=True)
    code = """
import sys, pyconv
def spy(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"opened a socket: {event}")
sys.addaudithook(spy)
model = pyconv.pyconvresnet50(pretrained=True)
assert "requests" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert drive.requests == []


def test_failure_names_the_cure(drive: Drive, no_network: Path) -> None:
    drive.starts = iter([page(QUOTA)])
    with pytest.raises(DownloadError) as failure:
        pyconvresnet50(pretrained=True, progress=False)
    assert "quota" in str(failure.value)
    assert f"https://drive.google.com/file/d/{V1.file_id}/view" in str(failure.value)
    assert str(no_network / V1.filename) in str(failure.value)


def test_file_placed_by_hand_is_used(cached: Path, state: State) -> None:
    model = pyconvresnet50(pretrained=True)
    assert torch.equal(model.fc.weight, state["fc.weight"])
    record = V1.record()
    assert record is not None and record.trust == "user-supplied"


def test_the_sample_needs_no_download() -> None:
    with pytest.raises(ValueError, match="comes with the package"):
        PyConvResNetTiny_Weights.DEFAULT.drive_file  # noqa: B018


tiny = PyConvResNetTiny_Weights.DEFAULT.check


def refused(change: Callable[[State], object], legacy: bool, folder: Path, *words: str) -> None:
    """Serve a changed checkpoint; assert that it is refused and nothing stays."""
    served = saved(change(pyconvresnet_tiny().state_dict()), legacy)
    with Drive(served) as drive:
        os.environ["PYCONV_DRIVE_URL"] = drive.url  # set by a fixture, which puts it back
        fails(drive, folder, ONCE, "What the server sent is refused", *words, check=tiny)


@pytest.mark.parametrize("legacy", [True, False])
def test_right_file_is_accepted(tmp_path: Path, legacy: bool) -> None:
    with Drive(saved(pyconvresnet_tiny().state_dict(), legacy)) as drive:
        os.environ["PYCONV_DRIVE_URL"] = drive.url
        record = read_record(succeeds(drive, tmp_path, ONCE, check=tiny))
        assert record is not None and record.checks == ("length", "crc32c", "structure")


@pytest.mark.parametrize("legacy", [True, False])
def test_fault_34_other_model(tmp_path: Path, legacy: bool) -> None:
    def change(state: State) -> State:
        return pyconvresnet_tiny(num_classes=7).state_dict()

    refused(change, legacy, tmp_path, "another model", "fc.weight")


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
    "nan": (lambda t: t * torch.nan, "fc.bias", "not finite"),
    "inf": (lambda t: t + torch.inf, "fc.bias", "not finite"),
    "variance": (lambda t: t - 2, "bn1.running_var", "negative variance"),
    "half": (lambda t: t.half(), "fc.weight", "float16"),
    "integers": (lambda t: t.long(), "fc.weight", "int64"),
    "complex": (lambda t: t.to(torch.complex64), "fc.weight", "complex64"),
    "expanded": (lambda t: torch.zeros(1).expand(t.shape), "fc.weight", "not stored in full"),
    "huge": (lambda t: torch.zeros(1).expand(10**6, 10**6), "fc.weight", "[1000000, 1000000]"),
}


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", CHANGES)
def test_fault_35_impossible_values(tmp_path: Path, name: str, legacy: bool) -> None:
    act, key, word = CHANGES[name]
    refused(lambda state: {**state, key: act(state[key])}, legacy, tmp_path, word, key)


def test_fault_35_bomb(tmp_path: Path) -> None:
    """A compressed archive of a hundred times its size."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(10**6)}, legacy=False))) as archive,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in archive.namelist():
            small.writestr(name, archive.read(name))
    assert len(packed.getvalue()) < 40_000
    with Drive(packed.getvalue()) as drive:
        os.environ["PYCONV_DRIVE_URL"] = drive.url
        fails(drive, tmp_path, ONCE, "compressed archive", check=tiny)


class Trap:
    """Runs a command when it is unpickled by anything that runs what it reads."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("legacy", [True, False])
def test_fault_36_malicious_pickle(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "trace"
    cache = tmp_path / "cache"
    refused(lambda state: {**state, "x": Trap(trace)}, legacy, cache, "nothing in it was executed")
    assert not trace.exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_truncated_without_a_length(tmp_path: Path, legacy: bool) -> None:
    """Where the server declares nothing, the structure is what finds it."""
    served = saved(pyconvresnet_tiny().state_dict(), legacy)
    with Drive(served[:-2000]) as drive:
        os.environ["PYCONV_DRIVE_URL"] = drive.url
        drive.headers = {}
        fails(drive, tmp_path, ONCE, "What the server sent is refused", check=tiny)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("legacy", [True, False])
def test_proof_stays_within_the_size_of_the_file_and_200_mb(
    tmp_path: Path, state: State, content: bytes, legacy: bool
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content if legacy else saved(state, legacy))
    code = """
import sys
from pathlib import Path
from pyconv import PyConvResNet50_Weights as Weights
def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])
before = kilobytes("VmRSS")
Weights.IMAGENET1K_V1.check(Path(sys.argv[1]))
print((kilobytes("VmHWM") - before) * 1024)
"""
    command = [sys.executable, "-c", code, str(path)]
    growth = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert growth < path.stat().st_size + 200e6


@mock.patch.dict(REGISTRY)
def test_a_set_of_another_network_is_one_row(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, no_network: Path
) -> None:
    """A network of the user's own, its published weights, and what their file must fit."""

    class OwnWeights(WeightsEnum):
        DEFAULT = Published(
            "own", V1.file_id, 0, 9, 0.0, ((224, 1.0),), "none", network=lambda: nn.Linear(2, 3)
        )

    register_model("own", lambda num_classes=3: nn.Linear(2, num_classes), weights=OwnWeights)
    with pytest.raises(DownloadError, match="is of another model"):
        get_model("own", pretrained=True, progress=False)
    trained = nn.Linear(2, 3)
    assert V1.file_id is not None
    with Drive(saved(trained.state_dict()), V1.file_id) as own:
        monkeypatch.setenv("PYCONV_DRIVE_URL", own.url)
        model = get_model("own", weights="DEFAULT", progress=False)
    assert torch.equal(model.weight, trained.weight)
    assert get_model_weights("own") is OwnWeights
    assert get_weight("OwnWeights.DEFAULT") is OwnWeights.DEFAULT
    assert left(no_network)[1:] == ["own-DEFAULT.pth", "own-DEFAULT.pth.json"]


# The command.


def weights_command(*arguments: str) -> int:
    return weights_main(list(arguments))


@pytest.mark.parametrize("damage", ["{,}", "[]", '{"a": 1}'])
def test_a_list_of_pins_that_cannot_be_read_is_kept(
    cached: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    pins = tmp_path / "pins.json"
    pins.write_text(damage)
    assert weights_command("pin", str(V1), "--output", str(pins)) == 2
    assert str(pins) in capsys.readouterr().err
    assert pins.read_text() == damage


def test_list(cached: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert weights_command("list", "--json", str(tmp_path / "list.json")) == 0
    table = capsys.readouterr().out.splitlines()
    enums = (*ENUMS, *SEGMENTATION_ENUMS)
    published = [weights for enum in enums for weights in enum if weights.file_id is not None]
    assert len([line for line in table if "_Weights." in line]) == len(published)
    line = next(line for line in table if line.startswith(str(V1)))
    assert line.split() == [str(V1), "99.7", "77.88", "yes", "unverified"]
    line = next(line for line in table if line.startswith(str(V2)))
    assert line.split()[3:] == ["no", "not", "pinned"]
    rows = json.loads((tmp_path / "list.json").read_text())["weights"]
    assert [row["path"] for row in rows if row["cached"]] == [str(cached)]


def test_download_then_verify_then_pin(
    drive: Drive, capsys: pytest.CaptureFixture[str], tmp_path: Path, no_network: Path
) -> None:
    assert weights_command("download", str(V1)) == 0
    assert f"{V1}  trusted-on-first-use  {no_network / V1.filename}" in capsys.readouterr().out
    assert weights_command("verify") == 0
    assert f"{V1}  intact, trusted-on-first-use" in capsys.readouterr().out
    pins = tmp_path / "pins.json"
    assert weights_command("pin", str(V1), "--output", str(pins)) == 0
    record = V1.record()
    assert record is not None
    assert json.loads(pins.read_text()) == {str(V1): record.sha256}
    assert drive.requests == ONCE

    pins.write_text(json.dumps({str(V1): "0" * 64}))
    assert weights_command("pin", str(V1), "--output", str(pins)) == 1
    assert "Find out why" in capsys.readouterr().err
    assert json.loads(pins.read_text()) == {str(V1): "0" * 64}


def test_download_by_force(drive: Drive, cached: Path) -> None:
    assert weights_command("download", str(V1)) == 0
    assert drive.requests == []
    assert weights_command("download", "--force", str(V1)) == 0
    assert drive.requests == ONCE
    record = V1.record()
    assert record is not None and record.trust == "trusted-on-first-use"


def test_what_was_placed_by_hand_is_not_pinned(
    cached: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert weights_command("pin", str(V1), "--output", str(tmp_path / "pins.json")) == 1
    assert "placed by hand" in capsys.readouterr().err
    assert not (tmp_path / "pins.json").exists()


@pytest.mark.parametrize("damage", ["flip", "nan"])
def test_verify_finds_damage(
    cached: Path, state: State, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    if damage == "flip":
        assert weights_command("verify") == 0
        with cached.open("r+b") as file:
            file.seek(50_000_000)
            byte = file.read(1)
            file.seek(50_000_000)
            file.write(bytes([byte[0] ^ 1]))
    else:
        cached.write_bytes(saved({**state, "fc.bias": state["fc.bias"] * torch.nan}))
    before = cached.read_bytes()
    assert weights_command("verify") == 1
    streams = capsys.readouterr()
    assert f"{V1}  FAILED" in streams.out
    assert ("damaged or was replaced" if damage == "flip" else "not finite") in streams.err
    assert cached.read_bytes() == before


def test_verify_with_nothing_cached(capsys: pytest.CaptureFixture[str]) -> None:
    assert weights_command("verify") == 0
    assert "Nothing is cached." in capsys.readouterr().out
    assert weights_command("verify", str(V1)) == 1
    assert "pyconv-weights download" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["download", "pyconvresnt50"], "Did you mean 'pyconvresnet50'?"),
        (["download", "PyConvResNet50_Weights.IMAGENET1K_V9"], "Did you mean 'PyConvResNet50_Wei"),
        (["verify", "zzz"], "See 'pyconv-weights list'"),
        (
            ["list", "pyconvresnet18"],
            "no weights of 'pyconvresnet18' to download: none were published",
        ),
        (["download", "pyconvsegnet_pyconvhgresnet50"], "none were published"),
        (["download", "pyconvresnet_tiny"], "its weights are in the package"),
        (["download", "PyConvResNetTiny_Weights.FASHION_MNIST"], "its weights are in the package"),
        (["download"], "either names of weights or --all"),
        (["download", "--all", "resnet50"], "either names of weights or --all"),
        (["list", "--json", "/nowhere/x.json"], "no folder /nowhere to write x.json into"),
        (["fetch"], "invalid choice"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], no_network: Path
) -> None:
    try:
        code = weights_command(*arguments)
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not no_network.exists()


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "pyconv.weights", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_offline_miss(no_network: Path) -> None:
    done = run_command("download", str(V1), PYCONV_OFFLINE="1")
    assert done.returncode == 1
    assert f"{no_network / V1.filename} is not there, and PYCONV_OFFLINE" in done.stderr
    assert "Traceback" not in done.stderr
    done = run_command("download", str(V1), "--force", PYCONV_OFFLINE="1")
    assert f"forbids downloading {no_network / V1.filename} again. Leave --force out" in done.stderr
    assert not no_network.exists()


def test_cache_is_a_file(no_network: Path) -> None:
    no_network.write_text("a file")
    done = run_command("download", str(V1))
    assert done.returncode == 1
    assert "is to be a folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert no_network.read_text() == "a file"


@pytest.mark.parametrize("url", ["http://mirror.example.org", "https://[", "mirror"])
def test_unusable_mirror(url: str) -> None:
    done = run_command("download", str(V1), PYCONV_DRIVE_URL=url)
    assert done.returncode == 2
    assert done.stderr.startswith("pyconv-weights: PYCONV_DRIVE_URL=")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="the limit is that of Unix")
def test_full_disk(drive: Drive, no_network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, before[1]))
    try:
        assert weights_command("download", str(V1)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert "cannot be used: File too large" in error and "PYCONV_HOME" in error
    assert left(no_network) == [f".{V1.filename}.lock"]


def test_failure_of_one_does_not_stop_the_others(
    drive: Drive, capsys: pytest.CaptureFixture[str]
) -> None:
    assert weights_command("download", "pyconvresnet50") == 1  # the imitation has only the first
    streams = capsys.readouterr()
    assert f"{V1}  trusted-on-first-use" in streams.out
    assert f"{V2}  FAILED" in streams.out
    assert f"{drive.url} has no file with the id {V2.file_id}" in streams.err


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PYCONV_HOME": "~/weights"}, "~/weights"),
        ({"TORCH_HOME": "/t"}, "/t/hub/pyconv"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/torch/hub/pyconv"),
        ({}, "~/.cache/torch/hub/pyconv"),
    ],
)
def test_place_of_the_cache(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with torch and without; torch's own answer is what counts."""
    from pyconv.weights.drive import cache_dir

    for name in ("PYCONV_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected).expanduser()
    monkeypatch.delitem(sys.modules, "torch.hub")
    assert cache_dir() == Path(expected).expanduser()


def test_home_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyconv.weights.drive import cache_dir

    monkeypatch.setenv("PYCONV_HOME", "~no-such-user/weights")
    with pytest.raises(ValueError, match="Set PYCONV_HOME to a full path"):
        cache_dir()


def test_torch_hub_set_dir_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pyconv.weights.drive import cache_dir

    monkeypatch.delenv("PYCONV_HOME")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # put back at the end
    torch.hub.set_dir(str(tmp_path))
    assert cache_dir() == tmp_path / "pyconv"
