"""What Prometheus gets; the names are a contract with the rules and dashboards."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from serving.health.monitor import Monitor
from serving.health.state import Answered, Erred, Event, NoSuchModel, Reason, Refused, Unanswered

# GetModelStatus takes about 1 ms and has a deadline of 1 s, a Predict one of 5 s.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_RESULTS = {
    Answered: "answered",
    NoSuchModel: "no_such_model",
    Erred: "error",
    Refused: "refused",
    Unanswered: "unanswered",
}


class Metrics:
    """The sidecar's metrics in a registry of their own.

    `digests` maps version to manifest digest, `fallback` is the digest of a version not in it.
    """

    def __init__(self, monitor: Monitor, fallback: str) -> None:
        self.registry = CollectorRegistry()
        self.digests: dict[int, str] = {}
        self._seconds = Histogram(
            "chopstick_health_probe_seconds",
            "Seconds that a call to the model server took, failures included.",
            ["call"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._polls = Counter(
            "chopstick_health_polls",
            "Polls of GetModelStatus by result.",
            ["result"],
            registry=self.registry,
        )
        self._unverified = Gauge(
            "chopstick_health_unverified_versions",
            "Versions on the volume that were refused because they are not as exported.",
            registry=self.registry,
        )
        build = Gauge(
            "chopstick_health_build_info",
            "1, with the sidecar's version.",
            ["version"],
            registry=self.registry,
        )
        build.labels(_own_version()).set(1)
        for call in ("status", "predict"):
            self._seconds.labels(call)
        for result in _RESULTS.values():
            self._polls.labels(result)
        self.registry.register(_StateCollector(monitor, self.digests, fallback))
        ProcessCollector(registry=self.registry)

    @contextmanager
    def timed(self, call: str) -> Iterator[None]:
        """Observe how long the block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds.labels(call).observe(time.perf_counter() - began)

    def count(self, event: Event) -> None:
        """Count a poll by what it came to."""
        self._polls.labels(_RESULTS[type(event)]).inc()

    def set_unverified(self, versions: int) -> None:
        """How many versions on the volume are refused at the moment."""
        self._unverified.set(versions)

    def page(self, accept: str) -> tuple[str, bytes]:
        """Content type and body of /metrics for an Accept header."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)


class _StateCollector(Collector):
    """The state at the moment of the scrape: no series outlives what it was about."""

    def __init__(self, monitor: Monitor, digests: dict[int, str], fallback: str) -> None:
        self._monitor = monitor
        self._digests = digests
        self._fallback = fallback

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = self._monitor.state
        yield GaugeMetricFamily(
            "chopstick_health_ready", "1 when requests may come.", value=state.ready
        )
        reasons = GaugeMetricFamily(
            "chopstick_health_state", "1 for the reason that holds.", labels=["reason"]
        )
        for reason in Reason:
            reasons.add_metric([reason.value], reason is state.reason)
        yield reasons
        yield GaugeMetricFamily(
            "chopstick_health_state_seconds",
            "Seconds that this reason has held.",
            value=self._monitor.seconds(),
        )
        versions = GaugeMetricFamily(
            "chopstick_health_model_version_state",
            "1 for the state that the model server tells of each version.",
            labels=["model", "version", "state"],
        )
        for seen in state.versions:
            versions.add_metric([state.model, str(seen.number), seen.state.name], 1)
        yield versions
        info = GaugeMetricFamily(
            "chopstick_health_model_info",
            "1, with the version that is served and the digest of its manifest.",
            labels=["model", "version", "digest"],
        )
        if state.version is not None:
            digest = self._digests.get(state.version, self._fallback)
            info.add_metric([state.model, str(state.version), digest], 1)
        yield info


def _own_version() -> str:
    """The installed package's version, from the name of its metadata; importlib.metadata is 1 MiB."""
    for place in sys.path:
        for found in Path(place).glob("chopstick_serving-*.dist-info"):
            return found.name.removeprefix("chopstick_serving-").removesuffix(".dist-info")
    return "unknown"
