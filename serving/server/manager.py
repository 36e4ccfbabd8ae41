"""Which versions are loaded: aspired versions in, states and lookups out.

The rules are those of TFS's AspiredVersionsManager with the availability-preserving policy: a new
version is loaded first, the old one goes only when an aspired one is AVAILABLE, and it finishes
what it was answering before its session is closed. Everything here runs on one event loop;
loading, warming up and closing run in worker threads.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from serving.protocol import messages
from serving.protocol.status import (
    ServingError,
    failed_precondition,
    invalid_argument,
    not_found,
)
from serving.server import memory
from serving.server.bundle import SavedModelBundle
from serving.server.logs import log


class State(IntEnum):
    """ModelVersionStatus.State."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass
class Servable:
    """One version of one model, from START to END."""

    name: str
    version: int
    path: str
    state: State = State.START
    error: ServingError | None = None
    bundle: SavedModelBundle | None = None
    in_flight: int = 0
    idle: asyncio.Event | None = field(default=None, repr=False)
    """Set while UNLOADING, when the last request that uses the bundle has been answered."""

    def release(self) -> None:
        """End a request's use of the bundle."""
        self.in_flight -= 1
        if self.in_flight == 0 and self.idle is not None:
            self.idle.set()

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


Load = Callable[[Servable], SavedModelBundle]
"""Loads and warms up in a worker thread; raises ServingError."""


@dataclass
class LoadPolicy:
    """How loads are retried and how many go on at once."""

    max_retries: int = 5
    retry_seconds: float = 60.0
    threads: int = 1
    initial_threads: int = 4


