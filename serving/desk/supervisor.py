"""Replicas and their gateway as one thing: start, watch, restart with back-off, drain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from serving.desk.process import Child, describe_exit, tail
from serving.desk.replica import ENVIRONMENT, GRACE_SECONDS, ReplicaProbe, Servable, command
from serving.errors import ChopstickError
from serving.gateway import envoy
from serving.gateway.admin import Admin
from serving.gateway.bootstrap import GRPC_CLUSTER, REST_CLUSTER, Gateway, Replica, render
from serving.gateway.latency import LatencyWindow

# A replica needs seconds to import TensorFlow: trying more often than this changes nothing, and a
# replica that dies of what it serves should not keep a core busy.
_FIRST_BACKOFF, _LAST_BACKOFF = 0.5, 30.0
# Ready for this long, a program is over its last trouble and the back-off starts anew.
_STABLE_SECONDS = 10.0
# Import, load and warm-up of a large model on a busy machine.
_START_SECONDS = 180.0
# The replica's own grace period for calls under way, and then time to unload.
_STOP_SECONDS = GRACE_SECONDS + 5.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Event:
    """A change of state, to be printed: `kind` for programs, `text` for people."""

    kind: str
    text: str
    details: dict[str, Any] = field(default_factory=dict)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition that lies in another process: nothing here could set an Event."""
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(_POLL_SECONDS)


class Kept:
    """One program that is kept running: replica or gateway."""

    def __init__(
        self,
        name: str,
        log: Path,
        launch: Callable[[], Awaitable[Child]],
        is_ready: Callable[[], Awaitable[bool]],
        emit: Callable[[Event], None],
    ) -> None:
        self.name = name
        self.log = log
        self.state = "starting"
        self.restarts = 0
        self.child: Child | None = None
        self.stopping = asyncio.Event()
        self._launch = launch
        self._is_ready = is_ready
        self._emit = emit

    @property
    def pid(self) -> int | None:
        """Its process id; None while there is no process."""
        return self.child.pid if self.child and self.child.exit_code is None else None

    async def run(self) -> None:
        """Start it, and again whenever it ends, until `stopping`.

        Raises ChopstickError where it never became ready: then a restart would not help.
        """
        backoff = _FIRST_BACKOFF
        while not self.stopping.is_set():
            started = time.monotonic()
            self.state = "starting"
            self.child = await self._launch()
            ready = asyncio.create_task(self._report_ready(started))
            exited = asyncio.create_task(self.child.wait())
            try:
                await asyncio.wait({ready, exited}, return_when=asyncio.FIRST_COMPLETED)
                # A check that raises is a fault of ours and must not look like a slow start.
                ready_at = ready.result() if ready.done() else None
                code = await exited
            finally:
                ready.cancel()
                exited.cancel()
            if self.stopping.is_set():
                break
            end = f"{self.name} (pid {self.child.pid}) {describe_exit(code)}"
            if ready_at is None and self.restarts == 0:
                raise ChopstickError(
                    f"{end} before it was ready",
                    "\n  ".join([*tail(self.log), f"the whole log: {self.log}"]),
                )
            if ready_at is not None and time.monotonic() - ready_at > _STABLE_SECONDS:
                backoff = _FIRST_BACKOFF
            self.restarts += 1
            self.state = "restarting"
            self._emit(
                Event(
                    "died",
                    f"{end}; restart {self.restarts} in {backoff:.1f} s (log: {self.log})",
                    {"name": self.name, "pid": self.child.pid, "exit_code": code},
                )
            )
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LAST_BACKOFF)
        self.state = "stopped"

    async def _report_ready(self, started: float) -> float:
        await until(self._is_ready)
        now = time.monotonic()
        self.state = "ready"
        seconds = now - started
        self._emit(
            Event(
                "ready",
                f"{self.name} is ready after {seconds:.1f} s (pid {self.pid})",
                {"name": self.name, "pid": self.pid, "seconds": round(seconds, 3)},
            )
        )
        return now


@dataclass(frozen=True)
class Row:
    """One replica in the table; `share` of all requests, percentiles in seconds."""

    name: str
    address: str
    pid: int | None
    state: str
    versions: tuple[int, ...]
    requests: int
    share: float | None
    p50: float | None
    p99: float | None


