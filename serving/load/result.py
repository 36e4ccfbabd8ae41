"""What a load found: counts, latency, every failure, who answered, second by second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Failure:
    """One request that was not answered OK; times in seconds from the start of the load."""

    due: float
    at: float  # when the failure was known
    code: str
    message: str
    peer: str  # replica, or the address asked where nobody said


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Latency of the requests answered OK in seconds, from the due time to the answer."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    mean: float


@dataclass(slots=True)
class Second:
    """What became known in one second of the load; `slowest` is in seconds."""

    sent: int = 0
    ok: int = 0
    failed: int = 0
    slowest: float = 0.0


@dataclass(slots=True)
class LoadResult:
    """The outcome of one load.

    `due` requests were scheduled: `sent` of them left, `overrun` did not because too many were
    under way. `ok` + `failed` = `sent`. `late` were sent more than 10 ms after they were due,
    the worst by `latest` s: then the generator, not the server, is short of time. `failures`
    holds the first ones, `codes` counts all. `share` counts the answered requests per replica,
    `versions` per model version (gRPC only). `marks` are the moments that the caller named, in
    seconds from the start; `seconds` is the history. `started_at` is the start as seconds of Unix
    time, to place what others saw.
    """

    target: str
    rate: float  # asked for, requests a second
    connections: int
    retries: bool = False  # gRPC may have repeated an attempt that failed; it does not say which
    started_at: float = 0.0
    elapsed: float = 0.0  # s, from the first due time to the last answer
    sending: float = 0.0  # s, the part of it in which requests were due
    due: int = 0
    sent: int = 0
    ok: int = 0
    failed: int = 0
    overrun: int = 0
    late: int = 0
    latest: float = 0.0
    stopped: bool = False  # ended by the caller before its time
    latency: LatencySummary | None = None  # None when nothing was answered OK
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    share: Counter[str] = field(default_factory=Counter)
    versions: Counter[int] = field(default_factory=Counter)
    marks: dict[str, float] = field(default_factory=dict)
    seconds: list[Second] = field(default_factory=list)

    @property
    def achieved_rate(self) -> float:
        """Requests sent a second."""
        return self.sent / self.sending if self.sending else 0.0

    @property
    def lost(self) -> int:
        """Requests that were due and got no OK: failed or never sent."""
        return self.failed + self.overrun

    @property
    def max_over_mean(self) -> float | None:
        """The busiest replica's share over the mean; 1.0 is perfect balance. None if unknown."""
        if not self.share:
            return None
        return max(self.share.values()) * len(self.share) / self.share.total()

    def failures_between(self, start: float, end: float) -> list[Failure]:
        """The kept failures that became known in [start, end), seconds from the start."""
        return [failure for failure in self.failures if start <= failure.at < end]

    def around(self, mark: str, before: float = 0.0, after: float = 10.0) -> list[Failure]:
        """The kept failures from `before` s before a mark to `after` s after it."""
        at = self.marks[mark]
        return self.failures_between(at - before, at + after)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON types; times in seconds."""
        plain = asdict(self)
        # JSON's keys are strings, and a Counter is a dict to it.
        plain["versions"] = _ordered({str(k): v for k, v in self.versions.items()})
        plain["share"] = _ordered(self.share)
        plain["codes"] = _ordered(self.codes)
        plain["achieved_rate"] = self.achieved_rate
        plain["max_over_mean"] = self.max_over_mean
        return plain


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
