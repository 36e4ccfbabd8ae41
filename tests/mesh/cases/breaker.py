"""3: a caller's breaker opens at exactly its limit and closes again, seen in its proxy's metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.stack import NAME, Stack
from tests.mesh import proxy
from tests.mesh.dialogue import Answer, Talk, talk_with, until, waiting
from tests.mesh.suite import MeshContext, case

OVERLAYS = Path(__file__).parents[1] / "overlays"
NAMESPACE = "e2e-breaker"
LIMIT = "balancer.linkerd.io/failure-accrual-consecutive-max-failures"
PENALTY = "balancer.linkerd.io/failure-accrual-consecutive-min-penalty"
# What model-client may not: refused by the server's proxy, and no route repeats it.
REFUSED, CODES = "HandleReloadConfigRequest", {"PERMISSION_DENIED", "GARBLED"}
# Far below a penalty, far above an answer on a busy machine.
AT_ONCE_SECONDS = 0.5
PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Seen:
    """One request, and how the caller's proxy counted its replica meanwhile."""

    answer: Answer
    seconds: float
    ready: bool
    """At any moment."""
    pending: bool
    """At any moment."""


@case("breaker", "the breaker opens at its limit, not before, and closes after an answered probe")
def breaker(context: MeshContext) -> None:
    """The only replica, so that requests wait while the breaker is open.

    The gauge of ready and pending replicas is set when the proxy wants to use one, that is with the
    next request: a second process in the caller's pod reads it meanwhile.
    """
    stack = context.stack(NAMESPACE, OVERLAYS / "breaker")
    stack.apply()
    stack.wait_ready(1)
    annotations = _annotations(stack)
    limit, penalty = int(annotations[LIMIT]), float(annotations[PENALTY].removesuffix("s"))
    clients = context.clients(NAMESPACE, "model-client", inject=True)
    with (
        waiting(clients, "asker") as pod,
        talk_with(clients, pod) as talk,
        talk_with(clients, pod) as watcher,
    ):
        until(lambda: talk.rpc(stack.grpc, "Predict").code == "OK", "the first answer", 30)

        def asked(rpc: str) -> Seen:
            return _watched(watcher, lambda: talk.rpc(stack.grpc, rpc, timeout=PATIENCE_SECONDS))

        # Twice: the answer in between has to start the count anew.
        for _ in range(2):
            _refuse(talk, stack, limit - 1)
            _closed(asked("Predict"), f"after {limit - 1} refusals")
        _refuse(talk, stack, limit)
        probe = asked(REFUSED)
        _open(probe, CODES, penalty, f"after {limit} refusals")
        context.note(
            f"after {limit - 1} refusals in a row the replica is ready and the next request "
            f"answered at once; after {limit} it is pending, the next request is a probe and waits"
        )
        context.figure("breaker: a probe waits", probe.seconds, "s", f">= {penalty:g}")
        second = asked("Predict")
        _open(second, {"OK"}, penalty, "after one refused probe")
        context.figure("breaker: the next probe waits", second.seconds, "s", f">= {penalty:g}")
        # On probation, one would open it.
        _refuse(talk, stack, limit - 1)
        _closed(asked("Predict"), f"after an answered probe and {limit - 1} refusals")
        context.note(f"closed by an answered probe: {limit - 1} more refusals leave it so")


def _annotations(stack: Stack) -> dict[str, str]:
    service = stack.cluster.core.read_namespaced_service(NAME, stack.namespace)
    return dict(service.metadata.annotations)


def _refuse(talk: Talk, stack: Stack, times: int) -> None:
    answer = talk.rpc(stack.grpc, REFUSED, times=times)
    assert set(answer.codes) <= CODES, f"{answer.codes}: {answer.detail}"


def _watched(watcher: Talk, ask: Callable[[], Answer]) -> Seen:
    """Ask, and look at the gauge until there is an answer and once more."""
    seen: list[dict[str, float]] = []
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        while not asking.done():
            seen.append(_replicas(watcher))
        seconds = time.monotonic() - began
    seen.append(_replicas(watcher))
    return Seen(
        asking.result(),
        seconds,
        any(states["ready"] == 1 for states in seen),
        any(states["pending"] == 1 for states in seen),
    )


def _replicas(talk: Talk) -> dict[str, float]:
    """Replicas by state, as the caller's proxy sees those of the gRPC port."""
    return proxy.by_label(
        talk.metrics(), "outbound_http_balancer_endpoints", "endpoint_state",
        backend_name=NAME, backend_port="8500",
    )  # fmt: skip


def _closed(seen: Seen, when: str) -> None:
    assert seen.answer.codes == ["OK"], f"{when}: {seen}"
    assert seen.seconds < AT_ONCE_SECONDS, f"{when}, the request waited: {seen}"
    assert seen.ready, f"{when}: {seen}"
    assert not seen.pending, f"{when}, the replica was pending: {seen}"


def _open(seen: Seen, codes: set[str], penalty: float, when: str) -> None:
    assert seen.pending, f"{when}, the replica was not pending: {seen}"
    # A request that came a moment after the breaker opened waits that much less.
    assert seen.seconds > penalty - AT_ONCE_SECONDS / 2, f"{when}, nothing waited: {seen}"
    assert seen.answer.code in codes, f"{when}: {seen}"
