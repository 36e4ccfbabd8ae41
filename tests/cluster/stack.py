"""One overlay on the cluster: applied, rolled, looked at, removed."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from kubernetes import client

from tests.cluster.cluster import CALL_SECONDS, Cluster, WaitTimeoutError, is_ready

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "manifests" / "overlays"
VARIATIONS = Path(__file__).with_name("overlays")

NAME = "chopstick-classifier"
# As the Service selects them; callers may live beside them.
SELECTOR = f"app.kubernetes.io/name={NAME},track=stable"
# TensorFlow's import takes 5 s of CPU in each stand-in, several at once share the machine's cores,
# and a rollout is three of them in turn.
ROLLOUT_SECONDS = 240.0
# preStop + longest deadline + 2 (base), and what the kubelet takes to notice.
GRACE_SECONDS = 19.0


class Stack:
    """What an overlay in `manifests/overlays` puts into its namespace."""

    def __init__(self, cluster: Cluster, namespace: str, overlay: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.overlay = overlay

    @property
    def grpc(self) -> str:
        """The Service's gRPC address, as pods of any namespace write it."""
        return f"{NAME}.{self.namespace}:8500"

    @property
    def rest(self) -> str:
        """The Service's REST address."""
        return f"{NAME}.{self.namespace}:8501"

    def kubectl(self, *words: str, **options: Any) -> str:
        """Run kubectl in the stack's namespace."""
        return self.cluster.kubectl(f"--namespace={self.namespace}", *words, **options)

    def apply(self, overlay: Path | None = None) -> str:
        """`kubectl apply -k` of the stack's overlay, or of a variation of it."""
        # The overlays hold their namespace; those of tests may stand on a base in another folder.
        return self.cluster.kubectl("apply", "-k", str(overlay or self.overlay))

    def rolled_out(self, seconds: float = ROLLOUT_SECONDS) -> float:
        """Wait for `kubectl rollout status`; seconds that took."""
        began = time.monotonic()
        self.kubectl(
            "rollout", "status", f"deployment/{NAME}", f"--timeout={seconds:.0f}s",
            seconds=seconds + 10,
        )  # fmt: skip
        return time.monotonic() - began

    def undo(self) -> None:
        """`kubectl rollout undo`."""
        self.kubectl("rollout", "undo", f"deployment/{NAME}")

    def deployment(self) -> Any:
        """The Deployment as it is."""
        return self.cluster.apps.read_namespaced_deployment(
            NAME, self.namespace, _request_timeout=CALL_SECONDS
        )

    def pods(self) -> list[Any]:
        """Server pods that are not being deleted, by name."""
        found = self.cluster.core.list_namespaced_pod(
            self.namespace, label_selector=SELECTOR, _request_timeout=CALL_SECONDS
        ).items
        return sorted(
            (p for p in found if p.metadata.deletion_timestamp is None),
            key=lambda pod: pod.metadata.name,
        )

    def ready_pods(self) -> list[Any]:
        """Those of `pods` that are ready."""
        return [pod for pod in self.pods() if is_ready(pod)]

    def wait_ready(self, count: int, seconds: float = ROLLOUT_SECONDS) -> float:
        """Wait until exactly `count` pods are ready and no other is left; seconds that took."""
        began = time.monotonic()
        self.cluster.wait_pods(
            self.namespace,
            lambda pods: len(pods) == count and all(map(is_ready, pods.values())),
            f"exactly {count} pods in {self.namespace}, all ready",
            seconds,
            SELECTOR,
        )
        return time.monotonic() - began

    def wait_terminated(self, seconds: float = GRACE_SECONDS + 40) -> float:
        """Wait until no pod is being deleted; seconds that took."""
        began = time.monotonic()
        self.cluster.wait_pods(
            self.namespace,
            lambda pods: not any(pod.metadata.deletion_timestamp for pod in pods.values()),
            f"no pod of {self.namespace} to be terminating any more",
            seconds,
            SELECTOR,
        )
        return time.monotonic() - began

    def replicas_between(self, least: int, most: int) -> None:
        """Set the autoscaler's bounds, as an operator does: it owns the count."""
        patch = {"spec": {"minReplicas": least, "maxReplicas": most}}
        self.kubectl("patch", f"hpa/{NAME}", "--patch", json.dumps(patch))

    def events(self, pod: str) -> list[str]:
        """What the cluster has said about a pod, oldest first: 'Reason: message'."""
        found = self.cluster.core.list_namespaced_event(
            self.namespace,
            field_selector=f"involvedObject.name={pod}",
            _request_timeout=CALL_SECONDS,
        ).items
        return [f"{event.reason}: {event.message}" for event in found]

    def wait_event(self, pod: str, text: str, seconds: float) -> str:
        """The first event about a pod that has `text` in it."""
        deadline = time.monotonic() + seconds
        while True:
            events = self.events(pod)
            for event in events:
                if text in event:
                    return event
            if time.monotonic() > deadline:
                raise WaitTimeoutError(
                    f"waited {seconds:g} s for an event about {pod} with '{text}'; there are: "
                    + "; ".join(events)
                )
            time.sleep(0.5)

    def get(self, pod: str, port: int, path: str) -> tuple[int, str]:
        """Status and body of an HTTP GET on a pod's port, through the API server."""
        try:
            # Not loaded: the client would turn JSON into Python and that into a string.
            answer = self.cluster.core.connect_get_namespaced_pod_proxy_with_path(
                f"{pod}:{port}",
                self.namespace,
                path.lstrip("/"),
                _preload_content=False,
                _request_timeout=CALL_SECONDS,
            )
        except client.ApiException as error:
            return error.status, str(error.body)
        return answer.status, answer.data.decode()

    def version(self, pod: Any) -> int | None:
        """The model version that a pod says it is ready with; None when it is not."""
        status, body = self.get(pod.metadata.name, 8502, "/readyz")
        return json.loads(body)["version"] if status == 200 else None

    def answered(self) -> dict[str, int]:
        """Requests that each pod's server says it has answered OK since it started."""
        counts = {}
        for pod in self.pods():
            _, page = self.get(pod.metadata.name, 8501, "/monitoring/prometheus/metrics")
            found = re.findall(
                r'^:tensorflow:serving:request_count\{.*status="OK"\} (\S+)$', page, re.MULTILINE
            )
            counts[pod.metadata.name] = int(sum(map(float, found)))
        return counts

    def log(self, pod: str, name: str, *, previous: bool = False) -> str:
        """A container's log."""
        words = ["logs", pod, f"--container={name}"] + (["--previous"] if previous else [])
        return self.kubectl(*words, check=False)

    def delete(self) -> None:
        """Remove the namespace and wait until it is gone."""
        self.cluster.delete_namespace(self.namespace)
