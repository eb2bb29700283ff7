"""Compiled code: made once, kept where nobody else can write, proven before it is loaded."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import pyconv
from pyconv.system import compiling
from pyconv.system.compiling import CompilerError, load

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }'
OWN = f"kernels-{os.geteuid()}"

pytestmark = pytest.mark.skipif(
    shutil.which(compiling.DEFAULT) is None, reason="there is no C++ compiler here"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, in a folder such as people have; and a folder for temporary files."""
    monkeypatch.setenv("PYCONV_HOME", str(tmp_path / "Zwei Wörter" / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "Zwei Wörter" / "cache"


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{OWN}/*.so"))


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A compiler that takes its time; how often it was called."""
    calls, script = tmp_path / "calls", tmp_path / "slow c++"
    script.write_text(f'#!/bin/sh\necho >>"{calls}"\nsleep 0.5\nexec {compiling.DEFAULT} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{script}'")
    return lambda: len(calls.read_text().splitlines()) if calls.exists() else 0


def test_it_is_compiled_once_and_said_once(
    home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("a test", SOURCE).answer() == 42
    monkeypatch.setenv("PATH", "")  # nobody needs the compiler again
    assert load("a test", SOURCE).answer() == 42
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "pyconv compiles a test, once: it takes some ten seconds."
    ]
    assert len(kept(home)) == 1 and (home / OWN).stat().st_mode & 0o777 == 0o700
    assert not list((home / OWN).glob("tmp*"))
    with pytest.raises(CompilerError, match=r"no C\+\+ compiler .* name yours in CXX"):
        load("another", SOURCE.replace("42", "43"))


@pytest.mark.parametrize("damage", [lambda code: code[:1000], lambda code: b"", bytes.swapcase])
def test_what_is_not_whole_is_compiled_again(
    damage: Callable[[bytes], bytes], home: Path, compiler: Callable[[], int]
) -> None:
    load("a test", SOURCE)
    (path,) = kept(home)
    path.write_bytes(damage(path.read_bytes()))
    (home / OWN / "tmp-left").mkdir()  # by a process that was killed
    assert load("a test", SOURCE).answer() == 42
    assert kept(home) == [path] and compiler() == 2
    assert not list((home / OWN).glob("tmp*"))


@pytest.mark.parametrize("how", ["open to others", "of another user", "a link"])
def test_what_others_can_plant_is_never_loaded(how: str, home: Path, tmp_path: Path) -> None:
    if how == "of another user" and os.geteuid():
        pytest.skip("only root can give a folder away")
    load("a test", SOURCE)
    (good,) = kept(home)
    planted = tmp_path / "planted.so"
    command = [compiling.DEFAULT, "-shared", "-fPIC", "-o", planted, "-x", "c++", "-"]
    subprocess.run(command, input=SOURCE.replace("42", "666"), text=True, check=True)
    key = good.name.partition(".")[0]
    good.unlink()
    shutil.copy(planted, good.with_name(compiling._name(key, planted.read_bytes())))
    if how == "open to others":
        good.parent.chmod(0o777)
    elif how == "of another user":
        os.chown(good.parent, 65534, -1)
    else:
        good.parent.rename(tmp_path / "elsewhere")
        good.parent.symlink_to(tmp_path / "elsewhere")
    assert load("a test", SOURCE).answer() == 42
    assert len(kept(tmp_path / "tmp")) == 1  # the second place


def test_renaming_folders_above_changes_nothing(home: Path, tmp_path: Path) -> None:
    """Between the check of a folder and the loading from it."""
    load("a test", SOURCE)
    with compiling._own(home / OWN) as held:
        home.rename(tmp_path / "away")
        (home / OWN).mkdir(parents=True)
        assert len(list(held.glob("*.so"))) == (1 if held != home / OWN else 0)


def test_where_it_cannot_be_kept_nothing_is_compiled(
    home: Path, tmp_path: Path, compiler: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    home.parent.mkdir()
    home.write_text("no folder")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # as a full disk
    try:
        with pytest.raises(OSError, match=r"Not a directory.*File too large.*Set PYCONV_HOME to"):
            load("a test", SOURCE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert compiler() == 0
    assert load("a test", SOURCE).answer() == 42  # with the temporary files


def test_a_compiler_that_fails_is_quoted() -> None:
    with pytest.raises(CompilerError, match=r"g\+\+ failed: .*error: .*nonsense.*CXX"):
        load("a test", "nonsense")


CHILD = """
import sys, types
sys.modules["pyconv"] = types.ModuleType("pyconv")  # which imports torch
sys.modules["pyconv"].__path__ = [sys.argv[1]]
from pyconv.system.compiling import load
try:
    print(load("a test", sys.argv[2]).answer())
except OSError as error:
    print(error)
"""


def child(*before: str) -> subprocess.Popen[str]:
    package = str(Path(pyconv.__file__).parent)
    command = [*before, sys.executable, "-c", CHILD, package, SOURCE]
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_processes_that_start_together_compile_once(compiler: Callable[[], int]) -> None:
    started = [child() for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in started] == ["42\n"] * 3
    assert compiler() == 1


def test_a_place_whose_programs_may_not_run(home: Path, compiler: Callable[[], int]) -> None:
    home.mkdir(parents=True)
    Path(tempfile.gettempdir(), f"pyconv-{OWN}").write_text("no folder")
    mounted = f'mount -t tmpfs -o noexec none "{home}" && exec "$@"'
    process = child("unshare", "-m", "sh", "-c", mounted, "sh")
    said = process.communicate(timeout=60)[0]
    if process.returncode:
        pytest.skip("nothing can be mounted here")
    assert "noexec" in said and "File exists" in said and compiler() == 0
