"""What each path answers: the kubelet's probes on one port, Prometheus' page on the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from serving.health.metrics import Metrics
from serving.health.monitor import Monitor
from serving.health.state import Drained


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = "application/json"


class Question(NamedTuple):
    """What is asked for: `local` says that a process of this pod asks, over loopback."""

    path: str
    accept: str
    local: bool


# None where there is no such page.
Pages = Callable[[Question], Answer | None]


def probe_pages(monitor: Monitor) -> Pages:
    """/startupz, /livez, /readyz, /healthz, and for this pod itself the hook /drain."""

    def told(status: int, word: str) -> Answer:
        state = monitor.state
        body = {
            "status": word,
            "reason": state.reason.value,
            "message": state.message,
            "model": state.model,
            "version": state.version,
            "since_seconds": round(monitor.seconds(), 3),
        }
        return Answer(status, json.dumps(body, ensure_ascii=False).encode() + b"\n")

    def startupz() -> Answer:
        # A server that went away has to start again: only then does the kubelet hold the liveness
        # probe back while it loads.
        if monitor.state.started:
            return told(200, "started")
        # The reason's own code: the kubelet asks nothing else before this, and shows the code alone.
        return told(monitor.state.reason.http_status, "not_started")

    def livez() -> Answer:
        return told(200, "alive") if monitor.alive() else told(503, "dead")

    def readyz() -> Answer:
        word = "ready" if monitor.state.ready else "not_ready"
        return told(monitor.state.reason.http_status, word)

    def drain() -> Answer:
        monitor.apply(Drained())
        return told(200, "draining")

    pages = {
        "/startupz": startupz,
        "/livez": livez,
        "/readyz": readyz,
        "/healthz": lambda: told(200, "listening"),
        "/drain": drain,
    }

    def answer(question: Question) -> Answer | None:
        if question.path == "/drain" and not question.local:
            # Whoever may end a pod's service may end every pod's.
            return told(403, "forbidden")
        page = pages.get(question.path)
        return page() if page else None

    return answer


def metrics_pages(metrics: Metrics) -> Pages:
    """/metrics."""

    def answer(question: Question) -> Answer | None:
        if question.path != "/metrics":
            return None
        content_type, body = metrics.page(question.accept)
        return Answer(200, body, content_type)

    return answer
