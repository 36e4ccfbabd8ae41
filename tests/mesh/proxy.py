"""What is asked of a pod from inside it: a proxy's counters, a server's own page.

Under default deny the API server's pod proxy is refused, for it is no meshed identity. A port-forward
comes from inside the pod's network namespace, which every proxy trusts, and needs no program there.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import re
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.cluster.cluster import CALL_SECONDS, Cluster, WaitTimeoutError

__all__ = [
    "ADMIN_PORT",
    "CONTAINER",
    "Sample",
    "by_label",
    "chosen",
    "get",
    "metrics",
    "total",
    "tunnel",
]

ADMIN_PORT = 4191
CONTAINER = "linkerd-proxy"
# kubectl's start, the API server and the kubelet, on a busy machine.
FORWARD_SECONDS = 20.0

_FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ->")


@contextlib.contextmanager
def tunnel(cluster: Cluster, namespace: str, pod: str, port: int) -> Iterator[int]:
    """A port of this machine that leads to a pod's, as long as the block lasts."""
    process = subprocess.Popen(
        [cluster.kubectl_path, f"--namespace={namespace}", "port-forward",
         "--address=127.0.0.1", f"pod/{pod}", f":{port}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, name=f"forward-{pod}", daemon=True).start()
    try:
        said = ""
        while not (found := _FORWARDED.search(said)):
            try:
                line = lines.get(timeout=FORWARD_SECONDS)
            except queue.Empty:
                line = ""
            if not line:
                raise WaitTimeoutError(
                    f"waited {FORWARD_SECONDS:g} s for a port-forward to {namespace}/{pod}:{port}: "
                    f"{said.strip() or 'it says nothing'}"
                )
            said += line
        yield int(found[1])
    finally:
        process.kill()
        process.wait()


def get(cluster: Cluster, namespace: str, pod: str, port: int, path: str) -> tuple[int, str]:
    """Status and body of an HTTP GET on a pod's port, from inside the pod."""
    with tunnel(cluster, namespace, pod, port) as local:
        connection = http.client.HTTPConnection("127.0.0.1", local, timeout=CALL_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


def metrics(cluster: Cluster, namespace: str, pod: str) -> list[Sample]:
    """All samples of a pod's proxy."""
    status, page = get(cluster, namespace, pod, ADMIN_PORT, "/metrics")
    assert status == 200, f"the proxy of {namespace}/{pod} answers {status}: {page[:300]}"
    return parse(page)


def parse(page: str) -> list[Sample]:
    """All samples of a page of metrics."""
    return [s for family in text_string_to_metric_families(page) for s in family.samples]


def chosen(samples: Iterable[Sample], name: str, **labels: str) -> list[Sample]:
    """The samples of a name that have all these labels."""
    return [
        sample
        for sample in samples
        if sample.name == name
        and all(sample.labels.get(label) == value for label, value in labels.items())
    ]


def total(samples: Iterable[Sample], name: str, **labels: str) -> float:
    """The sum of the samples of a name that have all these labels; 0 without any."""
    return sum(sample.value for sample in chosen(samples, name, **labels))


def by_label(samples: Iterable[Sample], name: str, label: str, **labels: str) -> dict[str, float]:
    """As `total`, one sum for each value of a label, such as the requests to each `dst_pod`."""
    sums: dict[str, float] = defaultdict(float)
    for sample in chosen(samples, name, **labels):
        sums[sample.labels.get(label, "")] += sample.value
    return dict(sums)
