"""Asks the model server once per period, and a version that is new to answer a Predict."""

from __future__ import annotations

import asyncio
import time

from serving.health.asking import ModelServer
from serving.health.config import Config
from serving.health.metrics import Metrics
from serving.health.monitor import Monitor
from serving.health.state import State, Verdict

# A busy server may have room for a Predict at any moment, and until then the pod is not ready.
RETRY_SECONDS = 0.1


async def run(server: ModelServer, monitor: Monitor, metrics: Metrics, period: float) -> None:
    """Poll for ever, `period` seconds from start to start."""
    while True:
        began = time.monotonic()
        settled = await poll(server, monitor, metrics)
        pause = period if settled else min(period, RETRY_SECONDS)
        await asyncio.sleep(max(0.0, began + pause - time.monotonic()))


async def once(config: Config) -> State:
    """What one poll finds; busy servers are not asked again."""
    monitor = Monitor(config.model, config.required)
    async with ModelServer(config) as server:
        await poll(server, monitor, Metrics(monitor, config.digest))
    return monitor.state


async def poll(server: ModelServer, monitor: Monitor, metrics: Metrics) -> bool:
    """Poll once; False when a Predict should be asked again soon."""
    with metrics.timed("status"):
        event = await server.status()
    metrics.count(event)
    version = monitor.apply(event).untried
    if version is None:
        return True
    with metrics.timed("predict"):
        predicted = await server.predict(version)
    monitor.apply(predicted)
    return predicted.verdict is not Verdict.LATER
