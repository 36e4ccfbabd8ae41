"""4: one request more than the limit of a second is refused, for each caller and each pod."""

from __future__ import annotations

import time
from pathlib import Path

from tests.cluster.stack import Stack
from tests.mesh import proxy
from tests.mesh.dialogue import Answer, Talk, talking, until
from tests.mesh.suite import MeshContext, case

OVERLAYS = Path(__file__).parents[1] / "overlays"
NAMESPACE = "e2e-limited"
# Those of the overlay.
LIMIT, OVERRIDE = 5, 50
STATUS = "/v1/models/chopstick"
# After it the bucket is full again.
SECOND = 1.1


@case("rate-limit", "request limit+1 of a second is refused, for each caller and each pod")
def rate_limit(context: MeshContext) -> None:
    stack = context.stack(NAMESPACE, OVERLAYS / "limited")
    stack.apply()
    stack.wait_ready(2)
    pods = [pod.status.pod_ip for pod in stack.pods()]
    with (
        talking(context.clients(NAMESPACE, "model-client", inject=True), "one") as one,
        talking(context.clients(NAMESPACE, "web", inject=True), "other") as other,
        talking(context.clients(NAMESPACE, "model-admin", inject=True), "exempt") as exempt,
    ):
        for talk in (one, other, exempt):
            _known(talk, pods)
        first, second = (f"{address}:8500" for address in pods)
        _one_too_many(one, first)
        # At once, with the bucket of `one` empty.
        assert _burst(other, first, LIMIT).counts == {"OK": LIMIT}, "another caller is refused, too"
        assert _burst(one, second, LIMIT).counts == {"OK": LIMIT}, "another pod refuses, too"
        context.note(f"gRPC: request {LIMIT + 1} of a second is RESOURCE_EXHAUSTED; at once another "
                     "caller at this pod, and this caller at another pod, are answered")  # fmt: skip
        _override(exempt, first)
        context.note(f"with an override of {OVERRIDE}, {2 * LIMIT} at once are answered")
        _rest(one, f"{pods[0]}:8501")
        context.note(f"REST: request {LIMIT + 1} of a second is 429")
        _counted(context, stack)


def _known(talk: Talk, pods: list[str]) -> None:
    """Have connections and policies, so that a burst is one."""
    for address in pods:
        for target, ask in ((f"{address}:8500", talk.rpc), (f"{address}:8501", talk.rest)):
            what = STATUS if ask == talk.rest else "Predict"
            until(lambda: ask(target, what).code in ("OK", "200"), f"{target} to answer", 30)  # noqa: B023


def _burst(talk: Talk, target: str, number: int) -> Answer:
    return talk.rpc(target, "Predict", together=number)


def _one_too_many(talk: Talk, target: str) -> None:
    time.sleep(SECOND)  # what is waited for is this time
    answer = _burst(talk, target, LIMIT + 1)
    assert answer.counts["OK"] == LIMIT, answer
    assert answer.counts.keys() - {"OK"} <= {"RESOURCE_EXHAUSTED", "GARBLED"}, answer


def _override(talk: Talk, target: str) -> None:
    time.sleep(SECOND)
    answer = _burst(talk, target, 2 * LIMIT)
    assert answer.counts == {"OK": 2 * LIMIT}, answer


def _rest(talk: Talk, target: str) -> None:
    time.sleep(SECOND)
    answer = talk.rest(target, STATUS, together=LIMIT + 1)
    assert answer.counts == {"200": LIMIT, "429": 1}, answer


def _counted(context: MeshContext, stack: Stack) -> None:
    counted = {
        pod.metadata.name: proxy.total(
            context.proxy_metrics(pod.metadata.name, stack.namespace),
            "inbound_http_local_ratelimit_total",
        )
        for pod in stack.pods()
    }
    context.note(f"inbound_http_local_ratelimit_total: {counted}")
    assert sum(counted.values()) >= 2, counted
