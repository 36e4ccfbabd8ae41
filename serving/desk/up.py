"""What `chopstick up` does: checks, start, table until a signal comes, drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from serving.desk import ports, servables
from serving.desk.replica import Servable
from serving.desk.rundir import RunDirectory
from serving.desk.supervisor import Desk, Event
from serving.desk.table import live_table
from serving.errors import ChopstickError
from serving.gateway.bootstrap import Gateway, Replica

_REFRESH_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Options:
    """The command's options; `train_if_missing` where the model directory is the default one."""

    replicas: int
    port: int
    rest_port: int
    host: str
    model_dir: Path
    model_name: str
    train_if_missing: bool
    as_json: bool
    server_flags: tuple[str, ...] = ()


def run(options: Options) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP; ChopstickError where it can't start."""
    # Ports first: a training that ends in "port in use" has wasted a minute.
    if options.port == options.rest_port:
        raise ChopstickError(
            f"--port and --rest-port are both {options.port}", "give each a port of its own"
        )
    ports.require_free(options.port, options.host, "--port")
    ports.require_free(options.rest_port, options.host, "--rest-port")
    if options.train_if_missing and not servables.versions(options.model_dir):
        _print_progress(f"no model in {options.model_dir}: training one")
        servables.train(options.model_dir)
    servables.require_versions(options.model_dir)
    with RunDirectory("chopstick-up-") as directory:
        asyncio.run(_run(options, directory))


async def _run(options: Options, directory: RunDirectory) -> None:
    await _Up(options, directory).run()


def _print_progress(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class _Up:
    def __init__(self, options: Options, directory: RunDirectory) -> None:
        self._options = options
        self._directory = directory
        self._console = Console(highlight=False, soft_wrap=True)
        own = ports.free_ports(2 * options.replicas)
        self._desk = Desk(
            Servable(options.model_name, options.model_dir),
            [Replica(grpc, rest) for grpc, rest in zip(own[::2], own[1::2], strict=True)],
            Gateway(options.port, options.rest_port, options.host),
            directory.path,
            server_flags=options.server_flags,
            on_event=self._show,
        )

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in _SIGNALS:
            loop.add_signal_handler(number, stop.set)
        stopping = asyncio.create_task(stop.wait())
        self._say(
            "starting",
            f"starting {self._options.replicas} replicas and the gateway; "
            f"logs in {self._directory.path}",
        )
        start = asyncio.create_task(self._desk.start())
        await asyncio.wait({start, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
        try:
            await start
        except asyncio.CancelledError:
            self._say("stopping", "stopped before it was ready")
        except BaseException:
            await self._desk.kill()
            raise
        else:
            self._invite()
            await self._watch(stopping)
            self._say("draining", "draining: no new calls, open ones finish")
        await self._stop(stop)
        kept = f"; logs are kept in {self._directory.path}" if self._directory.keep else ""
        self._say("stopped", f"stopped; no process is left{kept}")

    async def _stop(self, stop: asyncio.Event) -> None:
        stop.clear()
        drained = asyncio.create_task(self._desk.stop())
        again = asyncio.create_task(stop.wait())
        await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not drained.done():
            self._say("killing", "second signal: ending at once")
            drained.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drained
            await self._desk.kill()
        else:
            await drained

    async def _watch(self, stopping: asyncio.Task[bool]) -> None:
        failed = asyncio.create_task(self._desk.failed())
        table = asyncio.create_task(self._draw()) if self._live else None
        await asyncio.wait(
            {stopping, failed, *([table] if table else [])}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in (failed, table):
            if task is None:
                continue
            if task.done():
                await self._desk.kill()
                await task
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def _live(self) -> bool:
        return self._console.is_terminal and not self._options.as_json

    async def _draw(self) -> None:
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                live.update(live_table(await self._desk.rows()), refresh=True)
                await asyncio.sleep(_REFRESH_SECONDS)

    def _show(self, event: Event) -> None:
        if event.kind == "died":
            self._directory.keep = True
        if self._options.as_json:
            sys.stdout.write(json.dumps({"event": event.kind, **event.details}) + "\n")
            sys.stdout.flush()
        else:
            # Never markup: paths and log lines may hold brackets.
            self._console.print(
                event.text, markup=False, style="red" if event.kind == "died" else None
            )

    def _say(self, kind: str, text: str) -> None:
        self._show(Event(kind, text))

    def _invite(self) -> None:
        here = "127.0.0.1" if self._options.host == "0.0.0.0" else self._options.host  # noqa: S104
        name, grpc = self._options.model_name, f"{here}:{self._options.port}"
        rest = f"{here}:{self._options.rest_port}"
        chosen = "" if name == "chopstick" else f" --model-name {name}"
        url = f"http://{rest}/v1/models/{name}:predict"
        first = self._desk.replicas[0]
        lines = [
            f"up: gRPC on {grpc}, REST on {rest}. Try, in another terminal:",
            f"  chopstick predict {grpc} 180 240 330{chosen}",
            f"""  curl -d '{{"instances": [[240.0]]}}' {url}""",
            f"  chopstick load {grpc} --rate 200 --connections 1 --duration 30{chosen}",
            f"  kill -9 {first.pid}    # {first.name}: it comes back",
            "Ctrl-C drains and stops.",
        ]
        details = {
            "grpc": grpc,
            "rest": rest,
            "run_dir": str(self._directory.path),
            "gateway_pid": self._desk.envoy.pid,
            "replicas": [
                {"name": kept.name, "pid": kept.pid, "grpc": address.grpc, "rest": address.rest}
                for kept, address in zip(self._desk.replicas, self._desk.addresses, strict=True)
            ],
        }
        self._show(Event("up", "\n".join(lines), details))
