"""The objects of one overlay, by what they are."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from tests.manifests.build import Object


class Stack:
    """The objects of one overlay, by what they are. A part that is not there is empty."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def of(self, kind: str) -> list[Object]:
        """The objects of a kind."""
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str) -> Object:
        """The only object of a kind, or an empty one."""
        found = self.of(kind)
        return found[0] if len(found) == 1 else {}

    def named(self, kind: str, name: str) -> Object:
        """The object of a kind with a name, or an empty one."""
        return next((item for item in self.of(kind) if name_of(item) == name), {})

    @cached_property
    def deployment(self) -> dict[str, Any]:
        """The Deployment's spec."""
        return self.one("Deployment")["spec"]

    @cached_property
    def pod(self) -> dict[str, Any]:
        """The spec of the pods."""
        return self.deployment["template"]["spec"]

    @cached_property
    def containers(self) -> dict[str, dict[str, Any]]:
        """Every container of the pods by its name, init containers included."""
        return {item["name"]: item for item in [*self.pod.get("initContainers", []), *self.main]}

    @property
    def main(self) -> list[dict[str, Any]]:
        """The containers that are no init containers."""
        return self.pod["containers"]

    @property
    def server(self) -> dict[str, Any]:
        """The model server's container."""
        return self.containers["server"]

    @cached_property
    def flags(self) -> dict[str, str]:
        """The server's flags by name; of one that is given twice, the last."""
        return dict(item.removeprefix("--").split("=", 1) for item in self.server["args"])

    @cached_property
    def model(self) -> dict[str, str]:
        """The content of the ConfigMap that names the model, as the server's envFrom finds it."""
        name = self.server["envFrom"][0]["configMapRef"]["name"]
        return next(
            item["data"] for item in self.of("ConfigMap") if item["metadata"]["name"] == name
        )

    @property
    def home(self) -> str:
        """The namespace that the overlay makes."""
        return name_of(self.one("Namespace"))

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations of the pods."""
        return self.deployment["template"]["metadata"].get("annotations", {})

    @property
    def injected(self) -> bool:
        """Whether the pods ask for a mesh's proxy."""
        return self.annotations.get("linkerd.io/inject") == "enabled"

    @cached_property
    def ports(self) -> dict[int, str]:
        """Every port of the pods by its number; the number in words where it has no name."""
        return {
            port["containerPort"]: port.get("name", str(port["containerPort"]))
            for item in self.containers.values()
            for port in item.get("ports", [])
        }

    @property
    def minimum(self) -> int:
        """The fewest replicas that the autoscaler allows."""
        return self.one("HorizontalPodAutoscaler")["spec"]["minReplicas"]


def name_of(item: Object) -> str:
    """An object's name; empty for one that is not there."""
    return item.get("metadata", {}).get("name", "")
