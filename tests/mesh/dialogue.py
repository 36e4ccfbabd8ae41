"""Talking with the program in `asking.py`: in a pod by `kubectl exec`, or beside the tests.

    with talking(context.callers) as talk:
        answer = talk.rpc(stack.grpc, "Predict", times=7)
        assert answer.codes == ["OK"] * 7, answer

One talk is one process in one pod of its own: its channels, and with them what the pod's proxy has
counted, last as long as it. Who the pod is to the mesh, the `Clients` say.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.cluster.cluster import is_ready
from tests.cluster.traffic import CONTAINER, Clients
from tests.mesh import proxy

T = TypeVar("T")

PROGRAM = Path(__file__).with_name("asking.py").read_text()
# A pod of a loaded image with a proxy: scheduled, certified, both started on a busy machine.
READY_SECONDS = 90.0
# Python's imports in the pod, beside the deadlines of what it is told to ask.
ANSWER_SECONDS = 60.0
_WAIT = "import signal; signal.pause()"


@dataclass(frozen=True)
class Answer:
    """What came back for one order: a code for each request, and what came with each bad one."""

    codes: list[str]
    detail: str
    bytes: int = 0
    """Of one gRPC request's message."""
    said: Counter[str] = field(default_factory=Counter)
    """What the good answers said and how often, where the order was to tell."""

    @property
    def code(self) -> str:
        """The one code of all requests; several are joined, so that a table shows them."""
        return "/".join(dict.fromkeys(self.codes))

    @property
    def counts(self) -> Counter[str]:
        """How often each code came."""
        return Counter(self.codes)


class Talk:
    """One process that asks; a context manager that ends it."""

    def __init__(self, words: Sequence[str], name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [*words, PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()

    def rpc(self, target: str, rpc: str, **order: Any) -> Answer:
        """Ask an RPC; see `asking` for the order's words."""
        return self._asked({"do": "rpc", "target": target, "rpc": rpc, **order})

    def rest(self, target: str, path: str, **order: Any) -> Answer:
        """Ask a REST path."""
        return self._asked({"do": "rest", "target": target, "path": path, **order})

    def metrics(self) -> list[proxy.Sample]:
        """What the pod's own proxy counts now; `proxy.total` and `proxy.by_label` sum it up."""
        return proxy.parse(self._order({"do": "metrics"})["text"])

    def _asked(self, order: dict[str, Any]) -> Answer:
        said = self._order(order)
        return Answer(
            said["codes"], said["detail"], said.get("bytes", 0), Counter(said.get("said", {}))
        )

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        seconds = ANSWER_SECONDS + order.get("timeout", 5) * order.get("times", 1)
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(f"{self.name} asks no more: {self._words()}") from None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            if not ready.select(seconds):
                raise AssertionError(f"{self.name} has not answered {order} in {seconds:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.name} ended before it answered {order}: {self._words()}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise AssertionError(f"{self.name} could not ask {order}: {said['error']}")
        return said

    def _words(self) -> str:
        """What the process printed about its end."""
        self._process.kill()
        return self._process.stderr.read()[-1500:]


def talk_here(name: str = "here") -> Talk:
    """A talk with a process of this machine, which is no part of a cluster."""
    root = str(Path(__file__).resolve().parents[2])
    return Talk(["env", f"PYTHONPATH={root}", sys.executable, "-u", "-c"], name)


@contextlib.contextmanager
def talking(clients: Clients, name: str = "asker", node: str | None = None) -> Iterator[Talk]:
    """A pod of these clients and a talk with it, both gone after the block."""
    with waiting(clients, name, node=node) as pod, talk_with(clients, pod) as talk:
        yield talk


@contextlib.contextmanager
def waiting(
    clients: Clients, name: str, *, node: str | None = None, ready: bool = True
) -> Iterator[str]:
    """A pod of these clients that does nothing by itself; its name. `ready=False` doesn't wait."""
    pod = clients.start(name, ["-c", _WAIT], command=["python"], node=node)
    try:
        if ready:
            wait_ready(clients, pod)
        yield pod
    finally:
        clients.delete(pod)


def talk_with(clients: Clients, pod: str) -> Talk:
    """A new process in such a pod."""
    words = [
        clients.cluster.kubectl_path, f"--namespace={clients.namespace}", "exec", "--stdin",
        pod, f"--container={CONTAINER}", "--", "python", "-u", "-c",
    ]  # fmt: skip
    return Talk(words, f"{clients.namespace}/{pod}")


def wait_ready(clients: Clients, pod: str, seconds: float = READY_SECONDS) -> None:
    """Wait until a pod is ready, and see that it is meshed if its annotation says so."""
    clients.cluster.wait_pods(
        clients.namespace,
        lambda pods: pod in pods and is_ready(pods[pod]),
        f"{pod} in {clients.namespace} to be ready",
        seconds,
    )
    found = clients.cluster.core.read_namespaced_pod(pod, clients.namespace)
    has = any(c.name == proxy.CONTAINER for c in found.spec.init_containers or [])
    wants = clients.caller.annotations.get("linkerd.io/inject")
    assert wants != "enabled" or has, f"{clients.namespace}/{pod} has no proxy: is the injector up?"
    assert wants != "disabled" or not has, f"{clients.namespace}/{pod} has a proxy"


def until(condition: Callable[[], T], what: str, seconds: float, pause: float = 0.3) -> T:
    """The first true value of `condition()`; AssertionError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(pause)
    return value
