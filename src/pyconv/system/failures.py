"""Errors of PyTorch, and of what it is installed with, in the words of a user."""

from __future__ import annotations

__all__ = ["explain", "is_memory", "library"]

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, MPS, the CPU
COMPILERS = ("torch._dynamo", "torch._inductor")
BOTH = "torch torchvision"  # only builds that were made for each other work together
INSTALL = {"torch": BOTH, "torchvision": BOTH, "PIL": "pillow", "google_crc32c": "google-crc32c"}


def explain(error: RuntimeError | MemoryError, cure: str, after: str = "") -> str | None:
    """The message for an error that can be expected of PyTorch; None for any other.

    Args:
        error: The error.
        cure: What to do if memory ran out, as a sentence.
        after: What to do after a loader process was lost, as a sentence.
    """
    text = str(error)
    if "DataLoader worker (pid" in text:  # others tell what was raised in a worker
        reason = text[text.index("DataLoader worker") :].splitlines()[0].rstrip(" .")
        lost = f"A loader process is lost ({reason}). If memory is short, lower --workers."
        return f"{lost} {after}".rstrip()
    if is_memory(error):
        return f"Memory ran out. {cure}"
    if type(error).__module__.startswith(COMPILERS) or "torch.compile is not" in text:
        return _of_the_compiler(text)
    return None


def _of_the_compiler(text: str) -> str:
    """The message for an error of torch.compile, whose text is many lines."""
    if "InvalidCxxCompiler" in text:
        return "There is no C++ compiler to compile with. Install g++, or leave --compile out."
    first = next((line for line in text.splitlines() if line.strip()), "no reason given")
    return f"The network cannot be compiled ({first.strip()[:200]}). Leave --compile out."


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the CPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)


def library(error: BaseException) -> str | None:
    """The message for a library that is missing or does not work; None for any other error."""
    lines = str(error).splitlines() or [""]
    mismatch = next((line for line in lines if "torchvision::" in line), None)
    if mismatch is not None:  # "operator torchvision::nms does not exist", and its like
        name, said = "torchvision", mismatch.rpartition("Error: ")[2]
    elif isinstance(error, ImportError):
        name, said = (error.name or "").partition(".")[0], lines[0]
    elif isinstance(error, OSError) and error.errno is None:  # of the dynamic linker
        name, said = "torch", lines[0]
    else:
        return None
    if name in ("", __name__.partition(".")[0]):
        return None  # our own fault
    return (
        f"{name} is missing or does not work here ({said.rstrip('.')}). Install it anew: "
        f"pip install --force-reinstall {INSTALL.get(name, name)}"
    )
