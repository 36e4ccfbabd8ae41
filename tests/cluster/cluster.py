"""A cluster as the suite sees it: reads and waits by the API, changes by kubectl, as users make them.

Every wait is bounded and says what it waited for.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config, watch

from serving.errors import ChopstickError

T = TypeVar("T")
State = dict[str, Any]

# One answer of the API server, or one chunk of a watch; it has 2 cores with everything else here.
CALL_SECONDS = 30.0


class WaitTimeoutError(ChopstickError):
    """A condition did not come true in its time."""


class CommandError(ChopstickError):
    """A command ended with another exit code than 0; `output` is what it printed."""

    def __init__(self, words: Sequence[str], code: int, output: str) -> None:
        super().__init__(f"{' '.join(words)}: exit code {code}: {output.strip()[-2000:]}")
        self.output = output


class Cluster:
    """The cluster of KUBECONFIG's current context."""

    def __init__(self) -> None:
        self.kubectl_path = shutil.which("kubectl") or ""
        if not self.kubectl_path:
            raise ChopstickError("there is no kubectl on PATH", "Install kubectl 1.33 or later.")
        if not (os.environ.get("KUBECONFIG") or (Path.home() / ".kube" / "config").exists()):
            raise ChopstickError(
                "no cluster: KUBECONFIG is not set and there is no ~/.kube/config",
                "Start one (kind create cluster, minikube start) or set KUBECONFIG.",
            )
        try:
            # By name: the library reads KUBECONFIG once, when it is imported.
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG"))
            self.core = client.CoreV1Api()
            self.apps = client.AppsV1Api()
            self.scaling = client.AutoscalingV2Api()
            self.version = client.VersionApi().get_code(_request_timeout=10).git_version
        except Exception as error:
            # The client's errors are of a dozen kinds; all of them mean the same to the reader.
            raise ChopstickError(
                f"no cluster answers at KUBECONFIG={os.environ.get('KUBECONFIG', '~/.kube/config')}: "
                f"{error}",
                "Is it running? 'kubectl get nodes' has to answer.",
            ) from None

    def kubectl(
        self, *words: str, seconds: float = 120.0, check: bool = True, stdin: str | None = None
    ) -> str:
        """Run kubectl and return its output, both streams; CommandError when it fails."""
        return run([self.kubectl_path, *words], seconds=seconds, check=check, stdin=stdin)

    def apply(self, manifest: dict[str, Any]) -> None:
        """Apply one object."""
        self.kubectl("apply", "--filename=-", stdin=json.dumps(manifest))

    def nodes(self) -> list[str]:
        """Names of the nodes that pods may be scheduled to."""
        return [
            node.metadata.name
            for node in self.core.list_node(_request_timeout=CALL_SECONDS).items
            if not node.spec.unschedulable
            and not any(taint.effect == "NoSchedule" for taint in node.spec.taints or [])
        ]

    def states(
        self, lister: Callable[..., Any], *args: str, seconds: float, **selection: Any
    ) -> Iterator[State]:
        """What a list call returns, by name: at once, and again after each change; ends in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            listing = lister(*args, _request_timeout=CALL_SECONDS, **selection)
            state = {item.metadata.name: item for item in listing.items}
            yield state
            # A watch that the server ends, or that is too old, is begun again from a new list.
            try:
                events = watch.Watch().stream(
                    lister,
                    *args,
                    resource_version=listing.metadata.resource_version,
                    timeout_seconds=max(1, round(left)),
                    **selection,
                )
                for event in events:
                    name = event["object"].metadata.name
                    if event["type"] == "DELETED":
                        state.pop(name, None)
                    else:
                        state[name] = event["object"]
                    yield state
                    if time.monotonic() > deadline:
                        return
            except client.ApiException as error:
                if error.status != 410:
                    raise

    def wait(
        self,
        condition: Callable[[State], T],
        what: str,
        seconds: float,
        lister: Callable[..., Any],
        *args: str,
        **selection: Any,
    ) -> T:
        """The condition's first true value of a list call's state; WaitTimeoutError naming `what`."""
        state: State = {}
        for state in self.states(lister, *args, seconds=seconds, **selection):
            if value := condition(state):
                return value
        seen = ", ".join(f"{name}: {describe(item)}" for name, item in sorted(state.items()))
        raise WaitTimeoutError(f"waited {seconds:g} s for {what}; there is: {seen or 'nothing'}")

    def wait_pods(
        self,
        namespace: str,
        condition: Callable[[State], T],
        what: str,
        seconds: float,
        selector: str = "",
    ) -> T:
        """As `wait`, of the pods of a namespace."""
        return self.wait(
            condition,
            what,
            seconds,
            self.core.list_namespaced_pod,
            namespace,
            label_selector=selector,
        )

    def delete_namespace(self, name: str, seconds: float = 90.0) -> None:
        """Delete a namespace with all that is in it and wait until it is gone."""
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
        self.wait(
            lambda namespaces: name not in namespaces,
            f"namespace {name} to be gone",
            seconds,
            self.core.list_namespace,
        )


def run(
    words: Sequence[str],
    *,
    seconds: float,
    check: bool = True,
    stdin: str | None = None,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a command and return both its streams; CommandError, or WaitTimeoutError after `seconds`."""
    try:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise WaitTimeoutError(
            f"waited {seconds:g} s for {' '.join(words)}: {text[-1000:]}"
        ) from None
    if check and done.returncode != 0:
        raise CommandError(words, done.returncode, done.stdout)
    return done.stdout


def is_ready(pod: Any) -> bool:
    """Whether a pod's condition Ready is true; a pod that is being deleted counts as it says."""
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or [])


def container(pod: Any, name: str) -> Any:
    """The status of a container, be it a native sidecar or not; None before there is one."""
    every = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    return next((status for status in every if status.name == name), None)


def restarts(pod: Any) -> int:
    """How often any container of a pod was restarted."""
    every = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    return sum(status.restart_count for status in every)


def describe(item: Any) -> str:
    """An object in a few words, for messages."""
    status = getattr(item, "status", None)
    if not hasattr(status, "container_statuses"):
        return str(getattr(status, "phase", "") or "there")
    words = [status.phase, "ready" if is_ready(item) else "not ready"]
    for one in [*(status.init_container_statuses or []), *(status.container_statuses or [])]:
        waiting = one.state.waiting if one.state else None
        if waiting and waiting.reason:
            words.append(f"{one.name} {waiting.reason}")
        if one.restart_count:
            words.append(f"{one.name} restarted {one.restart_count} times")
    if item.metadata.deletion_timestamp:
        words.append("being deleted")
    return " ".join(words)
