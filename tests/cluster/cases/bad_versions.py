"""3: versions that can't serve: never ready, the old pods go on, the reason is there, undo heals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import WaitTimeoutError, container
from tests.cluster.stack import VARIATIONS, Stack
from tests.cluster.suite import Context, case
from tests.cluster.witness import Witness

# Import of TensorFlow beside three serving pods, and a few rounds of the startup probe.
REASON_SECONDS = 90.0


@dataclass(frozen=True)
class Bad:
    """A variation that must not become ready; `reason` waits for what says why, and returns it."""

    title: str
    overlay: str
    reason: Callable[[Stack, str], str]


def _of_ended_server(stack: Stack, pod: str) -> str:
    """The server's own last words: with no version to serve, it ends."""

    def ended(pods: dict[str, Any]) -> Any:
        status = container(pods[pod], "server") if pod in pods else None
        return status and (
            (status.last_state and status.last_state.terminated)
            or (status.state and status.state.terminated)
        )

    terminated = stack.cluster.wait_pods(
        stack.namespace, ended, f"the server of {pod} to end", REASON_SECONDS
    )
    assert terminated.exit_code != 0, terminated
    # The container may have been started again since: then its last words are in the log before.
    logs = stack.log(pod, "server", previous=True) + stack.log(pod, "server")
    line = next((line for line in logs.splitlines() if "Failed to start server" in line), "")
    assert line, f"no 'Failed to start server' in the log of {pod}: {logs[-1000:]}"
    return f"server ends with {terminated.exit_code}: {line.strip()[:300]}"


def _of_probe(code: int, reason: str) -> Callable[[Stack, str], str]:
    """The startup probe's status code in the pod's events, and the words for it in the body."""

    def find(stack: Stack, pod: str) -> str:
        event = stack.wait_event(pod, f"statuscode: {code}", REASON_SECONDS)
        status, body = stack.get(pod, 8502, "/readyz")
        said = json.loads(body)
        assert status == code, f"/readyz says {status}: {body}"
        assert said["reason"] == reason, body
        return f"{event.strip()}; /readyz: {said['reason']}: {said['message'][:300]}"

    return find


def _of_missing_directory(stack: Stack, pod: str) -> str:
    """A server that waits for a first version opens no port: loading, as far as one can ask."""
    words = ("No versions of servable", "Could not find base path")
    deadline = time.monotonic() + REASON_SECONDS
    while True:
        log = stack.log(pod, "server")
        line = next((line for line in log.splitlines() if any(word in line for word in words)), "")
        if line:
            break
        if time.monotonic() > deadline:
            raise WaitTimeoutError(
                f"waited {REASON_SECONDS:g} s for the log of {pod} to name the directory: {log[-1000:]}"
            )
        time.sleep(0.5)
    # Now, and not before, does the probe's answer mean this.
    seen = _of_probe(503, "loading")(stack, pod)
    return f"{seen}; server: {line.strip()[:300]}"


BAD = [
    Bad("corrupt version", "corrupt", _of_ended_server),
    Bad("missing directory", "missing", _of_missing_directory),
    Bad("model whose Predict fails", "failing", _of_probe(422, "predict_failed")),
]


@case("bad-versions", "corrupt, missing, failing: never ready, old pods go on, undo heals")
def bad_versions(context: Context) -> None:
    stack = context.serving()
    with (
        context.without_failure(stack, "three versions that can't serve, each undone") as load,
        Witness(stack) as seen,
    ):
        for bad in BAD:
            before = {pod.metadata.name for pod in stack.pods()}
            load.mark(bad.title)
            stack.apply(VARIATIONS / bad.overlay)
            try:
                pod = _new_pod(stack, before)
                reason = bad.reason(stack, pod)
                context.note(f"{bad.title}: {reason}")
                assert pod not in seen.became_ready, f"{bad.title}: {pod} became ready"
            finally:
                stack.undo()
            began = time.monotonic()
            stack.rolled_out()
            assert before == {pod.metadata.name for pod in stack.pods()}, (
                f"{bad.title}: undo did not leave the pods of before"
            )
            context.note(f"{bad.title}: healed by undo in {time.monotonic() - began:.1f} s")
        stack.wait_ready(3)
    assert seen.fewest_ready >= 3, f"only {seen.fewest_ready} pods were ready"
    assert seen.most_ready == 3, "a version that can't serve became ready"


def _new_pod(stack: Stack, before: set[str]) -> str:
    def found(pods: dict[str, Any]) -> str:
        new = (
            name
            for name, pod in pods.items()
            # The one of the case before takes its grace period to go.
            if name not in before and pod.metadata.deletion_timestamp is None
        )
        return next(new, "")

    return stack.cluster.wait_pods(stack.namespace, found, "a pod of the new revision", 30)
