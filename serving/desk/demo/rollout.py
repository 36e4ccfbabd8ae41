"""Step 4: a new version on all replicas under load, and back again."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import Counter
from pathlib import Path

from serving.desk.demo.report import Report, Result
from serving.desk.demo.traffic import Size, report_failures, under_load
from serving.desk.supervisor import Desk, until
from serving.errors import ChopstickError
from serving.load import Load, LoadConfig

TITLE = "rollout and rollback under load"
_SAMPLE_SECONDS = 0.5
# What it takes a replica to notice (it looks once a second), load and warm up, many times over.
_SWITCH_SECONDS = 30.0
# A load that nobody stops ends by itself.
_LONGEST_LOAD = 120.0
_BLOCKS = " ▁▂▃▄▅▆▇█"


async def step(desk: Desk, gateway: str, new: Path, size: Size, report: Report) -> Result:
    """Move `new`, a version directory, into the base path under load, and out again."""
    old, version = await _only_version(desk), int(new.name)
    report.progress(
        f"version {version} over {len(desk.probes)} replicas and back, "
        f"at {size.rate:.0f} requests a second"
    )
    config = LoadConfig(
        gateway,
        rate=size.rate,
        duration=_LONGEST_LOAD,
        connections=len(desk.addresses),
        model=desk.servable.name,
    )
    async with under_load(config) as load:
        samples: list[dict[int, int]] = []
        sampler = asyncio.create_task(_sample(load, samples))
        await asyncio.sleep(_SAMPLE_SECONDS)
        served = desk.servable.base_path / new.name
        load.mark("rollout")
        # One rename: a replica never sees half a version.
        os.rename(new, served)  # noqa: PTH104 - not worth a thread
        rolled = await _switch(desk, load, version, "rolled")
        report.progress(f"all replicas serve version {version} alone")

        async def half() -> bool:
            return load.so_far.sent >= size.requests / 2

        await asyncio.sleep(_SAMPLE_SECONDS)
        await asyncio.wait_for(until(half), _LONGEST_LOAD)
        load.mark("rollback")
        os.rename(served, new)  # noqa: PTH104
        back = await _switch(desk, load, old, "back")

        async def enough() -> bool:
            return load.so_far.sent >= size.requests

        await asyncio.sleep(_SAMPLE_SECONDS)
        await asyncio.wait_for(until(enough), _LONGEST_LOAD)
        sampler.cancel()
        load.stop()
        outcome = await load.finished
    shutil.rmtree(new, ignore_errors=True)
    for answering in (version, old):
        report.line(f"  version {answering} {_strip(samples, answering)}")
    marks = ", ".join(f"{name} at {at:.1f} s" for name, at in outcome.marks.items())
    report.line(f"  {_SAMPLE_SECONDS} s a column; {marks}")
    lost = report_failures(outcome, report)
    held = (
        outcome.lost == 0
        and outcome.due >= size.requests
        and set(outcome.versions) == {old, version}
    )
    latency = outcome.latency
    verdict = (
        f"{outcome.lost} of {outcome.due:,} requests failed; "
        f"version {old} -> {version} on every replica after {rolled:.1f} s, back after {back:.1f} s"
        + (f"; p99 {1000 * latency.p99:.1f} ms" if latency else "")
    )
    figures = {
        "requests": outcome.due,
        "failed": outcome.lost,
        "rate": size.rate,
        "versions": {str(v): count for v, count in sorted(outcome.versions.items())},
        "rollout_seconds": round(rolled, 3),
        "rollback_seconds": round(back, 3),
        "marks": {name: round(at, 3) for name, at in outcome.marks.items()},
        "answers_by_version": {
            "seconds_a_sample": _SAMPLE_SECONDS,
            "samples": [{str(v): count for v, count in sample.items()} for sample in samples],
        },
        "p99_seconds": latency.p99 if latency else None,
        "failures": lost,
    }
    return report.result(Result(4, TITLE, held, verdict, figures))


async def _only_version(desk: Desk) -> int:
    found = {tuple(await probe.available()) for probe in desk.probes}
    if len(found) != 1 or len(next(iter(found))) != 1:
        raise ChopstickError(f"the replicas do not serve one and the same version: {found}")
    return next(iter(found))[0]


async def _switch(desk: Desk, load: Load, version: int, mark: str) -> float:
    """Wait until every replica serves this version alone; returns seconds."""
    started = time.monotonic()

    async def everywhere() -> bool:
        found = await asyncio.gather(*(probe.available() for probe in desk.probes))
        return all(available == [version] for available in found)

    try:
        await asyncio.wait_for(until(everywhere), _SWITCH_SECONDS)
    except TimeoutError:
        states = [await probe.versions() for probe in desk.probes]
        raise ChopstickError(
            f"after {_SWITCH_SECONDS:.0f} s not every replica serves version {version}: {states}",
            "see the logs: " + ", ".join(str(kept.log) for kept in desk.replicas),
        ) from None
    load.mark(mark)
    return time.monotonic() - started


async def _sample(load: Load, samples: list[dict[int, int]]) -> None:
    before: Counter[int] = Counter()
    while True:
        await asyncio.sleep(_SAMPLE_SECONDS)
        now = Counter(load.so_far.versions)
        samples.append(dict(sorted((now - before).items())))
        before = now


def _strip(samples: list[dict[int, int]], version: int) -> str:
    shares = [sample.get(version, 0) / max(1, sum(sample.values())) for sample in samples]
    # Any answer at all is visible.
    return "".join(_BLOCKS[max(round(share * 8), 1 if share else 0)] for share in shares)
