"""Signals to a container that has no shell, from inside the cluster."""

from __future__ import annotations

import time
from typing import Any

from kubernetes import client

from tests.cluster.cluster import CALL_SECONDS, container
from tests.cluster.stack import Stack
from tests.cluster.traffic import TOOLS_IMAGE

START_SECONDS = 60.0
# Linkerd's default; the kernel lets a process signal those of its own user alone.
PROXY_USER = 2102


def send(stack: Stack, pod: str, name: str, number: int, user: int) -> None:
    """Send signal `number` to the first process of container `name`, which runs as `user`.

    As `kubectl debug --target` does it: an ephemeral container in that container's process namespace.
    Raises AssertionError when it could not, WaitTimeoutError when it did not start.
    """
    ephemeral = f"signal-{time.time_ns() // 1_000_000}"
    body = {
        "spec": {
            "ephemeralContainers": [
                {
                    "name": ephemeral,
                    "targetContainerName": name,
                    "image": TOOLS_IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", f"import os; os.kill(1, {number})"],
                    # Pod Security `restricted` judges these, too.
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": user,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                }
            ]
        }
    }
    stack.cluster.core.patch_namespaced_pod_ephemeralcontainers(
        pod, stack.namespace, body, _request_timeout=CALL_SECONDS
    )

    def ended(pods: dict[str, Any]) -> Any:
        found = pods[pod].status.ephemeral_container_statuses or [] if pod in pods else []
        status = next((one for one in found if one.name == ephemeral), None)
        return status and status.state and status.state.terminated

    end: client.V1ContainerStateTerminated = stack.cluster.wait_pods(
        stack.namespace, ended, f"the signal to {name} of {pod} to be sent", START_SECONDS
    )
    assert end.exit_code == 0, f"no signal to {name} of {pod}: {end.reason} {end.message}"


def restarts(stack: Stack, pod: str, name: str) -> int:
    """How often a container of a pod was restarted."""
    found = next(one for one in stack.pods() if one.metadata.name == pod)
    return int(container(found, name).restart_count)
