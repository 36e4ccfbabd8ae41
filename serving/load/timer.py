"""Waking an event loop on time: to some 0.1 ms, where loops themselves round to 1 ms."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = getattr(os, "O_CLOEXEC", 0)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Sleeps until a moment of time.monotonic(); one waiter at a time.

    On Linux by timerfd (Python has it from 3.13 only); elsewhere by the loop's own timers, whose
    millisecond then is part of every latency.
    """

    def __init__(self) -> None:
        self._fd = -1
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd >= 0:
            self._loop = asyncio.get_running_loop()
            self._fired: asyncio.Future[None] | None = None
            self._loop.add_reader(self._fd, self._ready)

    async def until(self, moment: float) -> None:
        """Return at `moment`, at once if it has passed."""
        left = moment - time.monotonic()
        if left <= 0:
            return
        if self._fd < 0:
            await asyncio.sleep(left)
            return
        whole = int(moment)
        nanoseconds = min(999_999_999, max(1, int((moment - whole) * 1e9)))
        spec = _Itimerspec(_Timespec(0, 0), _Timespec(whole, nanoseconds))
        self._fired = self._loop.create_future()
        absolute = 1  # TFD_TIMER_ABSTIME
        if self._libc.timerfd_settime(self._fd, absolute, ctypes.byref(spec), None) != 0:
            self._fired = None
            await asyncio.sleep(left)
            return
        await self._fired

    def _ready(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        if self._fired is not None and not self._fired.done():
            self._fired.set_result(None)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
