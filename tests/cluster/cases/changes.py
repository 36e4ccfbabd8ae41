"""2: changes under load that must not cost one request."""

from __future__ import annotations

from typing import Any

from tests.cluster.models import GOOD, NEXT
from tests.cluster.stack import VARIATIONS, Stack
from tests.cluster.suite import Context, Skip, case
from tests.cluster.witness import Witness

# The autoscaler looks every 15 s.
SCALE_SECONDS = 150.0


def _serves(stack: Stack, version: int) -> None:
    """Every pod says that it is ready with this version."""
    for pod in stack.ready_pods():
        found = stack.version(pod)
        assert found == version, f"{pod.metadata.name} serves {found}, not {version}"


@case("rollout", "a rolling update to model version 2, and `kubectl rollout undo`")
def rollout(context: Context) -> None:
    stack = context.serving()
    with context.without_failure(stack, "rolling update to version 2") as load:
        with Witness(stack) as seen:
            load.mark("apply")
            stack.apply(VARIATIONS / "version-2")
            stack.rolled_out()
            load.mark("rolled out")
        stack.wait_ready(3)
        _serves(stack, NEXT)
    assert seen.fewest_ready >= 3, f"only {seen.fewest_ready} pods were ready"
    versions = load.report.versions
    assert versions.get(GOOD), f"no answer of version {GOOD}: {versions}"
    assert versions.get(NEXT), f"no answer of version {NEXT}: {versions}"

    with context.without_failure(stack, "kubectl rollout undo") as load:
        load.mark("undo")
        stack.undo()
        stack.rolled_out()
        load.mark("rolled out")
        stack.wait_ready(3)
        _serves(stack, GOOD)


@case("scale", "3 to 6 to 3 pods")
def scale(context: Context) -> None:
    stack = context.serving()
    with context.without_failure(stack, "scale 3 to 6 to 3") as load, Witness(stack) as seen:
        try:
            load.mark("six")
            stack.replicas_between(6, 6)
            stack.wait_ready(6, SCALE_SECONDS)
            load.mark("three")
        finally:
            stack.replicas_between(3, 3)
        stack.wait_ready(3, SCALE_SECONDS)
    assert seen.fewest_ready >= 3, f"only {seen.fewest_ready} pods were ready"
    assert seen.most_ready == 6, f"{seen.most_ready} pods were ready at most"


@case("drain", "a node drained and uncordoned")
def drain(context: Context) -> None:
    nodes = context.cluster.nodes()
    if len(nodes) < 2:
        raise Skip("a drain needs a second node")
    stack = context.serving()
    pods: list[Any] = stack.ready_pods()
    drained = pods[0].spec.node_name
    # The client is a pod without an owner; a drain would refuse to evict it.
    elsewhere = next(node for node in nodes if node != drained)
    with (
        context.without_failure(stack, "node drain", node=elsewhere) as load,
        Witness(stack) as seen,
    ):
        try:
            load.mark("drain")
            context.cluster.kubectl(
                "drain", drained, "--ignore-daemonsets", "--delete-emptydir-data",
                "--timeout=120s", seconds=130,
            )  # fmt: skip
            left = [p.metadata.name for p in stack.pods() if p.spec.node_name == drained]
            assert not left, f"still on {drained}: {left}"
            stack.wait_ready(3)
            load.mark("uncordon")
        finally:
            context.cluster.kubectl("uncordon", drained)
    assert seen.fewest_ready >= 2, f"only {seen.fewest_ready} pods were ready: the budget is one"
