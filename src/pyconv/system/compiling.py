"""Machine code of C++ sources: compiled once for a processor, kept, and proven before it is loaded.

Code that is loaded may do all that its user may. So it is taken from a folder that belongs to the
user, that nobody else can write to, and whose descriptor is held from that check on: who renames
folders above it changes nothing. The name of a file holds a hash of its content: what was cut short
is compiled again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from .cache import cache_dir

__all__ = ["CompilerError", "load"]

logger: logging.Logger = logging.getLogger(__name__)

MACOS = sys.platform == "darwin"
FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-DNDEBUG"),
    *("-shared", "-fPIC", "-fvisibility=hidden", "-pipe"),
    # On macOS the symbols of OpenMP are those that PyTorch has loaded.
    *(("-Xclang", "-fopenmp", "-undefined", "dynamic_lookup") if MACOS else ("-fopenmp",)),
)
DEFAULT = "clang++" if MACOS else "g++"  # as for torch.compile
ROOM = 4 << 20  # bytes; what is written on the way, and to spare
PATIENCE = 120  # seconds to wait for another process that compiles the same


class CompilerError(RuntimeError):
    """There is no compiler, or it fails."""


def load(what: str, source: str, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """The library that a source compiles to, compiled now if that was not yet done.

    It is kept in the cache; where that is no place for it, with the user's temporary files. While
    it is compiled, a line in the log says ``what`` it is.

    Raises:
        CompilerError: if it cannot be compiled.
        OSError: if it cannot be kept or loaded.
    """
    whole = "\0".join([source, *FLAGS, *flags, *_machine()])
    key = hashlib.sha256(whole.encode()).hexdigest()[:16]
    folders: dict[Path, Path] = {}
    reasons: dict[Path, str] = {}
    with contextlib.ExitStack() as stack:
        for path in _places():
            with _noting(path, reasons):
                folders[path] = stack.enter_context(_own(path))
        for path, folder in folders.items():
            with _noting(path, reasons):
                if found := _find(folder, key):
                    return ctypes.CDLL(str(found))
        for path, folder in folders.items():
            with _noting(path, reasons):
                return ctypes.CDLL(str(_make(folder, key, what, source, flags)))
    why = "; ".join(f"{path}: {reason}" for path, reason in reasons.items())
    raise OSError(f"{why}. Set PYCONV_HOME to a folder of your own, from which programs may run")


def _machine() -> Iterator[str]:
    """What compiled code depends on besides: homes are shared by machines that differ."""
    yield platform.machine()
    yield from platform.libc_ver()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if re.match(r"flags|Features|model name|CPU (implementer|variant|part)", line):
                yield line
            elif not line.strip():
                return  # the other cores


def _places() -> list[Path]:
    name, places = f"kernels-{os.geteuid()}", []
    with contextlib.suppress(ValueError):  # nobody's home
        places.append(cache_dir() / name)
    with contextlib.suppress(FileNotFoundError):
        places.append(Path(tempfile.gettempdir()) / f"pyconv-{name}")
    return places


@contextlib.contextmanager
def _noting(path: Path, reasons: dict[Path, str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reasons[path] = error.strerror or str(error).partition(".so: ")[2] or str(error)


@contextlib.contextmanager
def _own(path: Path) -> Iterator[Path]:
    """A folder of the user's own, made if it is not there, by a path that stays with it.

    Raises:
        OSError: if it cannot be had, or is another's, or open to others.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        if status.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "others may write there; remove it")
        if os.fstatvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
            raise PermissionError(errno.EACCES, "programs may not run from there (noexec)")
        held = Path(f"/proc/self/fd/{folder}")
        yield held if held.exists() else path
    finally:
        os.close(folder)


def _find(folder: Path, key: str) -> Path | None:
    """The library of this key, if it is whole; what is not is removed."""
    for path in folder.glob(f"{key}.*.so"):
        if path.name == _name(key, path.read_bytes()):
            return path
        path.unlink()
    return None


def _name(key: str, content: bytes) -> str:
    return f"{key}.{hashlib.sha256(content).hexdigest()}.so"


def _make(folder: Path, key: str, what: str, source: str, flags: Sequence[str]) -> Path:
    """Compile into a folder; what another process compiles meanwhile is waited for and taken."""
    lock = FileLock(folder / ".lock", timeout=PATIENCE)
    # It only saves work, and some disks know no locks.
    with contextlib.suppress(Timeout, NotImplementedError):
        lock.acquire()
    try:
        if found := _find(folder, key):
            return found
        command = [*_compiler(), *FLAGS, *flags]
        if lock.is_locked:
            for left in folder.glob("tmp*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "made.so"
            made.write_bytes(bytes(ROOM))  # rather now than after a minute
            made.unlink()
            logger.warning("pyconv compiles %s, once: it takes some ten seconds.", what)
            _compile([*command, "-o", made.name], source, Path(work))
            path = folder / _name(key, made.read_bytes())
            made.replace(path)
        return path
    finally:
        lock.release()


def _compiler() -> list[str]:
    """The command that compiles C++."""
    command = shlex.split(os.environ.get("CXX", "")) or [DEFAULT]
    if shutil.which(command[0]) is None:
        raise CompilerError(
            f"there is no C++ compiler {command[0]!r}. Install one, or name yours in CXX"
        )
    return command


def _compile(command: Sequence[str], source: str, folder: Path) -> None:
    """Call the compiler in a folder, for all that it writes."""
    done = subprocess.run(
        [*command, "-x", "c++", "-"],
        input=source,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        env={**os.environ, "TMPDIR": ".", "LC_ALL": "C"},
    )
    if done.returncode:
        lines = done.stderr.splitlines() or [f"it ended with {done.returncode}"]
        error = next((line for line in lines if "error" in line), lines[-1])
        raise CompilerError(f"{command[0]} failed: {error}. CXX may name another compiler")
