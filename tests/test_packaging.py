"""What a user gets: a page without dead links on an index, all files, every dependency."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import pyconv

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel that is built from it."""
    pytest.importorskip("build", reason="it builds the distributions; [dev] has it")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def metadata(dist: Path) -> Message:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


def test_the_page_on_an_index_needs_no_other_file(metadata: Message) -> None:
    page = metadata.get_payload()
    assert isinstance(page, str) and page.startswith("# torch-pyconv")
    targets = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)\"", page)
    assert targets
    assert all("".join(target).startswith("https://") for target in targets), targets
    readme = (ROOT / "README.md").read_text("utf-8")
    for file in re.findall(r"(?<!!)\[[^]]*\]\((?!http)([^)]+)\)", readme):
        assert f"(`{file}`)" in page  # named in place of the link


def test_the_version_is_that_of_the_package(metadata: Message) -> None:
    assert metadata["Version"] == pyconv.__version__


def test_the_source_distribution_is_the_project(dist: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode or not (ROOT / ".git").exists():
        pytest.skip("not in a clone")
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    assert tracked - packed == set()


def test_the_wheel_is_the_package(dist: Path) -> None:
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    files = {path for path in (ROOT / "src").rglob("*") if path.is_file()}
    here = {path.relative_to(ROOT / "src").as_posix() for path in files}
    here = {name for name in here if "__pycache__" not in name}
    assert {name for name in names if ".dist-info/" not in name} == here
