"""Reading files: what the system refuses is not the content's fault, and the reverse."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from pyconv.system.reading import ContentError, reading

Parse = Callable[[BinaryIO], object]
unix = pytest.mark.skipif(os.name == "nt", reason="pipes, devices and limits are those of Unix")


def parse(path: Path, how: Parse) -> object:
    with reading(path) as file:
        return how(file)


def hide(file: BinaryIO) -> None:
    """A parser that takes any error for damage, as many do."""
    try:
        file.read()
    except OSError:
        raise EOFError("damaged") from None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.file"
    path.write_bytes(b"content")
    return path


def test_what_the_body_returns_is_all_there_is(path: Path) -> None:
    assert parse(path, lambda file: file.read()) == b"content"
    path.write_bytes(bytes(range(256)) * 1000)
    assert parse(path, lambda file: (file.seek(256_000 - 2), file.read(9))[1]) == b"\xfe\xff"


@pytest.mark.parametrize(
    "failure", [EOFError("cut"), OSError("image file is truncated"), ValueError(), KeyError("a")]
)
def test_what_fails_after_the_bytes_were_read_is_of_the_content(
    path: Path, failure: Exception
) -> None:
    def fail(file: BinaryIO) -> None:
        file.read()
        raise failure

    with pytest.raises(ContentError) as caught:
        parse(path, fail)
    assert caught.value.__cause__ is failure


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads what cannot be read there")
@pytest.mark.parametrize("how", [lambda file: file.read(9), lambda file: file.read(), hide])
def test_what_cannot_be_read_is_the_systems_whatever_a_parser_says(how: Parse) -> None:
    with pytest.raises(OSError, match=r"Input/output error\. Nothing is known") as caught:
        parse(Path("/proc/self/mem"), how)
    assert caught.value.errno == errno.EIO
    assert "\n" not in str(caught.value)


@unix
def test_too_many_open_files(path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        with pytest.raises(OSError, match=r"Too many open files\. Nothing .* \(ulimit -n\)\."):
            parse(path, lambda file: file.read())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_memory_is_no_fault_of_the_file(path: Path) -> None:
    with pytest.raises(OSError, match=r"Cannot allocate memory\. Nothing") as caught:
        parse(path, lambda file: bytearray(1 << 62))
    assert caught.value.errno == errno.ENOMEM


def test_what_is_there_but_no_file(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*missing\."):
        parse(path.with_name("missing"), hide)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        parse(path.parent, hide)


@unix
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    pipe = path.with_name("pipe")
    os.mkfifo(pipe)
    for place in (pipe, Path("/dev/null")):
        with pytest.raises(ValueError, match="is a pipe or a device"):
            parse(place, hide)


def test_a_file_that_is_rewritten_meanwhile_is_neither_taken_nor_called_damaged(path: Path) -> None:
    def rewrite(file: BinaryIO) -> None:
        file.read(3)
        path.write_bytes(b"other, and longer")

    def rewrite_and_fail(file: BinaryIO) -> None:
        rewrite(file)
        raise EOFError

    for how in (rewrite, rewrite_and_fail):
        with pytest.raises(OSError, match="was changed while it was read"):
            parse(path, how)


def test_nothing_reads_past_the_watch(path: Path) -> None:
    with reading(path) as file, pytest.raises(io.UnsupportedOperation):
        file.fileno()


@unix
@pytest.mark.parametrize("name", [b"not utf-8 \xff\xfe", b"new\nline", b"100 %s %d", b" "])
def test_any_name_is_a_name(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"content")
    assert parse(path, lambda file: file.read()) == b"content"
