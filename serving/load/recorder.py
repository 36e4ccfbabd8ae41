"""Counts what happens while it happens, in bounded memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hdrh.histogram import HdrHistogram

from serving.load.result import Failure, LatencySummary, LoadResult, Second

if TYPE_CHECKING:
    from serving.load.config import LoadConfig

KEPT_FAILURES = 10_000
LATE = 0.010  # s; the timer itself is good to less than 1 ms
MAX_REPLICAS = 1_000  # the share is counted by a header that anybody could fill
_HOUR_IN_US = 3_600_000_000
_MESSAGE_LIMIT = 500


class Recorder:
    """Takes each send and each answer of one load; times in seconds from its start."""

    def __init__(self, config: LoadConfig) -> None:
        self.result = LoadResult(config.target, config.rate, config.connections, config.retries)
        # 3 digits: a percentile is right to 0.1 %.
        self._histogram = HdrHistogram(1, _HOUR_IN_US, 3)
        self._sum = 0.0

    def second(self, now: float) -> Second:
        """The entry of the history that `now` falls into."""
        seconds = self.result.seconds
        index = max(0, int(now))
        while len(seconds) <= index:
            seconds.append(Second())
        return seconds[index]

    def sent(self, due: float, now: float) -> None:
        """Count a request that leaves."""
        result = self.result
        result.due += 1
        result.sent += 1
        self.second(now).sent += 1
        behind = now - due
        if behind > LATE:
            result.late += 1
        result.latest = max(result.latest, behind)

    def overrun(self) -> None:
        """Count a request that was due and did not leave."""
        self.result.due += 1
        self.result.overrun += 1

    def answered(self, due: float, now: float, peer: str, version: int | None) -> None:
        """Count an OK."""
        result = self.result
        result.ok += 1
        latency = now - due
        self._sum += latency
        self._histogram.record_value(min(max(1, round(latency * 1e6)), _HOUR_IN_US))
        second = self.second(now)
        second.ok += 1
        second.slowest = max(second.slowest, latency)
        if peer and (peer in result.share or len(result.share) < MAX_REPLICAS):
            result.share[peer] += 1
        if version is not None:
            result.versions[version] += 1

    def failed(self, due: float, now: float, code: str, message: str, peer: str) -> None:
        """Count and keep a failure."""
        result = self.result
        result.failed += 1
        result.codes[code] += 1
        self.second(now).failed += 1
        if len(result.failures) < KEPT_FAILURES:
            message = message[:_MESSAGE_LIMIT]
            result.failures.append(Failure(round(due, 6), round(now, 6), code, message, peer))

    def percentile(self, percent: float) -> float:
        """Latency in seconds that this many per cent of the answers stayed within."""
        return float(self._histogram.get_value_at_percentile(percent)) / 1e6

    def summary(self) -> LatencySummary | None:
        """Latency of the answers so far; None without one."""
        if not self.result.ok:
            return None
        p50, p90, p99, p999 = (self.percentile(p) for p in (50, 90, 99, 99.9))
        top = self._histogram.get_max_value() / 1e6
        return LatencySummary(p50, p90, p99, p999, top, self._sum / self.result.ok)
