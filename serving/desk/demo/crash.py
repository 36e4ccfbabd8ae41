"""Step 5: a replica killed with SIGKILL under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from serving.desk.demo.report import Report, Result
from serving.desk.demo.traffic import Size, report_failures, under_load
from serving.desk.supervisor import Desk, until
from serving.errors import ChopstickError
from serving.load import LoadConfig

TITLE = "a replica killed under load"
_ANSWERED = 0.999
_BEFORE_SECONDS, _AFTER_SECONDS = 1.0, 1.0
# A restart imports TensorFlow, on a machine that is under load.
_RESTART_SECONDS = 60.0
_LONGEST_LOAD = 120.0


async def step(desk: Desk, gateway: str, size: Size, report: Report) -> Result:
    """Kill one replica under load and go on until it is back and `size.requests` were sent."""
    victim = desk.replicas[-1]
    pid = victim.pid
    if pid is None:
        raise ChopstickError(f"{victim.name} does not run", f"see its log: {victim.log}")
    config = LoadConfig(
        gateway,
        rate=size.rate,
        duration=_LONGEST_LOAD,
        connections=len(desk.addresses),
        model=desk.servable.name,
    )
    async with under_load(config) as load:
        await asyncio.sleep(_BEFORE_SECONDS)
        report.progress(f"kill -9 {pid} ({victim.name}) at {size.rate:.0f} requests a second")
        restarts, retries = victim.restarts, await desk.retries()
        killed = time.monotonic()
        load.mark("killed")
        os.kill(pid, signal.SIGKILL)

        async def back() -> bool:
            return (
                victim.restarts > restarts
                and victim.state == "ready"
                and await desk.healthy_replicas() == len(desk.addresses)
            )

        try:
            await asyncio.wait_for(until(back), _RESTART_SECONDS)
        except TimeoutError:
            raise ChopstickError(
                f"{victim.name} was not back {_RESTART_SECONDS:.0f} s after it was killed",
                f"see its log: {victim.log}",
            ) from None
        load.mark("back")
        seconds = time.monotonic() - killed
        report.progress(f"{victim.name} is back after {seconds:.1f} s")

        async def enough() -> bool:
            return load.so_far.sent >= size.requests

        await asyncio.sleep(_AFTER_SECONDS)
        await asyncio.wait_for(until(enough), _LONGEST_LOAD)
        load.stop()
        outcome = await load.finished
    retried = await desk.retries() - retries
    lost = report_failures(outcome, report)
    answered = outcome.ok / max(1, outcome.due)
    latency = outcome.latency
    held = answered >= _ANSWERED and outcome.due >= size.requests
    verdict = (
        f"{answered:.3%} of {outcome.due:,} requests answered, {outcome.lost} not"
        + (f" ({dict(outcome.codes)})" if outcome.codes else "")
        + f"; {retried} were tried again on another replica; the killed one was back after {seconds:.1f} s"
        + (f"; p99 {1000 * latency.p99:.1f} ms" if latency else "")
    )
    figures = {
        "requests": outcome.due,
        "answered": outcome.ok,
        "answered_share": answered,
        "failed": outcome.lost,
        "retried_by_the_gateway": retried,
        "rate": size.rate,
        "back_seconds": round(seconds, 3),
        "marks": {name: round(at, 3) for name, at in outcome.marks.items()},
        "share": dict(sorted(outcome.share.items())),
        "p99_seconds": latency.p99 if latency else None,
        "failures": lost,
    }
    return report.result(Result(5, TITLE, held, verdict, figures))
