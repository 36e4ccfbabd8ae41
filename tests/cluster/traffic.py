"""Load from inside the cluster that begins before a change and outlasts it.

    with traffic(client, stack.grpc, rate=50, requests=1500) as load:
        load.mark("rollout")
        ...
    load.report.assert_none_failed()

A pod of the tools image runs `chopstick load`. The block begins when its first requests are
answered; when the block ends the load goes on until it has sent `requests`, then is told to stop
(SIGTERM), finishes what is under way and reports. Retries are off: each failed attempt counts,
other than those that gRPC itself may repeat because no server has seen them.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.cluster import CALL_SECONDS, Cluster, CommandError

NAMESPACE = "chopstick-e2e"
TOOLS_IMAGE = "chopstick-tools:0.1.0"
PODS_NAME = "chopstick-tools"
CONTAINER = "tools"
FILES = "/etc/caller"
FILES_NAME = "caller-files"

# A pod of a loaded image: scheduled, created, Python's imports.
START_SECONDS = 60.0
# The longest deadline, and writing the report.
STOP_SECONDS = 30.0
# kube-proxy writes its rules at most once a second, and takes its time on a busy machine.
REACHABLE_SECONDS = 10.0
# Nothing here takes longer; a load that nobody stops ends by itself.
LONGEST_SECONDS = 1800.0
CONNECTIONS = 6

_COUNTS = re.compile(r": (\d+) sent, (\d+) ok, (\d+) failed")


@dataclass(frozen=True)
class Failure:
    """A request without an OK; times in seconds from the load's start."""

    at: float
    """When the failure was known, a deadline later than it was due or sooner."""
    code: str
    message: str
    due: float
    """When the request had to leave."""


@dataclass(frozen=True)
class Report:
    """What the load found; latencies in seconds from the due time."""

    target: str
    rate: float
    seconds: float
    sent: int
    ok: int
    failed: int
    not_sent: int
    late: int
    retries: bool
    codes: dict[str, int]
    versions: dict[int, int]
    p50: float
    p99: float
    max: float
    marks: dict[str, float] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    per_second: tuple[tuple[int, int, int], ...] = ()
    """(sent, ok, failed) of each second from the start."""

    @property
    def lost(self) -> int:
        """Requests that were due and got no OK."""
        return self.failed + self.not_sent

    @property
    def goodput(self) -> float:
        """Answers OK a second."""
        return self.ok / self.seconds if self.seconds else 0.0

    def words(self) -> str:
        """The report in a line."""
        codes = ", ".join(f"{number} {code}" for code, number in sorted(self.codes.items()))
        return (
            f"{self.sent} sent at {self.rate:g}/s, {self.ok} ok, {self.failed} failed"
            + (f" ({codes})" if codes else "")
            + (f", {self.not_sent} not sent" if self.not_sent else "")
            + f"; p50 {self.p50 * 1e3:.1f}, p99 {self.p99 * 1e3:.1f}, max {self.max * 1e3:.0f} ms"
        )

    def assert_at_least(self, requests: int) -> None:
        """Fail when the load was too small to mean anything."""
        assert self.sent >= requests, f"only {self.sent} of {requests} requests: {self.words()}"

    def assert_none_failed(self) -> None:
        """Fail unless every request that was due got an OK, naming the first that did not."""
        if not self.lost:
            return
        marks = ", ".join(f"{name} at {at:.1f} s" for name, at in self.marks.items())
        first = "; ".join(f"{f.at:.2f} s {f.code}: {f.message}" for f in self.failures[:5])
        raise AssertionError(f"{self.words()}. Marks: {marks or 'none'}. First failures: {first}")


def parse(log: str, marks: dict[str, float]) -> Report:
    """Read the report at the end of a load's log; `marks` are in Unix time.

    Progress and report share the pod's log; the report is the JSON object that begins a line and
    ends the log.
    """
    at = 0 if log.startswith("{\n") else log.rfind("\n{\n")
    try:
        raw: dict[str, Any] = json.loads(log[at:][: log[at:].rfind("\n}") + 2])
    except (ValueError, IndexError):
        raise AssertionError(f"the load left no report; its log ends: {log[-1500:]}") from None
    latency = raw["latency"] or {"p50": 0.0, "p99": 0.0, "max": 0.0}
    return Report(
        target=raw["target"],
        rate=raw["rate"],
        seconds=raw["sending"],
        sent=raw["sent"],
        ok=raw["ok"],
        failed=raw["failed"],
        not_sent=raw["overrun"],
        late=raw["late"],
        retries=raw["retries"],
        codes=raw["codes"],
        versions={int(version): number for version, number in raw["versions"].items()},
        p50=latency["p50"],
        p99=latency["p99"],
        max=latency["max"],
        marks={name: moment - raw["started_at"] for name, moment in marks.items()},
        failures=tuple(
            Failure(f["at"], f["code"], f["message"], f["due"]) for f in raw["failures"][:1000]
        ),
        per_second=tuple((s["sent"], s["ok"], s["failed"]) for s in raw["seconds"]),
    )


