"""`chopstick health`: the readiness sidecar at the desk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import click

from serving.errors import ChopstickError


@click.command("health")
@click.argument("target", metavar="HOST:PORT")
@click.option("--model", default="chopstick", show_default=True, help="Name of the model.")
@click.option("--version", metavar="N", help="Version that must be AVAILABLE; default the newest.")
@click.option("--inputs", metavar="FILE", help="JSON inputs of the Predict that proves a version.")
@click.option("--signature", metavar="NAME", help="Signature of that Predict.")
@click.option("--once", is_flag=True, help="Ask once, print the reason, exit 0 when ready.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--probe-port", metavar="PORT", help="/startupz /livez /readyz; default 8502.")
@click.option("--metrics-port", metavar="PORT", help="/metrics; default 8503.")
@click.option("--grpc-port", metavar="PORT", help="grpc.health.v1; default 8504.")
def command(target: str, once: bool, **flags: str | None) -> None:
    """Say whether the server at HOST:PORT is ready, and why not: on HTTP, gRPC and /metrics.

    The same program runs beside the server in every pod (`python -m serving.health`).
    """
    words = ["--server", target]
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", value]
    if once:
        _once(words)
        return
    from serving.health.__main__ import main

    # Its own errors are told in the same words as ours.
    raise SystemExit(main(words))


def _once(words: Sequence[str]) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from serving.health import config, poller

    _, settings = config.parse(words, {})
    state = asyncio.run(poller.once(settings))
    click.echo(f"{state.reason.value}\t{state.version or ''}\t{state.message}")
    if not state.ready:
        raise ChopstickError(
            f"{settings.server} is not ready: {state.reason.value}",
            "Start one with `chopstick serve`, or correct HOST:PORT."
            if state.refused
            else "`chopstick models` shows the versions; the server's log says more.",
        )
