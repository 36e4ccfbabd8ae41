"""Faults that Kubernetes has no command for: signals to processes, packets that are dropped.

FAULT names the program that can send them (`../shared/cluster/fault` in CI):

    $FAULT kill|stop|cont NAMESPACE/POD CONTAINER
    $FAULT blackhole|restore NAMESPACE/POD
"""

from __future__ import annotations

import os
import shlex

from tests.cluster.cluster import run
from tests.cluster.suite import Skip


def send(action: str, namespace: str, pod: str, container: str = "") -> None:
    """SIGKILL ("kill"), SIGSTOP ("stop") or SIGCONT ("cont") to all of a container's processes.

    Or, of a pod and without a container, "blackhole" (every packet is dropped) and "restore".
    Raises Skip where there is no FAULT command.
    """
    words = [*command(), action, f"{namespace}/{pod}", *([container] if container else [])]
    run(words, seconds=60)


def command() -> list[str]:
    """The FAULT command; raises Skip without one."""
    words = shlex.split(os.environ.get("FAULT", ""))
    if not words:
        raise Skip("no FAULT command that can signal a container's processes")
    return words
