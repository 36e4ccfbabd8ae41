"""Open-loop load generator: requests leave on a schedule, whatever the server does.

    from serving.load import Load, LoadConfig

    load = Load(LoadConfig("127.0.0.1:8500", rate=200, duration=10, connections=4))
    task = asyncio.create_task(load.run())
    ...
    load.mark("kill")
    ...
    result = await task
    result.failures_between(result.marks["kill"], result.marks["kill"] + 2)

Latency counts from the moment a request was *due*, so that a server that stops for a second
shows up in every request of that second and not in one (no coordinated omission). `InThread`
runs the same from code without an event loop.
"""

from __future__ import annotations

from serving.load.config import LoadConfig
from serving.load.result import Failure, LatencySummary, LoadResult, Second
from serving.load.runner import InThread, Load, run_load

__all__ = [
    "Failure",
    "InThread",
    "LatencySummary",
    "Load",
    "LoadConfig",
    "LoadResult",
    "Second",
    "run_load",
]
