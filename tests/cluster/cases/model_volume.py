"""Versions that come by a volume: taken over when whole, refused when not, also by a new pod."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path

from model import manifest
from tests.cluster.cluster import WaitTimeoutError
from tests.cluster.images import MODELS
from tests.cluster.models import GOOD, NEXT
from tests.cluster.stack import VARIATIONS, Stack
from tests.cluster.suite import Context, case

# Not the version `corrupt`, whose manifest fits its broken files: this one's does not.
BROKEN = 3
# A kubelet brings a changed ConfigMap into its pods within a minute or so, the server's own poll
# and a load come after.
NEWS_SECONDS = 150.0
NAMESPACE = "e2e-model-volume"


@case("model-volume", "versions by a volume: a new one served, a corrupt one refused, restart")
def model_volume(context: Context) -> None:
    stack = context.stack(NAMESPACE, VARIATIONS / "model-volume")
    source = MODELS / "chopstick"
    context.cluster.kubectl("create", "namespace", NAMESPACE)
    _drop(stack, source / str(GOOD), GOOD)
    stack.apply()
    stack.wait_ready(1)
    _wait_version(stack, GOOD)

    began = time.monotonic()
    _drop(stack, source / str(NEXT), NEXT)
    _wait_version(stack, NEXT)
    context.figure("a dropped version is served after", time.monotonic() - began, "s")

    with tempfile.TemporaryDirectory() as name:
        broken = Path(name) / str(BROKEN)
        shutil.copytree(source / str(NEXT), broken)
        (data,) = (broken / "variables").glob("variables.data-*")
        data.write_bytes(data.read_bytes()[:-1])
        assert not manifest.verify(broken).ok
        _drop(stack, broken, BROKEN)
    _wait_refused(stack)
    (pod,) = stack.ready_pods()
    assert stack.version(pod) == NEXT
    context.note(f"corrupt version {BROKEN} refused, version {NEXT} goes on")

    stack.kubectl("delete", "pod", pod.metadata.name, "--wait=false")
    stack.wait_terminated()
    stack.wait_ready(1)
    (new,) = stack.ready_pods()
    assert new.metadata.name != pod.metadata.name
    assert stack.version(new) == NEXT
    _wait_refused(stack)
    answer = context.callers.run("predict", ["predict", stack.grpc, "240"])
    assert "240" in answer, answer
    context.note(f"a pod that starts beside the corrupt version {BROKEN} serves {NEXT}")


def _drop(stack: Stack, version: Path, number: int) -> None:
    """Write a version's files as the ConfigMap that the pods mount as <number>."""
    files = [path for path in sorted(version.rglob("*")) if path.is_file()]
    stack.kubectl(
        "create", "configmap", f"version-{number}",
        *(f"--from-file={path.name}={path}" for path in files),
    )  # fmt: skip
    for pod in stack.pods():
        # A pod that changes is looked at by its kubelet at once, and its volumes with it.
        stack.kubectl("annotate", "pod", pod.metadata.name, f"e2e/dropped={number}", "--overwrite")


def _wait_version(stack: Stack, number: int) -> None:
    deadline = time.monotonic() + NEWS_SECONDS
    while True:
        (pod,) = stack.pods()
        found = stack.version(pod)
        if found == number:
            return
        if time.monotonic() > deadline:
            raise WaitTimeoutError(
                f"waited {NEWS_SECONDS:g} s for {pod.metadata.name} to serve version {number}; "
                f"it serves {found}"
            )
        time.sleep(0.5)


def _wait_refused(stack: Stack) -> None:
    deadline = time.monotonic() + NEWS_SECONDS
    while True:
        (pod,) = stack.pods()
        _, page = stack.get(pod.metadata.name, 8503, "/metrics")
        found = re.search(r"^chopstick_health_unverified_versions (\S+)$", page, re.MULTILINE)
        if found and float(found[1]) >= 1:
            return
        if time.monotonic() > deadline:
            raise WaitTimeoutError(
                f"waited {NEWS_SECONDS:g} s for {pod.metadata.name} to refuse version {BROKEN} "
                "(chopstick_health_unverified_versions)"
            )
        time.sleep(0.5)
