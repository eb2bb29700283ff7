"""A system that refuses: opening or reading what has a word in its name fails, in a subprocess.

``refusing()`` gives the environment of a process; in it, ``os.environ["FAIL_ERRNO"]`` chooses the
error (0 for none) and ``FAIL_AFTER`` the number of bytes that can still be read (-1: not opened).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char marked[4096];  /* by descriptor: whether the name of the file has the word */

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static int has_word(const char *path) {
    const char *word = getenv("FAIL_PATH");
    return word && *word && path && strstr(path, word);
}

static int is_refused(const char *path, int flags) {
    if (!has_word(path) || (flags & O_ACCMODE) == O_WRONLY) return 0;
    if (number("FAIL_AFTER") >= 0 || !number("FAIL_ERRNO")) return 0;
    errno = number("FAIL_ERRNO");
    return 1;
}

static int mark(int descriptor, const char *path) {
    if (descriptor >= 0 && descriptor < 4096) marked[descriptor] = has_word(path) ? 1 : 0;
    return descriptor;
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }

#define OPEN(name) int name(const char *path, int flags, ...) { MODE \
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
    return is_refused(path, flags) ? -1 : mark(real(path, flags, mode), path); }
OPEN(open)
OPEN(open64)

#define OPENAT(name) int name(int folder, const char *path, int flags, ...) { MODE \
    int (*real)(int, const char *, int, ...) = dlsym(RTLD_NEXT, #name); \
    return is_refused(path, flags) ? -1 : mark(real(folder, path, flags, mode), path); }
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int descriptor, void *buffer, size_t count) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    long after = number("FAIL_AFTER");
    if (number("FAIL_ERRNO") && after >= 0 && descriptor >= 0 && descriptor < 4096
        && marked[descriptor] && lseek(descriptor, 0, SEEK_CUR) >= after) {
        errno = number("FAIL_ERRNO");
        return -1;
    }
    return real(descriptor, buffer, count);
}
"""


@functools.cache
def _library() -> Path | None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or os.uname().sysname != "Linux":
        return None
    folder = Path(tempfile.mkdtemp(prefix="failing-"))
    source, library = folder / "failing.c", folder / "failing.so"
    source.write_text(SOURCE)
    command = [compiler, "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def refusing(word: str, error: int = 0, after: int = -1) -> dict[str, str]:
    """The environment of a process in which files with ``word`` in their path cannot be read."""
    library = _library()
    if library is None:
        pytest.skip("a compiler and Linux are needed to play a system that refuses")
    settings = {"FAIL_PATH": word, "FAIL_ERRNO": str(error), "FAIL_AFTER": str(after)}
    return os.environ | {"LD_PRELOAD": str(library)} | settings
