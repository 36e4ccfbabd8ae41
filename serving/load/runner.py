"""Runs a load: wakes when a request is due, sends it, never waits for the answer before."""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

from serving.errors import ChopstickError
from serving.load.config import LoadConfig
from serving.load.recorder import Recorder
from serving.load.result import LatencySummary, LoadResult
from serving.load.senders import GrpcSender, RestSender, open_sender
from serving.load.timer import Timer

# Opening connections is set-up, not load; one that takes longer belongs to the result.
CONNECT_SECONDS = 1.0


class Load:
    """One load that runs once. `mark` and `stop` may be called from any thread."""

    def __init__(self, config: LoadConfig) -> None:
        self.config = config
        self._recorder = Recorder(config)
        self._started = 0.0  # time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._stop_early = threading.Event()
        self._under_way = threading.Event()

    @property
    def elapsed(self) -> float:
        """Seconds from the start; 0 before it."""
        return time.monotonic() - self._started if self._started else 0.0

    @property
    def so_far(self) -> LoadResult:
        """The counts as they stand; complete only when `run` has returned."""
        return self._recorder.result

    @property
    def in_flight(self) -> int:
        """Requests sent and not yet answered."""
        return len(self._tasks)

    def latency_so_far(self) -> LatencySummary | None:
        """Latency of the answers so far; None without one."""
        return self._recorder.summary()

    def mark(self, name: str) -> float:
        """Give this moment a name in the result's `marks`; returns it, in s from the start."""
        now = self.elapsed
        self._recorder.result.marks[name] = now
        return now

    def stop(self) -> None:
        """End the load: nothing more is sent, answers under way are awaited."""
        self._stop_early.set()
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)

    def wait_started(self, timeout: float) -> bool:
        """Block until the first request is due; False if that takes longer than `timeout` s."""
        return self._under_way.wait(timeout)

    async def run(self, stop: asyncio.Event | None = None) -> LoadResult:
        """Send the load and return its result; `stop` ends it as `stop()` does."""
        if self._loop is not None:
            raise ChopstickError("this load has run", "Make a new Load for a second run.")
        self._loop = asyncio.get_running_loop()
        self._stop = stop or asyncio.Event()
        sender = open_sender(self.config)
        timer = Timer()
        result = self._recorder.result
        try:
            await sender.connect(min(CONNECT_SECONDS, self.config.timeout))
            self._started = time.monotonic()
            result.started_at = time.time()
            self._under_way.set()
            schedule = asyncio.create_task(self._send_all(sender, timer))
            stopped = asyncio.create_task(self._stop.wait())
            if self._stop_early.is_set():
                self._stop.set()
            try:
                await asyncio.wait({schedule, stopped}, return_when=asyncio.FIRST_COMPLETED)
                result.stopped = not schedule.done()
            finally:
                stopped.cancel()
                schedule.cancel()
                await asyncio.gather(schedule, stopped, return_exceptions=True)
            if schedule.done() and not schedule.cancelled():
                schedule.result()  # a fault of our own must not look like a quiet load
            planned = self.config.planned_seconds
            result.sending = self.elapsed if result.stopped else max(planned, 1 / self.config.rate)
            await self._drain()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            timer.close()
            await sender.close()
            result.elapsed = self.elapsed
            result.latency = self._recorder.summary()
        return result

    async def _send_all(self, sender: GrpcSender | RestSender, timer: Timer) -> None:
        started = self._started
        most = self.config.max_in_flight
        monotonic = time.monotonic
        turns = 0
        for number, due in enumerate(self.config.schedule()):
            if monotonic() - started < due:
                turns = 0
                await timer.until(started + due)
            else:
                turns += 1
                # Behind schedule: let answers in now and then, or their latency is our fault.
                if turns % 16 == 0:
                    await asyncio.sleep(0)
            if len(self._tasks) >= most:
                self._recorder.overrun()
                continue
            task = asyncio.create_task(self._one(sender, number, due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        # The end of the last gap: a load of 10 s lasts 10 s.
        await timer.until(started + self.config.planned_seconds)

    async def _one(self, sender: GrpcSender | RestSender, number: int, due: float) -> None:
        recorder = self._recorder
        started = self._started
        recorder.sent(due, time.monotonic() - started)
        try:
            peer, version, code, message = await sender.send(number)
        except Exception as error:
            # A sender does not raise; if it does, the request must still be counted.
            peer, version, code, message = "", None, "INTERNAL", f"load generator: {error!r}"
        now = time.monotonic() - started
        if code is None:
            recorder.answered(due, now, peer, version)
        else:
            recorder.failed(due, now, code, message, peer)

    async def _drain(self) -> None:
        """Wait for the answers under way; each ends by its own deadline."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(set(self._tasks), timeout=self.config.timeout + 5)
        now = self.elapsed
        for task in pending:
            task.cancel()
            self._recorder.failed(now, now, "CANCELLED", "no answer past its deadline", "")


async def run_load(config: LoadConfig, stop: asyncio.Event | None = None) -> LoadResult:
    """Run one load to its end, or until `stop` is set."""
    return await Load(config).run(stop)


class InThread:
    """A load beside code that has no event loop; ends with the `with` block.

        with InThread(config) as load:
            load.mark("kill")
            process.kill()
        load.result.around("kill", after=2)

    Leaving the block waits for the load's own end; `load.stop()` ends it before.
    """

    def __init__(self, config: LoadConfig) -> None:
        self._load = Load(config)
        self._result: LoadResult | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="chopstick-load", daemon=True)

    def _run(self) -> None:
        try:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                self._result = runner.run(self._load.run())
        except BaseException as error:  # raised again where the caller waits
            self._error = error

    def mark(self, name: str) -> float:
        """As `Load.mark`."""
        return self._load.mark(name)

    def stop(self) -> None:
        """As `Load.stop`."""
        self._load.stop()

    @property
    def so_far(self) -> LoadResult:
        """As `Load.so_far`."""
        return self._load.so_far

    @property
    def result(self) -> LoadResult:
        """The result, once the block is left."""
        if self._result is None:
            raise ChopstickError("the load has not ended", "Leave the with block first.")
        return self._result

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._load.wait_started(0.05) and self._thread.is_alive():
            pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._load.stop()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error