class Load:
    """A load under way; `report` once the block has ended."""

    def __init__(self, clients: Clients, pod: str, rate: float) -> None:
        self._clients = clients
        self._pod = pod
        self._rate = rate
        self._marks: dict[str, float] = {}
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        """What the load found."""
        assert self._report is not None, "the load's block has not ended"
        return self._report

    @property
    def pod(self) -> str:
        """The name of the load's pod."""
        return self._pod

    def mark(self, name: str) -> float:
        """Name this moment in the report; returns it as Unix time."""
        self._marks[name] = time.time()
        return self._marks[name]

    def counts(self) -> tuple[int, int, int]:
        """(sent, ok, failed) as last said, at most 5 s old."""
        found = _COUNTS.findall(self._clients.log(self._pod))
        return (int(found[-1][0]), int(found[-1][1]), int(found[-1][2])) if found else (0, 0, 0)

    def _begin(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            sent, ok, failed = self.counts()
            if ok:
                self._began = time.monotonic()
                return
            if time.monotonic() > deadline or self._clients.ended(self._pod):
                raise AssertionError(
                    f"waited for the first answer to {self._pod}: {sent} sent, {failed} failed; "
                    + self._clients.log(self._pod)[-1500:]
                )
            time.sleep(0.3)

    def _end(self, requests: int) -> None:
        left = requests / self._rate + 1 - (time.monotonic() - self._began)
        if left > 0:
            time.sleep(left)  # what is waited for is this time: requests leave by the clock
        self._clients.terminate(self._pod)
        _, log = self._clients.wait_ended(self._pod, STOP_SECONDS)
        self._report = parse(log, self._marks)


@dataclass(frozen=True)
class Caller:
    """What the pods of a `Clients` are, beyond their program."""

    service_account: str = ""
    """The namespace's default account when empty."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=lambda: {"chopstick.dev/client": "true"})
    """Beyond the one that tells what it is; the default is what the stacks' network policies ask."""
    host_network: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """Name and text of files in FILES, by a ConfigMap that `Clients.set_up` makes."""


class Clients:
    """Pods of the tools image in a namespace: callers of the stacks under test."""

    def __init__(
        self, cluster: Cluster, namespace: str = NAMESPACE, caller: Caller | None = None
    ) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.caller = caller or Caller()
        self._number = 0
        self._started: set[str] = set()

    def set_up(self) -> None:
        """Make what pods need, and the namespace if it isn't there; end pods of a run cut off."""
        # It asks of its pods what a user's should, too; nobody's pods share the node's network there.
        level = "privileged" if self.caller.host_network else "restricted"
        names = self.cluster.kubectl("get", "namespaces", "--output=name").split()
        if f"namespace/{self.namespace}" not in names:
            self.cluster.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {
                        "name": self.namespace,
                        "labels": {"pod-security.kubernetes.io/enforce": level},
                    },
                }
            )
        self.delete_all(wait=True)
        self.provide_account()
        if self.caller.files:
            self.cluster.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": FILES_NAME, "namespace": self.namespace},
                    "data": dict(self.caller.files),
                }
            )

    def provide_account(self) -> None:
        """Make the pods' service account, unless it is there, or is the namespace's default."""
        account = self.caller.service_account
        if not account:
            return
        if (
            f"serviceaccount/{account}"
            not in self._kubectl("get", "serviceaccounts", "--output=name").split()
        ):
            self._kubectl("create", "serviceaccount", account)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        node: str | None = None,
        command: Sequence[str] = (),
    ) -> str:
        """Start a pod with `chopstick`, or another command, and these arguments; its name."""
        self._number += 1
        pod = f"{name}-{self._number}"
        self.cluster.core.create_namespaced_pod(
            self.namespace,
            _pod(pod, arguments, node, command, self.caller),
            _request_timeout=CALL_SECONDS,
        )
        self._started.add(pod)
        return pod

    def run(self, name: str, arguments: Sequence[str], *, command: Sequence[str] = ()) -> str:
        """Run `chopstick`, or another command, in a pod; its output. Fails when that does.

        Tried again for a while: a Service's first endpoint is in the rules of every node some time
        after its pod has become ready.
        """
        deadline = time.monotonic() + REACHABLE_SECONDS
        while True:
            pod = self.start(name, arguments, command=command)
            phase, log = self.wait_ended(pod, START_SECONDS)
            self.delete(pod)
            if phase == "Succeeded":
                return log
            if time.monotonic() > deadline:
                raise AssertionError(f"{pod} failed: {log[-1500:]}")

    def python(self, name: str, program: str, *arguments: str) -> str:
        """Run a Python program in a pod that has `serving.client`; its output."""
        return self.run(name, arguments, command=["python", "-c", program])

    def delete_all(self, *, wait: bool = False) -> None:
        """Delete every caller's pod in the namespace, none of others beside them."""
        self._kubectl(
            "delete", "pods", f"--selector=app.kubernetes.io/name={PODS_NAME}", "--grace-period=1",
            f"--wait={str(wait).lower()}",
        )  # fmt: skip

    def delete_started(self) -> None:
        """Delete what `start` has made and nobody has deleted, such as the load of a failed case."""
        for pod in sorted(self._started):
            self.delete(pod)

    def log(self, pod: str) -> str:
        """The pod's log so far; empty while it has none."""
        try:
            return self._kubectl("logs", pod, f"--container={CONTAINER}")
        except CommandError:
            return ""  # the container has not started

    def ended(self, pod: str) -> bool:
        """Whether the pod's program has ended."""
        found = self.cluster.core.read_namespaced_pod(
            pod, self.namespace, _request_timeout=CALL_SECONDS
        )
        return found.status.phase in ("Succeeded", "Failed")

    def execute(self, pod: str, *words: str, check: bool = True) -> str:
        """Run a command in the container of a pod's program; its output."""
        return self._kubectl("exec", pod, f"--container={CONTAINER}", "--", *words, check=check)

    def terminate(self, pod: str) -> None:
        """SIGTERM to the pod's program, so that it reports and its log stays."""
        self.execute(pod, "python", "-c", "import os; os.kill(1, 15)")

    def wait_ended(self, pod: str, seconds: float) -> tuple[str, str]:
        """Wait for the end of the pod's program; its phase (Succeeded or Failed) and its log."""
        phase = self.cluster.wait_pods(
            self.namespace,
            lambda pods: next(
                (
                    found.status.phase
                    for name, found in pods.items()
                    if name == pod and found.status.phase in ("Succeeded", "Failed")
                ),
                "",
            ),
            f"{pod} to end",
            seconds,
        )
        return phase, self.log(pod)

    def delete(self, pod: str) -> None:
        """Delete a pod without waiting for it."""
        self._kubectl(
            "delete", "pod", pod, "--ignore-not-found", "--grace-period=1", "--wait=false"
        )
        self._started.discard(pod)

    def _kubectl(self, *words: str, check: bool = True) -> str:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *words, check=check)


