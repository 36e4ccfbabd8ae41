"""1: `unmeshed` as it is, from nothing to a prediction."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.cluster.cluster import CALL_SECONDS
from tests.cluster.suite import Context, case
from tests.cluster.usage import sample_all

LENGTHS = ("180", "240", "330")


@case("deploy", "unmeshed applied as it is: ready, restricted, spread, no token, predictions")
def deploy(context: Context) -> None:
    stack = context.unmeshed
    stack.delete()
    began = time.monotonic()
    stack.apply()
    stack.wait_ready(3)
    context.figure("apply to 3 ready", time.monotonic() - began, "s")
    stack.rolled_out()
    pods = stack.ready_pods()

    _restricted(context)
    nodes = {pod.spec.node_name for pod in pods}
    expected = min(3, len(context.cluster.nodes()))
    assert len(nodes) == expected, f"3 pods on {len(nodes)} of {expected} nodes: {sorted(nodes)}"
    for pod in pods:
        _no_token(context, pod)

    by_grpc, by_rest = (
        _probabilities(
            context.callers.run("predict", ["predict", target, *LENGTHS, "--json", *rest])
        )
        for target, rest in ((stack.grpc, []), (stack.rest, ["--rest"]))
    )
    assert sorted(by_grpc) == [float(length) for length in LENGTHS], by_grpc
    assert by_grpc == by_rest, f"gRPC says {by_grpc}, REST says {by_rest}"
    context.note(f"predictions through the Service, the same by gRPC and REST: {by_grpc}")
    context.samples = sample_all(stack)


def _restricted(context: Context) -> None:
    """All pods got in, and one that is not restricted does not."""
    namespace = context.unmeshed.namespace
    found = context.cluster.core.read_namespace(namespace, _request_timeout=CALL_SECONDS)
    level = (found.metadata.labels or {}).get("pod-security.kubernetes.io/enforce")
    assert level == "restricted", f"namespace {namespace} enforces {level}"
    said = context.unmeshed.kubectl(
        "run", "intruder", "--image=none", "--privileged", "--restart=Never", "--dry-run=server",
        check=False,
    )  # fmt: skip
    assert "violates PodSecurity" in said, f"{namespace} admits a privileged pod: {said}"


def _no_token(context: Context, pod: Any) -> None:
    for volume in pod.spec.volumes or []:
        sources = volume.projected.sources if volume.projected else []
        assert not any(source.service_account_token for source in sources), (
            f"{pod.metadata.name} mounts a token: volume {volume.name}"
        )
    listed = context.unmeshed.kubectl(
        "exec", pod.metadata.name, "--container=health", "--",
        "python", "-c", "import os; print(os.path.exists('/var/run/secrets/kubernetes.io'))",
    )  # fmt: skip
    assert listed.split()[-1] == "False", f"{pod.metadata.name} has a token: {listed}"


def _probabilities(said: str) -> dict[float, list[float]]:
    # REST writes float32 in decimal; six digits are what both carry.
    return {
        row["length"]: [round(float(p), 6) for p in row["probabilities"].values()]
        for row in json.loads(said)["predictions"]
    }
