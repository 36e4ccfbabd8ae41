"""Watches a stack while something is done to it: who was ready when, how many, what restarted."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.cluster.cluster import Cluster, is_ready, restarts
from tests.cluster.stack import NAME, SELECTOR, Stack

_LONG = 3600.0  # s; the block ends the watch


@dataclass
class Seen:
    """What happened, times in seconds of time.monotonic(); complete when the block is left."""

    fewest_ready: int = 1_000_000
    """Ready pods that were not being deleted, at the worst moment."""
    most_ready: int = 0
    fewest_replicas: int = 1_000_000
    """The Deployment's spec.replicas, at its lowest."""
    most_replicas: int = 0
    became_ready: dict[str, list[float]] = field(default_factory=dict)
    became_unready: dict[str, list[float]] = field(default_factory=dict)
    """Of pods that were not being deleted."""
    why_unready: dict[str, set[str]] = field(default_factory=dict)
    """What their condition Ready said then, such as 'containers with unready status: [server]'."""
    restarts: dict[str, int] = field(default_factory=dict)
    """Restarts of containers since the block began, of pods that had any."""


class Witness:
    """`with Witness(stack) as seen: ...`; two watches, one of pods and one of the Deployment."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.seen = Seen()
        self._ready: dict[str, bool] = {}
        self._restarts: dict[str, int] = {}
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._begun = [threading.Event(), threading.Event()]

    def __enter__(self) -> Seen:
        # A client of its own: the block uses the other one at the same time.
        cluster = self._stack.cluster
        core, apps = cluster.core, cluster.apps
        self._watch(0, cluster, core.list_namespaced_pod, self._pods, label_selector=SELECTOR)
        self._watch(1, cluster, apps.list_namespaced_deployment, self._deployments)
        for begun in self._begun:
            if not begun.wait(30):
                raise self._error or TimeoutError("waited 30 s for a watch to begin")
        return self.seen

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._error is not None and error is None:
            raise self._error

    def _watch(
        self,
        number: int,
        cluster: Cluster,
        lister: Any,
        note: Callable[[dict[str, Any]], None],
        **selection: str,
    ) -> None:
        def follow() -> None:
            try:
                namespace = self._stack.namespace
                for state in cluster.states(lister, namespace, seconds=_LONG, **selection):
                    if self._ended.is_set():
                        return
                    note(state)
                    self._begun[number].set()
            except BaseException as error:  # raised again where the block ends
                self._error = error

        # Left behind in its read when the block ends; it holds one idle connection until then.
        threading.Thread(target=follow, name=f"witness-{number}", daemon=True).start()

    def _pods(self, pods: dict[str, Any]) -> None:
        now, seen = time.monotonic(), self.seen
        living = {name: p for name, p in pods.items() if p.metadata.deletion_timestamp is None}
        ready = sum(map(is_ready, living.values()))
        seen.fewest_ready = min(seen.fewest_ready, ready)
        seen.most_ready = max(seen.most_ready, ready)
        for name, pod in living.items():
            before, is_now = self._ready.get(name), is_ready(pod)
            if is_now and before is not True:
                seen.became_ready.setdefault(name, []).append(now)
            if before and not is_now:
                seen.became_unready.setdefault(name, []).append(now)
            if not is_now and name in seen.became_unready:
                seen.why_unready.setdefault(name, set()).add(_why(pod))
            self._ready[name] = is_now
            count = restarts(pod)
            more = count - self._restarts.setdefault(name, count)
            if more:
                seen.restarts[name] = more

    def _deployments(self, deployments: dict[str, Any]) -> None:
        with contextlib.suppress(KeyError):
            replicas = deployments[NAME].spec.replicas
            self.seen.fewest_replicas = min(self.seen.fewest_replicas, replicas)
            self.seen.most_replicas = max(self.seen.most_replicas, replicas)


def _why(pod: Any) -> str:
    return next((c.message or "" for c in pod.status.conditions or [] if c.type == "Ready"), "")
