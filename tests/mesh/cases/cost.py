"""7: what the mesh costs: latency, throughput, and what the proxies take; one way after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.cluster.stack import Stack
from tests.cluster.suite import Change
from tests.cluster.traffic import CONNECTIONS, Clients, Report, traffic
from tests.mesh import proxy
from tests.mesh.suite import FULL, MeshContext, case

ROUNDS = 2
CI_ROUNDS = 1
RATE = 100.0
SECONDS = 12.0
# More than any of the ways can answer; what is due beyond IN_FLIGHT is not sent, which is a closed loop
# of so many callers.
SATURATING_RATE = 3000.0
IN_FLIGHT = 12
SATURATED_SECONDS = 8.0


@dataclass
class Way:
    """A way to the servers, and what was measured on it."""

    name: str
    stack: Stack
    clients: Clients
    target: str
    arguments: Sequence[str] = ()
    quiet: list[Report] = field(default_factory=list)
    saturated: list[Report] = field(default_factory=list)


@dataclass(frozen=True)
class Use:
    """What a proxy has taken since it started."""

    cpu: float
    """Seconds."""
    memory: float
    """Resident, in MiB."""
    requests: float

    @classmethod
    def of(cls, samples: list[proxy.Sample], direction: str) -> Use:
        """Of a proxy's metrics; requests of one direction."""
        return cls(
            proxy.total(samples, "process_cpu_seconds_total"),
            proxy.total(samples, "process_resident_memory_bytes") / 2**20,
            proxy.total(samples, "request_total", direction=direction),
        )


@case(
    "cost",
    "p50, p99, requests a second, and the proxies' memory and CPU: unmeshed, meshed, ingress",
)
def cost(context: MeshContext) -> None:
    prod, beside = context.serving(), context.beside()
    context.ingress.wait_ready()
    ways = [
        Way("unmeshed", beside, context.plain, beside.grpc),
        Way("meshed", prod, context.callers, prod.grpc),
        Way(
            "ingress", prod, context.outsiders, context.ingress.grpc, context.ingress.arguments
        ),
    ]  # fmt: skip
    rounds = ROUNDS if context.size is FULL else CI_ROUNDS
    for number in range(rounds):
        for way in ways:
            way.quiet.append(_quiet(context, way, number))
            way.saturated.append(_saturated(way))
            context.say(f"{way.name}: {way.quiet[-1].words()}; {way.saturated[-1].words()}")
    for way in ways:
        _figures(context, way)
    context.grid(
        f"Cost, median of {rounds} rounds",
        ["way", "p50 ms", "p99 ms", f"requests a second, {IN_FLIGHT} under way"],
        [[way.name, *_cells(way)] for way in ways],
    )


def _quiet(context: MeshContext, way: Way, number: int) -> Report:
    """Latency at a rate that leaves the machine room; in the first round with the proxies' use."""
    with traffic(
        way.clients, way.target, rate=RATE, requests=round(RATE * SECONDS),
        arguments=way.arguments, name="cost",
    ) as load:  # fmt: skip
        began = time.monotonic()
        if number == 0 and way.name == "meshed":
            _proxies(context, way.stack, load.pod)
    context.outcome.changes.append(
        Change(f"{way.name}, round {number + 1}", load.report, time.monotonic() - began)
    )
    load.report.assert_none_failed()
    return load.report


def _saturated(way: Way) -> Report:
    with traffic(
        way.clients, way.target, rate=SATURATING_RATE,
        requests=round(SATURATING_RATE * SATURATED_SECONDS), connections=CONNECTIONS,
        arguments=[f"--max-in-flight={IN_FLIGHT}", *way.arguments], name="saturated",
    ) as load:  # fmt: skip
        pass
    assert not load.report.failed, load.report.words()
    return load.report


def _proxies(context: MeshContext, stack: Stack, caller: str) -> None:
    """CPU and memory of the servers' proxies and the caller's, over `SECONDS` of the load."""
    pods = {pod.metadata.name: "inbound" for pod in stack.pods()} | {caller: "outbound"}

    def uses() -> dict[str, Use]:
        return {
            pod: Use.of(context.proxy_metrics(pod), direction) for pod, direction in pods.items()
        }

    before = uses()
    time.sleep(SECONDS)  # what is measured is this time
    after = uses()
    for name, chosen in (
        ("server's proxy", [pod for pod in pods if pod != caller]),
        ("caller's proxy", [caller]),
    ):
        cpu = sum(after[pod].cpu - before[pod].cpu for pod in chosen)
        requests = sum(after[pod].requests - before[pod].requests for pod in chosen)
        assert requests > 0, f"{name}: no requests counted"
        context.figure(
            f"{name}: CPU for 1,000 requests at {RATE:g} a second", cpu / requests * 1e6, "ms"
        )
        context.figure(f"{name}: resident memory", max(after[pod].memory for pod in chosen), "MiB")


def _figures(context: MeshContext, way: Way) -> None:
    p50, p99, rate = _medians(way)
    context.figure(f"{way.name}: p50 at {RATE:g} a second", p50 * 1e3, "ms")
    context.figure(f"{way.name}: p99 at {RATE:g} a second", p99 * 1e3, "ms")
    context.figure(f"{way.name}: with {IN_FLIGHT} under way", rate, "requests/s")


def _medians(way: Way) -> tuple[float, float, float]:
    return (
        statistics.median(report.p50 for report in way.quiet),
        statistics.median(report.p99 for report in way.quiet),
        statistics.median(report.goodput for report in way.saturated),
    )


def _cells(way: Way) -> list[str]:
    p50, p99, rate = _medians(way)
    return [f"{p50 * 1e3:.1f}", f"{p99 * 1e3:.1f}", f"{rate:.0f}"]
