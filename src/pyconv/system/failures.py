"""What failures of PyTorch mean to whoever runs a command."""

from __future__ import annotations

__all__ = ["explain", "is_memory"]

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, MPS, the CPU


def explain(error: RuntimeError, cure: str, after: str = "") -> str | None:
    """What a failure of PyTorch means to the user; None if it is not one to be expected.

    Args:
        error: The failure.
        cure: What to do where memory ran out.
        after: What to do once a loader process was lost and its cause is gone.
    """
    text = str(error)
    if "DataLoader worker" in text:
        reason = text[text.index("DataLoader worker") :].splitlines()[0].rstrip(" .")
        told = f"A loader process is lost ({reason}). If memory is short, lower --workers. {after}"
        return told.rstrip()
    return f"Memory ran out. {cure}" if is_memory(error) else None


def is_memory(error: RuntimeError) -> bool:
    return any(sign in str(error) for sign in NO_MEMORY)
