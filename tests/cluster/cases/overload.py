"""4: twice what the servers can do, for a minute."""

from __future__ import annotations

import time

from tests.cluster.stack import VARIATIONS, Stack
from tests.cluster.suite import Change, Context, case
from tests.cluster.traffic import traffic
from tests.cluster.witness import Witness

CAPACITY_SECONDS = 15.0
OVERLOAD_SECONDS = 60.0
LEAST_GOODPUT = 0.8
# Many, so that the Service's random choice gives each pod about a third of them.
CONNECTIONS = 48
# More than three servers with the variation's limit can answer, and not so much that the client takes
# the processor from them: what is due and can't be sent costs it, too.
SATURATING_RATE = 600.0
# Enough to keep each of three servers busy however the connections fell. A server refuses the 65th
# at once, so that the one with the most of them refuses some.
IN_FLIGHT = 120
REFUSED = "RESOURCE_EXHAUSTED"


@case("overload", "twice the measured capacity for 60 s")
def overload(context: Context) -> None:
    stack = context.stack("e2e-overload", VARIATIONS / "overload")
    stack.apply()
    stack.wait_ready(3)
    capacity = _capacity(context, stack)
    _overload(context, stack, capacity)


def _capacity(context: Context, stack: Stack) -> float:
    """Answers OK a second of servers that always have more to do than they can."""
    with traffic(
        context.callers, stack.grpc, rate=SATURATING_RATE, connections=CONNECTIONS,
        requests=round(SATURATING_RATE * CAPACITY_SECONDS), name="capacity",
        arguments=[f"--max-in-flight={IN_FLIGHT}"],
    ) as load:  # fmt: skip
        pass
    assert set(load.report.codes) <= {REFUSED}, load.report.words()
    context.figure("capacity of three limited servers", load.report.goodput, "requests/s")
    return load.report.goodput


def _overload(context: Context, stack: Stack, capacity: float) -> None:
    rate = round(2 * capacity)
    before = stack.answered()
    with (
        Witness(stack) as seen,
        traffic(
            context.callers, stack.grpc, rate=rate, connections=CONNECTIONS,
            requests=round(rate * OVERLOAD_SECONDS), name="overload",
        ) as load,
    ):  # fmt: skip
        began = time.monotonic()
    report = load.report
    title = f"overload, {rate} requests/s (refusals are no failures of the case)"
    context.outcome.changes.append(Change(title, report, time.monotonic() - began))
    share = report.goodput / capacity
    context.figure("goodput of capacity", share, "", f">= {LEAST_GOODPUT:g}")
    answered = [number - before[pod] for pod, number in stack.answered().items()]
    context.figure("busiest pod over mean", max(answered) * len(answered) / sum(answered), "")
    context.note(
        f"answers other than OK: {report.codes}; {report.late} requests left over 10 ms late"
    )
    assert share >= LEAST_GOODPUT, f"goodput {share:.0%} of capacity: {report.words()}"
    assert not seen.became_unready, f"unready: {sorted(seen.became_unready)}"
    assert not seen.restarts, f"restarted: {seen.restarts}"