@contextlib.contextmanager
def traffic(
    clients: Clients,
    target: str,
    *,
    rate: float,
    requests: int,
    name: str = "load",
    retries: bool = False,
    connections: int = CONNECTIONS,
    timeout: float = 5.0,
    arguments: Sequence[str] = (),
    node: str | None = None,
) -> Iterator[Load]:
    """A load beside the block; see the module's text. A failing block leaves the pod and its log."""
    words = [
        "load", target, f"--rate={rate:g}", f"--duration={LONGEST_SECONDS:g}",
        f"--connections={connections}", f"--timeout={timeout:g}", "--json=-",
        *(["--retries"] if retries else []), *arguments,
    ]  # fmt: skip
    pod = clients.start(name, words, node=node)
    load = Load(clients, pod, rate)
    load._begin()
    yield load
    load._end(requests)
    clients.delete(pod)


def _pod(
    name: str, arguments: Sequence[str], node: str | None, command: Sequence[str], caller: Caller
) -> dict[str, Any]:
    volume = {"name": FILES_NAME, "configMap": {"name": FILES_NAME}}
    mount = {"name": FILES_NAME, "mountPath": FILES, "readOnly": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": PODS_NAME, **caller.labels},
            "annotations": dict(caller.annotations),
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            **({"serviceAccountName": caller.service_account} if caller.service_account else {}),
            # The cluster's DNS, where a pod on the node's network would ask the node's.
            **(
                {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
                if caller.host_network
                else {}
            ),
            **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": CONTAINER,
                    "image": TOOLS_IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    **({"command": list(command)} if command else {}),
                    "args": list(arguments),
                    "env": [
                        {"name": key, "value": value} for key, value in caller.environment.items()
                    ],
                    "resources": {"requests": {"cpu": "200m", "memory": "96Mi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [mount] if caller.files else [],
                }
            ],
            "volumes": [volume] if caller.files else [],
        },
    }
