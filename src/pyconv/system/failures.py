"""Errors of PyTorch in the words of a user."""

from __future__ import annotations

__all__ = ["explain", "is_memory"]

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, MPS, the CPU


def explain(error: RuntimeError, cure: str, after: str = "") -> str | None:
    """The message for an error that can be expected of PyTorch; None for any other.

    Args:
        error: The error.
        cure: What to do if memory ran out, as a sentence.
        after: What to do after a loader process was lost, as a sentence.
    """
    text = str(error)
    if "DataLoader worker" in text:
        reason = text[text.index("DataLoader worker") :].splitlines()[0].rstrip(" .")
        lost = f"A loader process is lost ({reason}). If memory is short, lower --workers."
        return f"{lost} {after}".rstrip()
    return f"Memory ran out. {cure}" if is_memory(error) else None


def is_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, of a GPU or of the CPU."""
    return any(sign in str(error) for sign in NO_MEMORY)
