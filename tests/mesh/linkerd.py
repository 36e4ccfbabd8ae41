"""The Linkerd of the cluster: whether there is one, and its own command."""

from __future__ import annotations

import os
import shlex
import shutil

from kubernetes import client

from tests.cluster.cluster import CALL_SECONDS, Cluster
from tests.cluster.suite import Skip

NAMESPACE = "linkerd"
CONTROLLERS = ("linkerd-destination", "linkerd-identity", "linkerd-proxy-injector")


def missing(cluster: Cluster) -> str:
    """Why no case can be run on this cluster; empty when its control plane is there."""
    for name in CONTROLLERS:
        try:
            found = cluster.apps.read_namespaced_deployment(
                name, NAMESPACE, _request_timeout=CALL_SECONDS
            )
        except client.ApiException as error:
            if error.status != 404:
                raise
            return f"the cluster has no Linkerd: there is no Deployment {NAMESPACE}/{name}"
        if not found.status.ready_replicas:
            return f"Deployment {NAMESPACE}/{name} has no ready pod"
    return ""


def version(cluster: Cluster) -> str:
    """The control plane's version, such as edge-26.6.3."""
    found = cluster.apps.read_namespaced_deployment(
        CONTROLLERS[0], NAMESPACE, _request_timeout=CALL_SECONDS
    )
    annotations = found.spec.template.metadata.annotations or {}
    return str(annotations.get("linkerd.io/created-by", "")).rpartition(" ")[2] or "unknown"


def command() -> list[str]:
    """The `linkerd` command: LINKERD, or what is on PATH; raises Skip without one."""
    words = shlex.split(os.environ.get("LINKERD", "")) or [shutil.which("linkerd") or ""]
    if not words[0]:
        raise Skip("no linkerd on PATH, and LINKERD is not set")
    return words
