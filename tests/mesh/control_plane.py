"""Parts of the control plane taken away, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.cluster.cluster import CALL_SECONDS, Cluster
from tests.mesh.linkerd import NAMESPACE

AWAY_SECONDS = 120.0
BACK_SECONDS = 180.0


@contextlib.contextmanager
def away(cluster: Cluster, name: str) -> Iterator[None]:
    """A block during which a Deployment of the control plane has no pod; it is back at its end."""
    of = f"--namespace={NAMESPACE}"
    found = cluster.apps.read_namespaced_deployment(name, NAMESPACE, _request_timeout=CALL_SECONDS)
    replicas = found.spec.replicas
    selector = ",".join(f"{key}={value}" for key, value in found.spec.selector.match_labels.items())
    try:
        cluster.kubectl(of, "scale", f"deployment/{name}", "--replicas=0")
        cluster.wait_pods(
            NAMESPACE, lambda pods: not pods, f"every pod of {name} to be gone", AWAY_SECONDS,
            selector,
        )  # fmt: skip
        yield
    finally:
        cluster.kubectl(of, "scale", f"deployment/{name}", f"--replicas={replicas}")
        cluster.kubectl(
            of, "rollout", "status", f"deployment/{name}", f"--timeout={BACK_SECONDS:.0f}s",
            seconds=BACK_SECONDS + 10,
        )  # fmt: skip
