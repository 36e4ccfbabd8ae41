"""What is kept of a case that failed: objects, descriptions, events and all logs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.cluster.cluster import CALL_SECONDS, Cluster, container


def collect(cluster: Cluster, namespaces: Iterable[str], folder: Path) -> None:
    """Write what a person would ask the cluster for into `folder`, one folder a namespace."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _keep(cluster, folder / "nodes.txt", "describe", "nodes")
    for namespace in namespaces:
        place = folder / namespace
        place.mkdir()
        of = f"--namespace={namespace}"
        kinds = "deployments,replicasets,pods,services,endpointslices,hpa,pdb,configmaps"
        _keep(cluster, place / "objects.txt", of, "get", kinds, "--output=wide")
        _keep(cluster, place / "objects.yaml", of, "get", kinds, "--output=yaml")
        _keep(cluster, place / "describe.txt", of, "describe", "deployments,replicasets,pods")
        _keep(cluster, place / "events.txt", of, "get", "events", "--sort-by=.lastTimestamp")
        _logs(cluster, namespace, place)


def _logs(cluster: Cluster, namespace: str, place: Path) -> None:
    pods = cluster.core.list_namespaced_pod(namespace, _request_timeout=CALL_SECONDS).items
    for pod in pods:
        containers = [*(pod.spec.init_containers or []), *pod.spec.containers]
        for name in (one.name for one in containers):
            words = (f"--namespace={namespace}", "logs", pod.metadata.name, f"--container={name}")
            base = f"{pod.metadata.name}.{name}"
            _keep(cluster, place / f"{base}.log", *words)
            status = container(pod, name)
            if status is not None and status.restart_count:
                _keep(cluster, place / f"{base}.previous.log", *words, "--previous")


def _keep(cluster: Cluster, file: Path, *words: str) -> None:
    # Half of the evidence is better than the error that kept the rest back.
    try:
        text = cluster.kubectl(*words, check=False)
    except Exception as error:
        text = f"{error}\n"
    file.write_text(text)