class Desk:
    """`replicas` model servers behind one Envoy.

    `async with Desk(…) as desk:` starts everything and waits until the gateway sends calls to
    every replica; at the end it drains. Make it inside the event loop. `on_event` hears of every change of state. Logs and
    configuration are in `run_dir`. Raises ChopstickError where something can't start, with the
    end of its log.
    """

    def __init__(
        self,
        servable: Servable,
        replicas: Sequence[Replica],
        gateway: Gateway,
        run_dir: Path,
        *,
        server_flags: Sequence[str] = (),
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.servable = servable
        self.addresses = list(replicas)
        self.gateway = gateway
        self.run_dir = run_dir
        self.latency = LatencyWindow()
        self.probes = [ReplicaProbe(replica, servable.name) for replica in self.addresses]
        self._server_flags = list(server_flags)
        self._emit = on_event
        self._admin: Admin | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._readers: set[asyncio.Task[None]] = set()
        self._requests: dict[str, int] = {}
        self._earlier: dict[str, int] = {}
        self._bootstrap = run_dir / "envoy.yaml"
        self._monitoring_config = run_dir / "monitoring.config"
        self._admin_address = run_dir / "envoy-admin"
        self.replicas = [self._keep_replica(index) for index in range(len(self.addresses))]
        self.envoy = Kept(
            "gateway", run_dir / "gateway.log", self._launch_envoy, self._envoy_ready, on_event
        )

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # -- start ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start all programs and wait until the gateway balances over every replica."""
        self._monitoring_config.write_text("prometheus_config { enable: true }\n")
        self._bootstrap.write_text(render(self.gateway, self.addresses))
        self._tasks = [asyncio.create_task(kept.run()) for kept in (self.envoy, *self.replicas)]
        everyone = asyncio.create_task(self._all_ready())
        done, _ = await asyncio.wait(
            {everyone, *self._tasks},
            timeout=_START_SECONDS,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if everyone in done:
            return
        everyone.cancel()
        for task in done:
            await task
        waiting = [kept for kept in (self.envoy, *self.replicas) if kept.state != "ready"]
        raise ChopstickError(
            f"not ready after {_START_SECONDS:.0f} s: "
            + (", ".join(kept.name for kept in waiting) or "the gateway's health checks"),
            "see the log: " + ", ".join(str(kept.log) for kept in waiting or [self.envoy]),
        )

    async def _all_ready(self) -> None:
        async def ready() -> bool:
            return all(
                kept.state == "ready" for kept in (self.envoy, *self.replicas)
            ) and await self.healthy_replicas() == len(self.addresses)

        await until(ready)

    async def healthy_replicas(self) -> int:
        """Return to how many replicas the gateway sends both gRPC and REST calls."""
        if self._admin is None:
            return 0
        try:
            endpoints = await self._admin.endpoints()
        except httpx.HTTPError:
            return 0
        healthy = {key for key, endpoint in endpoints.items() if endpoint.healthy}
        return sum(
            (GRPC_CLUSTER, replica.grpc) in healthy and (REST_CLUSTER, replica.rest) in healthy
            for replica in self.addresses
        )

    def _keep_replica(self, index: int) -> Kept:
        name = f"replica-{index}"
        log = self.run_dir / f"{name}.log"
        words = command(
            self.addresses[index],
            self.servable,
            self._monitoring_config,
            len(self.addresses),
            self._server_flags,
        )

        async def is_ready() -> bool:
            return bool(await self.probes[index].available())

        return Kept(
            name,
            log,
            lambda: Child.start(name, words, log, environment=ENVIRONMENT),
            is_ready,
            self._emit,
        )

    # -- the gateway ---------------------------------------------------------------------------

    async def _launch_envoy(self) -> Child:
        await self._forget_admin()
        # A new Envoy counts from zero; the table goes on.
        self._earlier = dict(self._requests)
        self._admin_address.unlink(missing_ok=True)
        child = await Child.start(
            "gateway",
            envoy.command(self._bootstrap, self._admin_address),
            self.envoy.log,
            pipe_stdout=self.gateway.access_log,
        )
        if child.stdout is not None:
            reader = asyncio.create_task(self._read_access_log(child.stdout))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        return child

    async def _read_access_log(self, stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            self.latency.add_line(line.decode(errors="replace"))

    async def _envoy_ready(self) -> bool:
        if self._admin is None:
            # Envoy writes the file in two steps; an address without a port is half of one.
            with contextlib.suppress(OSError):
                address = self._admin_address.read_text().strip()
                if address.rpartition(":")[2].isdigit():
                    self._admin = Admin(address)
        return self._admin is not None and await self._admin.ready()

    async def _forget_admin(self) -> None:
        if self._admin is not None:
            admin, self._admin = self._admin, None
            await admin.close()

    # -- the table -----------------------------------------------------------------------------

    async def rows(self) -> list[Row]:
        """Return the state of every replica as of now."""
        endpoints = {}
        if self._admin is not None:
            with contextlib.suppress(httpx.HTTPError):
                endpoints = await self._admin.endpoints()
        versions = await asyncio.gather(*(probe.available() for probe in self.probes))
        for replica in self.addresses:
            now = sum(
                endpoints[key].requests
                for key in ((GRPC_CLUSTER, replica.grpc), (REST_CLUSTER, replica.rest))
                if key in endpoints
            )
            # Zero while the gateway is away: keep what was last known.
            if now:
                self._requests[replica.grpc] = self._earlier.get(replica.grpc, 0) + now
        total = sum(self._requests.values())
        rows = []
        for replica, kept, available in zip(self.addresses, self.replicas, versions, strict=True):
            state = kept.state
            endpoint = endpoints.get((GRPC_CLUSTER, replica.grpc))
            if state == "ready" and endpoint is not None and not endpoint.healthy:
                state = "out: " + ", ".join(flag.replace("_", " ") for flag in endpoint.flags)
            requests = self._requests.get(replica.grpc, 0)
            seen = self.latency.percentiles(replica.grpc)
            rows.append(
                Row(
                    kept.name,
                    replica.grpc,
                    kept.pid,
                    state,
                    tuple(available),
                    requests,
                    requests / total if total else None,
                    seen.p50 if seen else None,
                    seen.p99 if seen else None,
                )
            )
        return rows

    async def retries(self) -> int:
        """Return how many calls the gateway tried again on another replica, since its start."""
        return await self._admin.retries() if self._admin is not None else 0

    # -- stop ----------------------------------------------------------------------------------

    async def failed(self) -> None:
        """Wait until the supervision itself fails, and raise why; a dead replica is no failure."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task

    async def stop(self) -> None:
        """Drain and stop: no new calls, let the open ones finish, then gateway, then replicas."""
        everyone = (self.envoy, *self.replicas)
        for kept in everyone:
            kept.stopping.set()
            if kept.state != "restarting":
                kept.state = "draining"
        await self._drain_gateway()
        if self.envoy.child is not None:
            await self.envoy.child.stop(envoy.DRAIN_SECONDS)
        await asyncio.gather(
            *(kept.child.stop(_STOP_SECONDS) for kept in self.replicas if kept.child is not None)
        )
        await self._close()

    async def _drain_gateway(self) -> None:
        if self._admin is None:
            return
        admin = self._admin

        async def idle() -> bool:
            return await admin.active_requests() == 0

        # Where the gateway does not answer there is nothing to drain.
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            await admin.drain()
            await asyncio.wait_for(until(idle), envoy.DRAIN_SECONDS)

    async def kill(self) -> None:
        """End every process at once: for a start that failed, and for a second Ctrl-C."""
        for kept in (self.envoy, *self.replicas):
            kept.stopping.set()
        await self._close()

    async def _close(self) -> None:
        for task in (*self._tasks, *self._readers):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._readers, return_exceptions=True)
        for kept in (self.envoy, *self.replicas):
            # Started again in the very moment of stopping.
            if kept.pid is not None and kept.child is not None:
                kept.child.kill()
                await kept.child.wait()
        await self._forget_admin()
        await asyncio.gather(*(probe.close() for probe in self.probes))
