"""2: changes that must not cost one request, nor more than a bounded wait.

The wait is judged against one that was measured on the same pods in the same run, beside the CPU that
such a change burns: the same change, made to servers that nobody calls.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.cluster import faults
from tests.cluster.cluster import container, is_ready
from tests.cluster.models import GOOD, NEXT
from tests.cluster.stack import Stack
from tests.cluster.traffic import Load
from tests.cluster.witness import Witness
from tests.mesh import control_plane, signals
from tests.mesh.linkerd import NAMESPACE as CONTROL_PLANE
from tests.mesh.proxy import CONTAINER as PROXY
from tests.mesh.stack import VARIATIONS
from tests.mesh.suite import CI, FULL, MeshContext, Skip, case

# The autoscaler looks every 15 s.
SCALE_SECONDS = 150.0
RESTART_SECONDS = 60.0
BOUND_SECONDS = 0.1  # the p99 that is good enough, whatever it was before
DOWN_SECONDS = 120.0
CI_DOWN_SECONDS = 15.0

ONE_BY_ONE = "three pods started one after another"
AT_ONCE = "three pods started at once"
QUIET = "nothing"


def _one_by_one(idle: Stack) -> None:
    idle.kubectl("rollout", "restart", "deployment")
    idle.rolled_out()
    idle.wait_terminated()


def _at_once(idle: Stack) -> None:
    idle.replicas_between(6, 6)
    idle.wait_ready(6, SCALE_SECONDS)
    idle.replicas_between(3, 3)
    idle.wait_ready(3, SCALE_SECONDS)


BURNS: dict[str, Callable[[Stack], None]] = {
    ONE_BY_ONE: _one_by_one,
    AT_ONCE: _at_once,
    QUIET: lambda _: None,
}


def _before(context: MeshContext, burn: str) -> float:
    """The p99 in seconds beside this burn and no change; measured once in a run."""
    if burn not in context.references:
        idle = context.idle() if burn != QUIET else None
        title = f"no change, beside {burn}"
        with context.without_failure(context.prod, title, requests=CI.requests) as load:
            if idle:
                BURNS[burn](idle)
        context.references[burn] = load.report.p99
    return context.references[burn]


@contextlib.contextmanager
def _unnoticed(context: MeshContext, title: str, burn: str, **options: Any) -> Iterator[Load]:
    """A change under load: no request fails, and the p99 stays in its bound."""
    before = _before(context, burn)
    bound = max(BOUND_SECONDS, 2 * before)
    with context.without_failure(context.prod, title, **options) as load:
        yield load
    context.figure(
        f"{title}: p99", load.report.p99 * 1e3, "ms",
        f"<= {bound * 1e3:.0f} (before: {before * 1e3:.1f})",
    )  # fmt: skip
    assert load.report.p99 <= bound, (
        f"{title}: p99 {load.report.p99 * 1e3:.0f} ms, more than {bound * 1e3:.0f}"
    )


@case("rollout", "a rolling update to model version 2, and `kubectl rollout undo`")
def rollout(context: MeshContext) -> None:
    stack = context.serving()
    with _unnoticed(context, "rolling update to version 2", ONE_BY_ONE) as load:
        with Witness(stack) as seen:
            load.mark("apply")
            stack.apply(VARIATIONS / "version-2")
            stack.rolled_out()
            load.mark("rolled out")
        stack.wait_ready(3)
    assert seen.fewest_ready >= 3, f"only {seen.fewest_ready} pods were ready"
    versions = load.report.versions
    assert versions.get(GOOD), f"no answer of version {GOOD}: {versions}"
    assert versions.get(NEXT), f"no answer of version {NEXT}: {versions}"

    with _unnoticed(context, "kubectl rollout undo", ONE_BY_ONE) as load:
        load.mark("undo")
        stack.undo()
        stack.rolled_out()
        load.mark("rolled out")
        stack.wait_ready(3)
    _meshed(stack)


@case("scale", "3 to 6 to 3 pods")
def scale(context: MeshContext) -> None:
    stack = context.serving()
    with _unnoticed(context, "scale 3 to 6 to 3", AT_ONCE) as load, Witness(stack) as seen:
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
def drain(context: MeshContext) -> None:
    nodes = context.cluster.nodes()
    if len(nodes) < 2:
        raise Skip("a drain needs a second node")
    stack = context.serving()
    _before(context, ONE_BY_ONE)
    # Its pods on the node would be evicted, too, and their starts would come on top.
    context.without_idle()
    drained = _drainable(stack)
    # The client is a pod without an owner; a drain would refuse to evict it.
    elsewhere = next(node for node in nodes if node != drained)
    with (
        _unnoticed(context, "node drain", ONE_BY_ONE, node=elsewhere) as load,
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
    _meshed(stack)


def _drainable(stack: Stack) -> str:
    """A node with a server and without the injector.

    Evicted together, the server's next pod could come before the injector's: outside the mesh, where
    Linkerd is installed without high availability (its webhook then fails open).
    """
    listed = stack.cluster.core.list_namespaced_pod(CONTROL_PLANE).items
    injectors = {p.spec.node_name for p in listed if "injector" in p.metadata.name}
    nodes = [pod.spec.node_name for pod in stack.ready_pods()]
    return next((node for node in nodes if node not in injectors), nodes[0])


@case("proxy-restarted", "the proxy of one server restarted (SIGTERM)")
def proxy_restarted(context: MeshContext) -> None:
    stack = context.serving()
    pod = stack.ready_pods()[0].metadata.name
    before = signals.restarts(stack, pod, PROXY)
    with _unnoticed(context, "a server's proxy restarted", QUIET) as load:
        load.mark("SIGTERM")
        signals.send(stack, pod, PROXY, signal.SIGTERM, signals.PROXY_USER)
        _back(context, stack, pod, before)
        load.mark("back")


@case("proxy-killed", "the proxy of one server killed (SIGKILL)")
def proxy_killed(context: MeshContext) -> None:
    faults.command()
    stack = context.serving()
    pod = stack.ready_pods()[0].metadata.name
    before = signals.restarts(stack, pod, PROXY)
    with _unnoticed(context, "a server's proxy killed", QUIET) as load:
        load.mark("SIGKILL")
        faults.send("kill", stack.namespace, pod, PROXY)
        _back(context, stack, pod, before)
        load.mark("back")


def _back(context: MeshContext, stack: Stack, pod: str, before: int) -> None:
    began = time.monotonic()

    def restarted(pods: dict[str, Any]) -> bool:
        status = container(pods[pod], PROXY) if pod in pods else None
        return bool(status and status.restart_count > before and is_ready(pods[pod]))

    stack.cluster.wait_pods(
        stack.namespace, restarted, f"{pod} to be ready with a new proxy", RESTART_SECONDS
    )
    context.figure("proxy's pod ready again after", time.monotonic() - began, "s")


def _without(name: str, title: str) -> None:
    @case(f"{name}-down", f"{title} down")
    def down(context: MeshContext) -> None:
        stack = context.serving()
        seconds = DOWN_SECONDS if context.size is FULL else CI_DOWN_SECONDS
        with (
            _unnoticed(context, f"{title} down for {seconds:.0f} s", QUIET) as load,
            Witness(stack) as seen,
        ):
            load.mark("down")
            with control_plane.away(context.cluster, f"linkerd-{name}"):
                time.sleep(seconds)  # what is under test is this time
                load.mark("up")
            load.mark("back")
        assert not seen.became_unready, f"unready: {sorted(seen.became_unready)}"
        assert not seen.restarts, f"restarted: {seen.restarts}"


_without("destination", "destination")
_without("identity", "identity")
_without("proxy-injector", "injector")


def _meshed(stack: Stack) -> None:
    bare = [pod.metadata.name for pod in stack.pods() if container(pod, PROXY) is None]
    assert not bare, f"pods without a proxy: {bare}"
