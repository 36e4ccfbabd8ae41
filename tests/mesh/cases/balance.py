"""1: one channel, three servers: with no mesh, in the mesh, with a slow server, through the ingress."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tests.cluster.cluster import is_ready
from tests.cluster.stack import NAME, ROLLOUT_SECONDS, Stack
from tests.cluster.suite import Change
from tests.cluster.traffic import Clients, traffic
from tests.mesh.shares import Shares
from tests.mesh.suite import MeshContext, case

# Linkerd balances by latency, and counts of equal servers are equal only as far as their latencies are. A
# proxy prefers what answered fast, remembers a slow answer for some 10 s, and multiplies by what is
# under way. With hardly anything under way (200 a second, each answered in 4 ms) a server that is slower by
# a trifle gets little: 10,000 requests were seen to end at 1.48 and 1.53. At 400 some are.
RATE = 400.0
REQUESTS = 10_000
LEAST_UNMESHED = 2.9
MOST_MESHED = 1.35
LEAST_SHARE = 0.2
SLOW_POD = f"{NAME}-slow"
SLOW_SECONDS = 0.05
MOST_SLOW = 1 / 3


@case(
    "balance", "one channel over three servers: unmeshed, meshed, one server slow, by the ingress"
)
def balance(context: MeshContext) -> None:
    prod = context.serving()
    beside = context.beside()
    unmeshed = _measured(context, "unmeshed, one channel", beside, context.plain)
    context.figure("unmeshed: busiest pod over mean", unmeshed.unevenness, "", ">= 2.9")
    meshed = _measured(context, "meshed, one channel", prod, context.callers)
    _figures(context, "meshed", meshed)
    context.ingress.wait_ready()
    ingress = _measured(
        context, "ingress, one channel", prod, context.outsiders,
        context.ingress.grpc, context.ingress.arguments,
    )  # fmt: skip
    _figures(context, "ingress", ingress)
    slowed = _beside_a_slow_one(context, prod)
    context.figure(
        f"one of four slower by {SLOW_SECONDS * 1e3:g} ms: its requests over the others' mean",
        slowed.of(SLOW_POD), "", "< 1/3",
    )  # fmt: skip
    # Of all, and only now: each tells something about the others.
    assert unmeshed.unevenness >= LEAST_UNMESHED, f"unmeshed is shared: {unmeshed.words()}"
    for name, shares in (("meshed", meshed), ("ingress", ingress)):
        assert shares.unevenness <= MOST_MESHED, f"{name} is not balanced: {shares.words()}"
        assert shares.least >= LEAST_SHARE, f"{name} leaves one idle: {shares.words()}"
    assert slowed.of(SLOW_POD) < MOST_SLOW, f"the slow one has too many: {slowed.counts}"


def _measured(
    context: MeshContext,
    title: str,
    stack: Stack,
    clients: Clients,
    target: str = "",
    arguments: Sequence[str] = (),
) -> Shares:
    before = stack.answered()
    began = time.monotonic()
    with traffic(
        clients, target or stack.grpc, rate=RATE, requests=REQUESTS, connections=1,
        arguments=arguments,
    ) as load:  # fmt: skip
        pass
    context.outcome.changes.append(Change(title, load.report, time.monotonic() - began))
    shares = Shares.between(before, stack.answered())
    context.note(f"{title}: {shares.words()}; {load.report.words()}")
    load.report.assert_at_least(REQUESTS)
    load.report.assert_none_failed()
    return shares


def _figures(context: MeshContext, name: str, shares: Shares) -> None:
    context.figure(f"{name}: busiest pod over mean", shares.unevenness, "", "<= 1.35")
    context.figure(f"{name}: least share", shares.least * 100, "%", ">= 20")


def _beside_a_slow_one(context: MeshContext, stack: Stack) -> Shares:
    """As `_measured`, with a fourth server that the Service selects, too.

    It waits 50 ms for each batch to fill: slow without taking the processor from the others.
    """
    stack.cluster.apply(_batching(stack))
    stack.cluster.apply(_slow(stack))
    try:
        stack.cluster.wait_pods(
            stack.namespace,
            lambda pods: SLOW_POD in pods and is_ready(pods[SLOW_POD]),
            f"{SLOW_POD} to be ready",
            ROLLOUT_SECONDS,
        )
        return _measured(context, "meshed, a fourth server slow", stack, context.callers)
    finally:
        stack.kubectl("delete", "pod", SLOW_POD, "--ignore-not-found")
        stack.kubectl("delete", "configmap", SLOW_POD, "--ignore-not-found")


def _batching(stack: Stack) -> dict[str, Any]:
    micros = round(SLOW_SECONDS * 1e6)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": SLOW_POD, "namespace": stack.namespace},
        "data": {
            "batching.config": f"max_batch_size {{ value: 1000 }}\n"
            f"batch_timeout_micros {{ value: {micros} }}\n"
        },
    }


def _slow(stack: Stack) -> dict[str, Any]:
    """A pod of its own, of the Deployment's template: a ReplicaSet adopts only what has its hash."""
    api = stack.cluster.core.api_client
    template = api.sanitize_for_serialization(stack.deployment().spec.template)
    spec = template["spec"]
    server = next(found for found in spec["containers"] if found["name"] == "server")
    server["args"] += [
        "--enable_batching=true",
        "--batching_parameters_file=/etc/slow/batching.config",
    ]
    server["volumeMounts"].append({"name": "slow", "mountPath": "/etc/slow", "readOnly": True})
    spec["volumes"].append({"name": "slow", "configMap": {"name": SLOW_POD}})
    # The template's spread counts by a hash that this pod has not.
    spec.pop("topologySpreadConstraints", None)
    metadata = {**template["metadata"], "name": SLOW_POD, "namespace": stack.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
