"""Memory that a large request or an unloaded model leaves behind goes back to the system.

The C library keeps what was freed in pieces below 32 MiB for later. One request of 100 MB left
hundreds of megabytes behind that way, and a pod's memory limit does not know that they are free.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
from collections.abc import Callable

LARGE_BYTES = 8 << 20
"""What leaves enough behind to be worth a millisecond of work."""

# The request is still on its way out when it asks for this, and a large reply takes its time.
_DELAYS_SECONDS = (0.5, 5.0)
_pending: set[float] = set()


def release_soon() -> None:
    """Give free memory back in a moment and once more later; many calls at once are one."""
    loop = asyncio.get_running_loop()
    for delay in _DELAYS_SECONDS:
        if delay not in _pending:
            _pending.add(delay)
            loop.call_later(delay, _release, loop, delay)


def _release(loop: asyncio.AbstractEventLoop, delay: float) -> None:
    _pending.discard(delay)
    loop.run_in_executor(None, release)


def release() -> None:
    """Give free memory back now; without effect where the C library has no call for it."""
    # A thread's result and the future that brought it hold each other until the collector comes by,
    # which on an idle server can be never.
    gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    # None is the program itself, so that a preloaded allocator is asked first.
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return found
