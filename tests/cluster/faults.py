"""Faults that Kubernetes has no command for: signals to a container's processes.

FAULT names the program that can send them (`../shared/cluster/fault` in CI):

    $FAULT kill|stop|cont NAMESPACE/POD CONTAINER
"""

from __future__ import annotations

import os
import shlex

from tests.cluster.cluster import run
from tests.cluster.suite import Skip


def send(action: str, namespace: str, pod: str, container: str) -> None:
    """SIGKILL ("kill"), SIGSTOP ("stop") or SIGCONT ("cont") to all of a container's processes.

    Raises Skip where there is no FAULT command.
    """
    command()
    run([*command(), action, f"{namespace}/{pod}", container], seconds=60)


def command() -> list[str]:
    """The FAULT command; raises Skip without one."""
    words = shlex.split(os.environ.get("FAULT", ""))
    if not words:
        raise Skip("no FAULT command that can signal a container's processes")
    return words
