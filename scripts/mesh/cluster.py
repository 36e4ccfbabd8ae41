"""What there is in the cluster before anything is done to it. Reads, never changes; no keys."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from scripts.mesh.command import KUBECTL, get, output

NAMESPACE = "linkerd"
CNI_NAMESPACE = "linkerd-cni"
ROUTE_KINDS = ("httproutes", "grpcroutes")
GATEWAY_GROUP = "gateway.networking.k8s.io"


@dataclass(frozen=True)
class RouteKind:
    """A CRD of the Gateway API: its bundle's version and channel, which versions it serves.

    `version` and `channel` are empty where the CRD doesn't say.
    """

    name: str
    version: str
    channel: str
    served: frozenset[str]


@dataclass(frozen=True)
class Installed:
    """A control plane: its version, who installed it (linkerd, helm or empty), how.

    `anchors` and `issuer` are certificates in PEM, empty where they can't be read.
    """

    version: str
    by: str
    highly_available: bool
    with_cni: bool
    anchors: str
    issuer: str


@dataclass(frozen=True)
class Cluster:
    """What preflight looks at. `labels` of the namespace linkerd, None where there is none."""

    version: str
    schedulable_nodes: int
    routes: Mapping[str, RouteKind]
    labels: Mapping[str, str] | None
    installed: Installed | None


def look() -> Cluster:
    """Ask the cluster of the current context; raises ChopstickError when it doesn't answer."""
    version = json.loads(
        output(
            [*KUBECTL, "version", "-o", "json"],
            "Is it the right context (kubectl config current-context), and the cluster up?",
        )
    )
    namespace = get("namespace", NAMESPACE)
    return Cluster(
        version=version["serverVersion"]["gitVersion"],
        schedulable_nodes=_schedulable((get("nodes") or {}).get("items", [])),
        routes={kind: found for kind in ROUTE_KINDS if (found := _route_kind(kind))},
        labels=None if namespace is None else namespace["metadata"].get("labels", {}),
        installed=_installed(),
    )


def _schedulable(nodes: list[dict[str, Any]]) -> int:
    """Nodes that are ready and take a pod without tolerations."""

    def takes_pods(node: dict[str, Any]) -> bool:
        blocked = any(
            taint["effect"] in ("NoSchedule", "NoExecute")
            for taint in node["spec"].get("taints", [])
        )
        ready = any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in node["status"]["conditions"]
        )
        return ready and not blocked and not node["spec"].get("unschedulable", False)

    return sum(map(takes_pods, nodes))


def _route_kind(name: str) -> RouteKind | None:
    found = get("crd", f"{name}.{GATEWAY_GROUP}")
    if found is None:
        return None
    notes = found["metadata"].get("annotations", {})
    return RouteKind(
        name=name,
        version=notes.get(f"{GATEWAY_GROUP}/bundle-version", ""),
        channel=notes.get(f"{GATEWAY_GROUP}/channel", ""),
        served=frozenset(each["name"] for each in found["spec"]["versions"] if each["served"]),
    )


def _installed() -> Installed | None:
    config = get("configmap", "linkerd-config", "-n", NAMESPACE)
    if config is None:
        return None
    values = yaml.safe_load(config["data"]["values"])
    anchors = get("configmap", "linkerd-identity-trust-roots", "-n", NAMESPACE)
    return Installed(
        version=values.get("linkerdVersion", ""),
        by=_installer(),
        highly_available=bool(values.get("highAvailability", False)),
        with_cni=bool(values.get("cniEnabled", False)),
        anchors=(anchors or {}).get("data", {}).get("ca-bundle.crt", ""),
        issuer=_issuer(),
    )


def _issuer() -> str:
    """The issuer's certificate. Only it is asked for by name: the key lies beside it."""
    secret = [*KUBECTL, "get", "secret", "linkerd-identity-issuer", "-n", NAMESPACE]
    for key in ("crt\\.pem", "tls\\.crt"):
        found = output([*secret, "--ignore-not-found", "-o", f"jsonpath={{.data.{key}}}"])
        if found:
            return b64decode(found).decode()
    return ""


def _installer() -> str:
    """Who keeps the installation's values. By name alone: both Secrets hold the issuer's key."""
    of_linkerd = [
        *KUBECTL,
        *("get", "secret", "linkerd-config-overrides", "-n", NAMESPACE),
        *("--ignore-not-found", "-o", "name"),
    ]
    of_helm = [
        *KUBECTL,
        *("get", "secret", "-n", NAMESPACE, "-l", "owner=helm,name=linkerd-control-plane"),
        *("-o", "name"),
    ]
    if output(of_helm).strip():
        return "helm"
    return "linkerd" if output(of_linkerd).strip() else ""


def unmeshed_pods(namespace: str) -> list[str]:
    """Running pods of a namespace without Linkerd's proxy, hostNetwork and finished ones aside."""
    found = []
    for pod in (get("pods", "-n", namespace) or {}).get("items", []):
        spec = pod["spec"]
        containers = [*spec["containers"], *spec.get("initContainers", [])]
        if (
            pod["status"].get("phase") not in ("Succeeded", "Failed")
            and not spec.get("hostNetwork", False)
            and "linkerd-proxy" not in [container["name"] for container in containers]
        ):
            found.append(pod["metadata"]["name"])
    return found


def namespaces_to_mesh() -> set[str]:
    """Namespaces whose pods Linkerd is told to mesh, all of them."""
    return {
        item["metadata"]["name"]
        for item in (get("namespaces") or {}).get("items", [])
        if item["metadata"].get("annotations", {}).get("linkerd.io/inject")
        in ("enabled", "ingress")
    }


def namespaces_with_proxies() -> set[str]:
    """Namespaces in which a pod has Linkerd's proxy, the control plane's own aside."""
    pods = get("pods", "--all-namespaces", "-l", f"linkerd.io/control-plane-ns={NAMESPACE}")
    found = {pod["metadata"]["namespace"] for pod in (pods or {}).get("items", [])}
    return found - {NAMESPACE}
