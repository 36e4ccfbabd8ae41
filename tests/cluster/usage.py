"""What a pod's sidecar takes, as its kubelet counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tests.cluster.stack import Stack


@dataclass(frozen=True)
class Sample:
    """The use of one pod's sidecar."""

    memory: float
    """Working set in MiB."""
    cpu: float
    """CPU seconds so far."""
    at: float
    """Unix time of the latter."""


def sample_all(stack: Stack) -> dict[str, Sample]:
    """The sidecars of all pods of a stack, by pod."""
    return {
        pod.metadata.name: sample(_summary(stack, pod.spec.node_name), pod.metadata.name)
        for pod in stack.pods()
    }


def _summary(stack: Stack, node: str) -> dict[str, Any]:
    path = f"/api/v1/nodes/{node}/proxy/stats/summary"
    found: dict[str, Any] = json.loads(stack.cluster.kubectl("get", "--raw", path))
    return found


def sample(summary: dict[str, Any], pod: str) -> Sample:
    """A pod's sidecar in a kubelet's summary.

    Its workingSetBytes is what cadvisor calls container_memory_working_set_bytes; the summary names
    containers with every runtime, cadvisor's page with some.
    """
    for found in summary["pods"]:
        if found["podRef"]["name"] != pod:
            continue
        for container in found.get("containers", ()):
            if container["name"] == "health":
                memory, cpu = container["memory"], container["cpu"]
                at = datetime.fromisoformat(cpu["time"]).timestamp()
                return Sample(
                    memory["workingSetBytes"] / 2**20, cpu["usageCoreNanoSeconds"] / 1e9, at
                )
    raise AssertionError(f"the kubelet's summary has no container health of {pod}")
