"""Memory that a large request or an unloaded model leaves behind goes back to the system.

The C library keeps what was freed in pieces below 32 MiB for later. One request of 100 MB left
hundreds of megabytes behind that way, and a pod's memory limit does not know that they are free.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
from collections.abc import Callable

LARGE_BYTES = 8 << 20
"""What leaves enough behind to be worth a millisecond of work."""

_DELAY_SECONDS = 0.2
_pending: set[asyncio.Future[None]] = set()


def release_soon() -> None:
    """Give free memory back in a moment, in a worker thread; many calls at once are one."""
    if not _pending:
        task = asyncio.ensure_future(_release())
        _pending.add(task)
        task.add_done_callback(_pending.discard)


async def _release() -> None:
    # The request is still on its way out when it asks for this.
    await asyncio.sleep(_DELAY_SECONDS)
    await asyncio.to_thread(release)


def release() -> None:
    """Give free memory back now; without effect where the C library has no call for it."""
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
