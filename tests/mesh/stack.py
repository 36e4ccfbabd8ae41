"""A meshed overlay on the cluster: its pods refuse whoever is no named caller."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.cluster.stack import Stack
from tests.mesh import proxy

VARIATIONS = Path(__file__).with_name("overlays")
# The API server is the client of every pod proxy; the kubelet's paths are open to it, too.
_OPEN_TO_ALL = 8502


class MeshedStack(Stack):
    """What an overlay with Linkerd puts into its namespace."""

    def get(self, pod: str, port: int, path: str) -> tuple[int, str]:
        """Status and body of an HTTP GET on a pod's port, from inside the pod where others may not."""
        if port == _OPEN_TO_ALL:
            return super().get(pod, port, path)
        return proxy.get(self.cluster, self.namespace, pod, port, path)

    def provide_namespace(self) -> None:
        """Make the namespace as the overlay has it, so that Secrets can be there before the rest."""
        names = self.cluster.kubectl("get", "namespaces", "--output=name").split()
        if f"namespace/{self.namespace}" in names:
            return
        rendered = self.cluster.kubectl("kustomize", str(self.overlay))
        for found in yaml.safe_load_all(rendered):
            if found["kind"] == "Namespace":
                self.cluster.apply(found)

    def remove(self) -> None:
        """Remove all that the overlay has made, also outside its namespace."""
        self.cluster.kubectl(
            "delete", "-k", str(self.overlay), "--ignore-not-found", "--wait=false", check=False
        )
        self.delete()
