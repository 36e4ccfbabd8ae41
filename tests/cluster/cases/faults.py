"""5: a sidecar killed, a server killed, a server that hangs."""

from __future__ import annotations

import time
from typing import Any

from tests.cluster import faults
from tests.cluster.cluster import container, is_ready
from tests.cluster.stack import Stack
from tests.cluster.suite import Context, case
from tests.cluster.traffic import Report
from tests.cluster.witness import Seen, Witness

RECOVERY_SECONDS = 180.0
# Requests on the connections of one pod of three fail until their clients have noticed; what is
# asked for is that it stays at that. The figure itself is in the outcome.
MOST_FAILED_KILLED = 0.02
MOST_FAILED_STOPPED = 0.35
# The readiness probe's period and failures (base): what a sidecar has to be back in.
PROBE_SECONDS = 6.0
ABSENT = 5.0


def _victim(stack: Stack) -> str:
    return str(stack.ready_pods()[0].metadata.name)


def _restarted(stack: Stack, pod: str, name: str, before: int, seconds: float) -> None:
    def condition(pods: dict[str, Any]) -> bool:
        status = container(pods[pod], name) if pod in pods else None
        return bool(status and status.restart_count > before and status.started is not False)

    stack.cluster.wait_pods(
        stack.namespace, condition, f"container {name} of {pod} to be restarted", seconds
    )


def _ready_again(stack: Stack, pod: str, seconds: float) -> None:
    stack.cluster.wait_pods(
        stack.namespace,
        lambda pods: pod in pods and is_ready(pods[pod]),
        f"{pod} to be ready again",
        seconds,
    )


def _count(stack: Stack, pod: str, name: str) -> int:
    found = next(p for p in stack.pods() if p.metadata.name == pod)
    return int(container(found, name).restart_count)


@case("sidecar-killed", "the sidecar killed: the server goes on, the sidecar is back at once")
def sidecar_killed(context: Context) -> None:
    """No request fails and the server is not restarted.

    Kubernetes counts a native sidecar among the containers that must be ready for the pod to be: the
    pod leaves the endpoints while the sidecar is not there, for that reason alone and no longer.
    """
    faults.command()
    stack = context.serving()
    pod = _victim(stack)
    before = {name: _count(stack, pod, name) for name in ("health", "server")}
    with (
        context.without_failure(stack, "sidecar killed") as load,
        Witness(stack) as seen,
    ):
        load.mark("kill")
        began = time.monotonic()
        faults.send("kill", stack.namespace, pod, "health")
        _restarted(stack, pod, "health", before["health"], 60)
        context.figure("sidecar killed: back after", time.monotonic() - began, "s")
        # As long as the readiness probe takes to give the server up, and again: it must not.
        time.sleep(2 * PROBE_SECONDS)
    absent = sum(
        back - gone
        for gone, back in zip(
            seen.became_unready.get(pod, ()),
            (moment for moment in seen.became_ready.get(pod, ()) if moment > began),
            strict=True,
        )
    )
    context.figure("sidecar killed: pod out of the endpoints for", absent, "s", f"< {ABSENT:g}")
    assert absent < ABSENT, f"{pod} was unready for {absent:.1f} s"
    reasons = seen.why_unready.get(pod, set())
    assert all("[health]" in reason for reason in reasons), (
        f"unready by more than health: {reasons}"
    )
    _others_stayed(seen, pod)
    assert _count(stack, pod, "server") == before["server"], "the server was restarted"


@case("server-killed", "the server killed: seconds until the pod serves again")
def server_killed(context: Context) -> None:
    faults.command()
    stack = context.serving()
    pod = _victim(stack)
    restarted = _count(stack, pod, "server")
    title = "server killed (retries on)"
    with context.under_load(stack, title, retries=True) as load, Witness(stack) as seen:
        load.mark("kill")
        began = time.monotonic()
        faults.send("kill", stack.namespace, pod, "server")
        _restarted(stack, pod, "server", restarted, RECOVERY_SECONDS)
        _ready_again(stack, pod, RECOVERY_SECONDS)
        context.figure("server killed: ready again after", time.monotonic() - began, "s")
        load.mark("ready again")
    _unready_after(context, seen, pod, began, "server killed")
    _others_stayed(seen, pod)
    _failures(context, load.report, "kill", MOST_FAILED_KILLED)


@case("server-stopped", "the server hangs (SIGSTOP): unready, then restarted by liveness")
def server_stopped(context: Context) -> None:
    faults.command()
    stack = context.serving()
    pod = _victim(stack)
    restarted = _count(stack, pod, "server")
    title = "server stopped (retries on)"
    with context.under_load(stack, title, retries=True) as load, Witness(stack) as seen:
        load.mark("stop")
        began = time.monotonic()
        faults.send("stop", stack.namespace, pod, "server")
        try:
            stack.cluster.wait_pods(
                stack.namespace,
                lambda pods: pod in pods and not is_ready(pods[pod]),
                f"{pod}, whose server hangs, to be unready",
                60,
            )
            context.figure("server stopped: unready after", time.monotonic() - began, "s")
            load.mark("unready")
            _restarted(stack, pod, "server", restarted, RECOVERY_SECONDS)
            context.figure("server stopped: restarted after", time.monotonic() - began, "s")
        except BaseException:
            # What is stopped must not stay so, whatever failed.
            faults.send("cont", stack.namespace, pod, "server")
            raise
        _ready_again(stack, pod, RECOVERY_SECONDS)
        context.figure("server stopped: ready again after", time.monotonic() - began, "s")
        load.mark("ready again")
    _others_stayed(seen, pod)
    _failures(context, load.report, "stop", MOST_FAILED_STOPPED)


def _unready_after(context: Context, seen: Seen, pod: str, began: float, what: str) -> None:
    moments = seen.became_unready.get(pod)
    assert moments, f"{pod} was never unready"
    context.figure(f"{what}: unready after", moments[0] - began, "s")


def _others_stayed(seen: Seen, pod: str) -> None:
    others = set(seen.became_unready) - {pod}
    assert not others, f"other pods became unready: {sorted(others)}"
    others = set(seen.restarts) - {pod}
    assert not others, f"other pods restarted: {sorted(others)}"


def _failures(context: Context, report: Report, mark: str, most: float) -> None:
    """Note how many failed and until when; fail when that is more than a share of `most`."""
    if report.failures:
        began = report.marks[mark]
        first, last = report.failures[0].at - began, report.failures[-1].at - began
        context.note(
            f"{report.lost} of {report.sent} failed, {first:.1f} to {last:.1f} s after the {mark}: "
            f"{report.codes}"
        )
    assert report.lost <= most * report.sent, f"more than {most:.0%} failed: {report.words()}"
