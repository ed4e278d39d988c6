"""The memory of a server that runs for weeks: what was freed goes back to the system."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable

LOGGER = logging.getLogger(__name__)

# Of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
BLOCK = 256 * 1024  # bytes: pictures are larger, nearly everything else is smaller
ARENAS = 2


def keep_heap_small() -> None:
    """Have glibc map large blocks apart and keep few arenas; does nothing with another C library.

    Else each of the threads that decode photos keeps an arena of its own, as large as the largest photo it
    ever held.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return
    for option, value in ((M_ARENA_MAX, ARENAS), (M_MMAP_THRESHOLD, BLOCK), (M_TRIM_THRESHOLD, BLOCK)):
        if not mallopt(option, value):
            LOGGER.info("mallopt knows no option %d here", option)


def trim_heap() -> None:
    """Give the pages that nothing uses back to the system, after work that is over; glibc only, as above.

    For processes that compute: `keep_heap_small` would have each of their tensors mapped anew.
    """
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # no glibc
        return None
