"""What broke a run, as a code for programs and a sentence for people."""

from __future__ import annotations

from errno import EDQUOT, ENOSPC

from synchuman.events import DeviceMemoryError

# After one of these the CUDA context of the process is lost.
BROKEN_DEVICE = ("illegal memory access", "ECC", "device-side assert", "launch failure", "unspecified launch")
# How torch, the system and threads say it.
NO_MEMORY = ("out of memory", "allocate memory", "can't start new thread", "std::bad_alloc")
OUT_OF_MEMORY = "The memory of this machine is too small for that. Try a smaller texture, or fewer faces."


def explain(error: Exception) -> tuple[str, str]:
    """Return a code for programs and a sentence for people about what broke a run."""
    text = str(error)
    if any(sign in text for sign in BROKEN_DEVICE) and "CUDA" in text:
        return "device_lost", "The GPU reported an error and is being restarted. Please try again."
    if isinstance(error, DeviceMemoryError):
        return "out_of_memory", str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in NO_MEMORY):
        return "out_of_memory", OUT_OF_MEMORY
    if isinstance(error, OSError):
        if error.errno in (ENOSPC, EDQUOT):
            return "disk_full", "The disk of the server is full. Please try again later."
        return "io_error", f"The server could not read or write a file: {error.strerror or 'unknown reason'}."
    if isinstance(error, ValueError):
        return "run_failed", text
    return "internal", "Something went wrong on our side. Please try again."
