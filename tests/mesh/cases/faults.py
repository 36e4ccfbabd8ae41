"""3: one of three replicas is off the network, or hangs, and callers hardly notice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from tests.cluster import faults
from tests.cluster.stack import Stack
from tests.cluster.traffic import Report
from tests.mesh import proxy
from tests.mesh.suite import MeshContext, case

# Long enough for the kubelet to call the pod unready (6 s) and for what then remains to be seen;
# shorter than liveness's patience, which would restart the server.
FAULT_SECONDS = 20.0
# The first instants, in which requests are with the replica already.
SETTLING_SECONDS = 2.0
EARLY_SECONDS = 4.0
LEAST_ANSWERED = 0.999
# Each caller's deadline; gRPC counts a request as failed when it is over.
DEADLINE = 5.0
BALANCED = {"backend_name": "chopstick-classifier", "backend_port": "8500"}
COUNTED = (
    "outbound_grpc_route_retry_requests_total",
    "outbound_grpc_route_retry_successes_total",
    "outbound_grpc_route_retry_limit_exceeded_total",
    "outbound_grpc_route_retry_overflow_total",
)


@case("blackhole", "one of three replicas dropped off the network under load")
def blackhole(context: MeshContext) -> None:
    faults.command()
    stack = context.serving()
    pod = stack.ready_pods()[-1].metadata.name
    _under_fault(
        context,
        stack,
        "one of three replicas black-holed",
        lambda: faults.send("blackhole", stack.namespace, pod),
        lambda: faults.send("restore", stack.namespace, pod),
    )


@case("hanging", "the server of one of three replicas stopped (SIGSTOP) under load")
def hanging(context: MeshContext) -> None:
    faults.command()
    stack = context.serving()
    pod = stack.ready_pods()[-1].metadata.name
    _under_fault(
        context,
        stack,
        "the server of one of three replicas stopped",
        lambda: faults.send("stop", stack.namespace, pod, "server"),
        lambda: faults.send("cont", stack.namespace, pod, "server"),
    )


def _under_fault(
    context: MeshContext,
    stack: Stack,
    title: str,
    inject: Callable[[], None],
    heal: Callable[[], None],
) -> None:
    with context.under_load(
        stack, f"{title} (two seconds not counted)", connections=1, timeout=DEADLINE
    ) as load:
        before = context.proxy_metrics(load._pod)
        inject()
        fault = load.mark("fault")
        try:
            _sleep_until(fault + EARLY_SECONDS)
            early = context.proxy_metrics(load._pod)
            # What is waited for is this time: how long the replica is not there.
            _sleep_until(fault + FAULT_SECONDS)
            late = context.proxy_metrics(load._pod)
        finally:
            heal()
        load.mark("healed")
        stack.wait_ready(3)
    _tell(context, title, before, early, late)
    answered, counted = _answered(load.report)
    context.figure(f"{title}: answered within {DEADLINE:g} s", answered, "", f">= {LEAST_ANSWERED}")
    lost = round((1 - answered) * counted)
    context.note(
        f"{title}: {load.report.lost - lost} failed in the first {SETTLING_SECONDS:g} s, "
        f"{lost} of {counted} after them; {load.report.words()}"
    )
    assert answered >= LEAST_ANSWERED, (
        f"{answered:.4%} of {counted} answered, not counting {SETTLING_SECONDS:g} s: "
        + _first(load.report)
    )


def _answered(report: Report) -> tuple[float, int]:
    """The share with an OK of the requests that were due while the replica was not there, less the
    settling, and their number. What failed later is counted as lost, too."""
    fault, healed = report.marks["fault"], report.marks["healed"]
    assert report.failed == len(report.failures), "more failures than the report keeps"
    assert not report.not_sent, f"{report.not_sent} requests were not sent: {report.words()}"
    # Requests leave by the clock.
    counted = round((healed - fault - SETTLING_SECONDS) * report.rate)
    lost = sum(failure.due >= fault + SETTLING_SECONDS for failure in report.failures)
    return 1 - lost / counted, counted


def _tell(
    context: MeshContext,
    title: str,
    before: Iterable[proxy.Sample],
    early: Iterable[proxy.Sample],
    late: Iterable[proxy.Sample],
) -> None:
    """Keep what the caller's proxy says of its tries and of its view of the replicas."""
    tries = {
        name.removeprefix("outbound_grpc_route_").removesuffix("_total"): round(
            proxy.total(late, name) - proxy.total(before, name)
        )
        for name in COUNTED
    }
    context.note(f"{title}: the caller's proxy counted {tries}")
    moments = {
        "before": before,
        f"after {EARLY_SECONDS:g} s": early,
        f"after {FAULT_SECONDS:g} s": late,
    }
    for moment, samples in moments.items():
        states = proxy.by_label(
            samples, "outbound_http_balancer_endpoints", "endpoint_state", **BALANCED
        )
        words = ", ".join(f"{number:.0f} {state}" for state, number in sorted(states.items()))
        context.note(f"{title}, {moment}: replicas {words}")


def _first(report: Report) -> str:
    fault = report.marks["fault"]
    return "; ".join(
        f"due {f.due - fault:+.2f} s {f.code}: {f.message}" for f in report.failures[:8]
    )


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))
