"""Percentiles per replica over the last seconds, from the gateway's access log."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from serving.gateway.bootstrap import ACCESS_LOG_FORMAT

WINDOW_SECONDS = 10
_FIELDS = len(ACCESS_LOG_FORMAT.split())


@dataclass(frozen=True)
class Percentiles:
    """Latency in seconds over the window, and of how many calls."""

    count: int
    p50: float
    p99: float


class LatencyWindow:
    """Every latency of the last `seconds`, by replica address.

    Exact values, not buckets: a few thousand calls a second for ten seconds are some hundred
    kilobytes, sorted in milliseconds.
    """

    def __init__(
        self, seconds: float = WINDOW_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._samples: dict[str, deque[tuple[float, int]]] = defaultdict(deque)

    def add_line(self, line: str) -> None:
        """Take one access-log line; calls that no replica answered are left out."""
        fields = line.split()
        if len(fields) != _FIELDS or fields[0] == "-" or not fields[2].isdigit():
            return
        samples = self._samples[fields[0]]
        samples.append((self._clock(), int(fields[2])))
        # Here too, so that nothing piles up where nobody asks for percentiles.
        self._forget(samples)

    def percentiles(self, address: str) -> Percentiles | None:
        """Return the window's figures for one replica; None without a call in it."""
        samples = self._samples.get(address, deque())
        self._forget(samples)
        if not samples:
            return None
        ordered = sorted(micros for _, micros in samples)
        return Percentiles(
            len(ordered),
            _quantile(ordered, 0.5) / 1e6,
            _quantile(ordered, 0.99) / 1e6,
        )

    def _forget(self, samples: deque[tuple[float, int]]) -> None:
        oldest = self._clock() - self._seconds
        while samples and samples[0][0] < oldest:
            samples.popleft()


def _quantile(ordered: list[int], q: float) -> int:
    # The smallest value with at least q of all values at or below it: one that was measured.
    return ordered[math.ceil(q * len(ordered)) - 1]