class ServableManager:
    """Holds every servable and moves each towards what is aspired."""

    def __init__(self, load: Load, policy: LoadPolicy) -> None:
        self._load = load
        self._policy = policy
        # Never more at once than the larger limit; the gate below is what really limits.
        self._executor = ThreadPoolExecutor(
            max(policy.threads, policy.initial_threads) + 1, thread_name_prefix="load"
        )
        self._gate = asyncio.Semaphore(policy.initial_threads)
        self._aspired: dict[str, dict[int, str]] = {}
        self._servables: dict[str, dict[int, Servable]] = {}
        self._available: dict[str, dict[int, Servable]] = {}
        self._latest: dict[str, Servable] = {}
        self._failed: dict[str, set[int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: set[asyncio.Future[None]] = set()
        self.labels: dict[str, dict[str, int]] = {}

    # Lookups, on the path of every request.

    def lookup(self, spec: messages.ModelSpec) -> Servable:
        """The AVAILABLE servable that a ModelSpec asks for; raises ServingError with TFS's words."""
        name = spec.name
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        if choice is None:
            servable = self._latest.get(name)
            if servable is None:
                raise not_found(f"Servable not found for request: Latest({name})")
            return servable
        if choice == "version":
            version = spec.version.value
        else:
            label = spec.version_label
            try:
                version = self.labels[name][label]
            except KeyError:
                raise invalid_argument(f"Unrecognized servable version label: {label}") from None
        servable = self._available.get(name, {}).get(version)
        if servable is None:
            raise not_found(f"Servable not found for request: Specific({name}, {version})")
        return servable

    def states(self, name: str) -> list[Servable]:
        """Every version of the model that was ever seen, newest first."""
        versions = self._servables.get(name, {})
        return [versions[v] for v in sorted(versions, reverse=True)]

    def set_labels(
        self, models: Iterable[messages.ModelConfig], *, allow_unavailable: bool
    ) -> None:
        """Replace all labels; raises ServingError (FAILED_PRECONDITION) and changes none.

        A label must point to an AVAILABLE version. With `allow_unavailable` a label that is new
        may point anywhere; one that moves still may not.
        """
        new: dict[str, dict[str, int]] = {}
        for model in models:
            for label, version in model.version_labels.items():
                known = self.labels.get(model.name, {}).get(label)
                allowed = allow_unavailable and known in (None, version)
                if not allowed and version not in self._available.get(model.name, {}):
                    raise failed_precondition(
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference"
                    )
                new.setdefault(model.name, {})[label] = version
        self.labels = new

    # Aspirations.

    def aspire(self, name: str, versions: dict[int, str]) -> None:
        """Say which versions of a model should be served, {version: path}; {} unloads all."""
        if self._aspired.get(name) == versions:
            return
        self._aspired[name] = versions
        # A version that failed is tried again only after it was gone for a while.
        self._failed[name] = self._failed.get(name, set()) & set(versions)
        self._reconcile(name)
        self._notify()

    def finish_initial_load(self) -> None:
        """From now on loads go on `threads` at a time instead of `initial_threads`."""
        self._gate = asyncio.Semaphore(max(self._policy.threads, 1))

    async def wait_until_available(self, names: Iterable[str], noun: str = "model") -> None:
        """Wait until each model has a version AVAILABLE.

        Raises ServingError (UNKNOWN) as soon as every model is either AVAILABLE or has nothing but
        failed versions, with TFS's words (`noun` is "servable" at start). Waits for ever for a model that has no version at all.
        """
        wanted = list(names)
        while True:
            broken: list[Servable] = []
            pending = False
            for name in wanted:
                reached = self._reached(name)
                if reached is None:
                    pending = True
                elif reached.state is State.END:
                    broken.append(reached)
            if not pending:
                break
            await self._change()
        if broken:
            each = "".join(
                f"{{{s} due to error: {s.error.code.name}: {s.error.message}}}, "
                for s in broken
                if s.error
            )
            raise ServingError(2, f"{len(broken)} {noun}(s) did not become available: {{{each}}}")

    def _reached(self, name: str) -> Servable | None:
        """The newest wanted version that is AVAILABLE or has failed; None while there is none."""
        for version in sorted(self._aspired.get(name, ()), reverse=True):
            servable = self._servables[name][version]
            failed = servable.state is State.END and servable.error is not None
            if failed or servable.state is State.AVAILABLE:
                return servable
        return None

    async def close(self) -> None:
        """Stop loading, and close every session."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._latest.clear()
        for versions in self._available.values():
            for servable in versions.values():
                if servable.bundle is not None:
                    servable.bundle.close()
        self._available.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    # Moves.

    def _reconcile(self, name: str) -> None:
        aspired = self._aspired.get(name, {})
        versions = self._servables.setdefault(name, {})
        available = self._available.setdefault(name, {})
        for version in sorted(aspired, reverse=True):
            known = versions.get(version)
            ended = known is not None and known.state is State.END
            if known is None or (ended and version not in self._failed.get(name, ())):
                servable = versions[version] = Servable(name, version, aspired[version])
                self._start(self._bring_up(servable))
        if aspired and not any(version in available for version in aspired):
            return
        for version in [v for v in available if v not in aspired]:
            servable = available.pop(version)
            servable.state = State.UNLOADING
            self._start(self._take_down(servable))
        self._pick_latest(name)

    def _pick_latest(self, name: str) -> None:
        available = self._available[name]
        if available:
            self._latest[name] = available[max(available)]
        else:
            self._latest.pop(name, None)

    async def _bring_up(self, servable: Servable) -> None:
        name, version = servable.name, servable.version
        loop = asyncio.get_running_loop()
        gate = self._gate
        async with gate:
            attempts = self._policy.max_retries + 1
            for attempt in range(1, attempts + 1):
                if version not in self._aspired.get(name, {}):
                    servable.state = State.END
                    break
                servable.state = State.LOADING
                self._notify()
                log.info(f"Loading servable version {servable}", path=servable.path)
                try:
                    servable.bundle = await loop.run_in_executor(
                        self._executor, self._load, servable
                    )
                except Exception as error:
                    # Whatever a model does while it loads must not take the others with it.
                    if not isinstance(error, ServingError):
                        error = ServingError(2, f"{type(error).__name__}: {error}")
                    servable.error = error
                    log.error(
                        f"Loading servable: {servable} failed: {error.code.name}: {error.message}",
                        attempt=attempt,
                        of=attempts,
                    )
                    if attempt < attempts and self._policy.retry_seconds > 0:
                        await self._aspiration_ends(servable, self._policy.retry_seconds)
                    continue
                servable.error = None
                servable.state = State.AVAILABLE
                self._available[name][version] = servable
                log.info(f"Successfully loaded servable version {servable}")
                break
            else:
                servable.state = State.END
                self._failed.setdefault(name, set()).add(version)
        self._reconcile(name)
        self._notify()

    async def _aspiration_ends(self, servable: Servable, timeout: float) -> None:
        """Wait, but no longer than the version is wanted."""
        deadline = time.monotonic() + timeout
        while servable.version in self._aspired.get(servable.name, {}):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return
            try:
                await asyncio.wait_for(self._change(), remaining)
            except TimeoutError:
                return

    async def _take_down(self, servable: Servable) -> None:
        self._notify()
        log.info(f"Quiescing servable version {servable}", in_flight=servable.in_flight)
        # A request that waited its turn may use it again in the same moment.
        while servable.in_flight:
            servable.idle = asyncio.Event()
            await servable.idle.wait()
        bundle, servable.bundle = servable.bundle, None
        if bundle is not None:
            if bundle.batching is not None:
                # Here and not in the worker: its queues belong to the event loop.
                bundle.batching.close()
            await asyncio.get_running_loop().run_in_executor(self._executor, bundle.close)
        del bundle
        # A graph is a web of cycles; without this the old one stays until some later collection.
        gc.collect()
        memory.release_soon()
        servable.state = State.END
        log.info(f"Done unloading servable version {servable}")
        self._reconcile(servable.name)
        self._notify()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Change notification.

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
