"""How requests were shared between pods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shares:
    """Requests that each pod has answered, by pod."""

    counts: Mapping[str, int]

    @classmethod
    def between(cls, before: Mapping[str, int], after: Mapping[str, int]) -> Shares:
        """Of what pods say they have answered since they started; AssertionError if one is new."""
        assert set(before) == set(after), f"other pods than before: {set(before) ^ set(after)}"
        return cls({pod: after[pod] - before[pod] for pod in after})

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.counts.values())

    @property
    def unevenness(self) -> float:
        """The busiest pod over the mean: 1 when all are equal, the number of pods when one has all."""
        return max(self.counts.values()) * len(self.counts) / self.total

    @property
    def least(self) -> float:
        """The share of the pod that has least, of all requests."""
        return min(self.counts.values()) / self.total

    def of(self, pod: str) -> float:
        """A pod's requests over the mean of the others'."""
        others = [count for name, count in self.counts.items() if name != pod]
        return self.counts[pod] * len(others) / sum(others)

    def words(self) -> str:
        """The counts with the ends of the pods' names, largest first."""
        pairs = sorted(self.counts.items(), key=lambda pair: -pair[1])
        return " / ".join(f"{count:,} ({pod.rpartition('-')[2]})" for pod, count in pairs)
