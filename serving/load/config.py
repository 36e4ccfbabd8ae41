"""What a load is made of, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from serving.client.channel import TLS
from serving.errors import ChopstickError

# Far beyond what one Python process sends; past them a slip of the keyboard is likelier.
MAX_RATE = 100_000.0
MAX_CONNECTIONS = 1_000
MAX_SECONDS = 24 * 3600.0
MAX_REQUESTS = 100_000_000
MAX_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """One load: `rate` requests a second at `target`, for `duration` s or `count` requests.

    With both, whichever ends first ends it. `connections` are truly distinct connections, used
    in turn. `timeout` is the deadline of each request in seconds from its sending. `rows` lengths
    (180 to 330 mm, seeded) travel in each request. `poisson` draws the gaps between requests from
    an exponential distribution instead of keeping them equal. At most `max_in_flight` requests
    are under way; one that is due beyond that is not sent and counts as an overrun. `share_key`
    is the response header in which a gateway names the replica. `retries` lets gRPC repeat what was
    answered UNAVAILABLE, by the client library's policy (`serving.client`); without it each attempt
    counts. `tls`, `headers`, `api_key` and `connect_to` are those of `serving.client.Client`. Raises
    ChopstickError for values that make no sense.
    """

    target: str
    rate: float
    duration: float | None = None
    count: int | None = None
    connections: int = 1
    timeout: float = 5.0
    rest: bool = False
    poisson: bool = False
    seed: int = 0
    model: str = "chopstick"
    version: int | None = None
    label: str | None = None
    signature: str | None = None
    rows: int = 1
    max_in_flight: int = 10_000
    share_key: str = "x-served-by"
    tls: TLS | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)
    connect_to: str | None = None
    retries: bool = False

    def __post_init__(self) -> None:
        self._range("rate", self.rate, MAX_RATE, "requests a second")
        self._range("timeout", self.timeout, 3600.0, "seconds")
        self._range("connections", self.connections, MAX_CONNECTIONS, "")
        self._range("rows", self.rows, MAX_ROWS, "")
        self._range("max_in_flight", self.max_in_flight, 1_000_000, "")
        if self.duration is not None:
            self._range("duration", self.duration, MAX_SECONDS, "seconds")
        if self.count is not None:
            self._range("count", self.count, MAX_REQUESTS, "requests")
        if self.retries and self.rest:
            raise ChopstickError(
                "REST has no retry policy", "Leave --retries out, or load the gRPC port."
            )
        if self.duration is None and self.count is None:
            raise ChopstickError(
                "a load without end: neither duration nor count is given", "Give one of them."
            )

    @staticmethod
    def _range(name: str, value: float, most: float, unit: str) -> None:
        if not (math.isfinite(value) and 0 < value <= most):
            raise ChopstickError(
                f"{name} {value:g} is out of range",
                f"{name} is more than 0 and at most {most:g} {unit}".rstrip() + ".",
            )

    @property
    def planned_seconds(self) -> float:
        """When the last request is due, about, in seconds from the start."""
        ends = []
        if self.duration is not None:
            ends.append(self.duration)
        if self.count is not None:
            ends.append(self.count / self.rate)
        return min(ends)

    def schedule(self) -> Iterator[float]:
        """The times at which requests are due, in seconds from the start, in order."""
        duration = math.inf if self.duration is None else self.duration
        count = MAX_REQUESTS if self.count is None else self.count
        gap = 1 / self.rate
        if not self.poisson:
            for number in range(count):
                # Multiplied and not summed: rounding must not shift the rate of a long load.
                due = number * gap
                if due >= duration:
                    return
                yield due
            return
        draw = Random(self.seed).expovariate  # noqa: S311 - a load, not a secret
        due = 0.0
        for _ in range(count):
            due += draw(self.rate)
            if due >= duration:
                return
            yield due
