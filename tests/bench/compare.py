"""Subjects measured in turns, and what is said about them: medians with their spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Protocol

from tests.bench.wire import Sample

ROUNDS = 3
SECONDS = 1.0
WARM_SECONDS = 0.25


class Load(Protocol):
    """Something that keeps a server busy."""

    def measure(self, concurrency: int, seconds: float) -> Sample: ...


@dataclass
class Result:
    """One subject's rounds."""

    samples: list[Sample]

    @property
    def rate(self) -> float:
        return median(s.rate for s in self.samples)

    @property
    def p50(self) -> float:
        return median(s.p50 for s in self.samples)

    @property
    def p99(self) -> float:
        return median(s.p99 for s in self.samples)

    @property
    def spread(self) -> str:
        """Lowest and highest rate."""
        rates = [s.rate for s in self.samples]
        return f"{min(rates):,.0f} to {max(rates):,.0f}"


def compare(
    subjects: Mapping[str, Load],
    concurrency: int,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> dict[str, Result]:
    """Measure each subject once a round, so that what disturbs the machine disturbs all."""
    for load in subjects.values():
        load.measure(concurrency, WARM_SECONDS)
    results = {name: Result([]) for name in subjects}
    for _ in range(rounds):
        for name, load in subjects.items():
            results[name].samples.append(load.measure(concurrency, seconds))
    return results


def ratio(one: Result, other: Result) -> float:
    """Median over the rounds of how many times the other's rate the one has."""
    return median(a.rate / b.rate for a, b in zip(one.samples, other.samples, strict=True))


@dataclass
class Table:
    """One case: what a reader sees, and the numbers behind it."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    target: str = ""
    value: float | None = None
    met: bool | None = None
    outcome: str = ""
    raw: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, results: Mapping[str, Result], **what: Any) -> None:
        """Keep every round's numbers for the JSON file."""
        for subject, result in results.items():
            rounds = [asdict(sample) for sample in result.samples]
            self.raw.append({**what, "subject": subject, "rounds": rounds})

    def judge(
        self, value: float, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Hold the case's figure to its target."""
        self.value = value
        over = at_least is None or value >= at_least
        self.met = over and (at_most is None or value <= at_most)
        self.outcome = "met" if self.met else "**missed**"


def ms(value: float) -> str:
    """Milliseconds with three digits that mean something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
