"""Pod Security `restricted`, as kubernetes.io/docs/concepts/security/pod-security-standards has it.

The API server judges the same way (tests/cluster applies everything to such a namespace); this
says it in `make test` and by the name of the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Volume types that `restricted` allows. An image is not in the page's list yet is no type that a
# node's file system is reached by; Kubernetes 1.35 admits it (seen on a real API server).
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
HOST = ("hostNetwork", "hostPID", "hostIPC")


def violations(pod: dict[str, Any]) -> Iterator[str]:
    """What in a pod's spec `restricted` would refuse."""
    for field in HOST:
        if pod.get(field):
            yield f"{field} is set"
    for volume in pod.get("volumes", []):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is a {kind}"
    shared = pod.get("securityContext", {})
    if shared.get("sysctls"):
        yield "sysctls are set"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        for problem in _of_container(container, shared):
            yield f"container {container['name']}: {problem}"


def _of_container(container: dict[str, Any], shared: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})

    def effective(field: str) -> Any:
        return own.get(field, shared.get(field))

    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if effective("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if effective("runAsUser") == 0:
        yield "runAsUser is 0"
    if (effective("seccompProfile") or {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "no seccompProfile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities: ALL is not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "a hostPort"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
