"""The program: everything started, wired, and ended by a signal."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.health import grpc_health, logs, poller
from serving.health.asking import ModelServer
from serving.health.config import Config
from serving.health.http import HttpServer
from serving.health.metrics import Metrics
from serving.health.monitor import Monitor
from serving.health.pages import metrics_pages, probe_pages
from serving.health.state import State

if TYPE_CHECKING:
    from serving.health.publisher import Publisher


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT; raises ChopstickError when a port or directory can't be had."""
    monitor = Monitor(config.model, config.required)
    metrics = Metrics(monitor, config.digest)
    health = grpc_health.Health(monitor.state)
    monitor.listeners += [_log, lambda _, new: health.tell(new)]

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    publisher = _publisher(config)
    if publisher:
        publisher.prepare()
    probes, scrapes = HttpServer(probe_pages(monitor)), HttpServer(metrics_pages(metrics))
    grpc_server, grpc_port = await grpc_health.serve(health, config.listen, config.grpc_port)
    try:
        await probes.start(config.listen, config.probe_port)
        await scrapes.start(config.listen, config.metrics_port)
        logs.say(
            "listening",
            probe=probes.port,
            metrics=scrapes.port,
            grpc_health=grpc_port,
            server=config.server,
            model=config.model,
        )
        # What is alive now stays so: no collection needs to look at it again.
        gc.collect()
        gc.freeze()
        async with ModelServer(config) as server, asyncio.TaskGroup() as tasks:
            work = [tasks.create_task(poller.run(server, monitor, metrics, config.poll))]
            if publisher:
                from serving.health import publishing

                work.append(
                    tasks.create_task(publishing.run(publisher, monitor, metrics, config.poll))
                )
            await stopped.wait()
            for task in work:
                task.cancel()
    finally:
        await grpc_server.stop(0)
        await probes.stop()
        await scrapes.stop()
        logs.say("stopped")


def publish(config: Config) -> None:
    """Publish once; raises ChopstickError when nothing that the server could load is there."""
    from serving.health import publishing

    publisher = _publisher(config)
    if publisher:
        publishing.once(publisher)


def _publisher(config: Config) -> Publisher | None:
    if config.volume is None:
        return None
    # Hashing and copying cost memory that a sidecar without a volume has no use for.
    from serving.health.publisher import Publisher

    return Publisher(config.volume / config.model, config.models / config.model, config.required)


def _log(old: State, new: State) -> None:
    tell: Callable[..., None] = logs.say if new.ready or not old.ready else logs.warn
    tell(
        "state",
        reason=new.reason.value,
        status=new.reason.http_status,
        message=new.message,
        model=new.model,
        version=new.version,
        before=old.reason.value,
    )
