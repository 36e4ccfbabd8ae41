"""A load beside a step, and its failures in words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from serving.desk.demo.report import Report
from serving.desk.supervisor import until
from serving.load import Load, LoadConfig, LoadResult


@dataclass(frozen=True)
class Size:
    """How much load: at least `requests`, at `rate` a second."""

    requests: int
    rate: float


class RunningLoad(Load):
    """A load that runs beside the step; `finished` is its result."""

    finished: asyncio.Task[LoadResult]


@contextlib.asynccontextmanager
async def under_load(config: LoadConfig) -> AsyncIterator[RunningLoad]:
    """Start a load, wait until it is under way, and end it with the block."""
    load = RunningLoad(config)
    load.finished = asyncio.create_task(load.run())

    async def under_way() -> bool:
        return load.so_far.ok > 0 or load.so_far.failed > 0 or load.finished.done()

    try:
        await until(under_way)
        yield load
    finally:
        load.stop()
        await load.finished


def report_failures(outcome: LoadResult, report: Report, most: int = 10) -> list[dict[str, object]]:
    """Print the first failures with time, code, replica and message; return all that were kept."""
    rows = [
        {
            "at": round(failure.at, 3),
            "code": failure.code,
            "peer": failure.peer,
            "message": failure.message,
        }
        for failure in outcome.failures
    ]
    for failure in outcome.failures[:most]:
        report.line(
            f"  failed at {failure.at:.2f} s: {failure.code} from {failure.peer}: {failure.message}"
        )
    if len(rows) > most:
        report.line(f"  and {len(rows) - most} more")
    if outcome.overrun:
        report.line(f"  {outcome.overrun} requests were due and never sent: too many under way")
    return rows
