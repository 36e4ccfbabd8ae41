"""The five steps in order, everything they need, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.desk import ports, servables
from serving.desk.demo import balance, crash, evaluation, predictions, rollout
from serving.desk.demo.report import Report, Result, cannot_write
from serving.desk.demo.traffic import Size
from serving.desk.replica import Servable
from serving.desk.rundir import RunDirectory
from serving.desk.supervisor import Desk, Event
from serving.errors import ChopstickError
from serving.gateway.bootstrap import Gateway, Replica

MODEL = "chopstick"
# Another seed than the first version's, so that the two versions answer differently.
_SEED = 2018


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    replicas: int
    balance_requests: int
    rollout: Size
    crash: Size


# The rates are about a fifth of what replicas, gateway and load generator manage together on two
# cores: a version that loads and a replica that restarts have to fit in beside.
FULL = Sizes(3, 3000, Size(5000, 500.0), Size(3000, 300.0))
# For the tests: the same steps in a third of the time, most of it TensorFlow's import.
QUICK = Sizes(2, 600, Size(1000, 250.0), Size(1000, 250.0))


@dataclass(frozen=True)
class Options:
    """The command's options."""

    model_dir: Path
    train_if_missing: bool
    sizes: Sizes
    json_file: Path | None


def run(options: Options) -> None:
    """Run the demo; ChopstickError unless every step held."""
    report = Report()
    if options.json_file is not None:
        _require_writable(options.json_file)
    if options.train_if_missing and not servables.versions(options.model_dir):
        report.progress(f"no model in {options.model_dir}: training one")
        servables.train(options.model_dir, quiet=True)
    servables.require_versions(options.model_dir)
    with RunDirectory("chopstick-demo-") as directory:
        try:
            first = asyncio.run(_run(options, report, directory))
        except asyncio.CancelledError:
            shutil.rmtree(directory.path, ignore_errors=True)
            raise ChopstickError("stopped by a signal", exit_code=130) from None
        report.summary()
        if options.json_file is not None:
            report.write(options.json_file, first_prediction_seconds=first)
        failed = [r.title for _, r in sorted(report.results.items()) if not r.held]
        if failed:
            raise ChopstickError(
                f"{len(failed)} of {len(report.results)} did not hold: " + "; ".join(failed),
                f"logs and configuration are kept in {directory.path}",
            )
    report.progress(f"all {len(report.results)} held; no process and no file is left")


async def _run(options: Options, report: Report, directory: RunDirectory) -> float | None:
    return await _Demo(options, report, directory).run()


def _require_writable(file: Path) -> None:
    # Before a minute of work, not after it.
    existed = file.exists()
    try:
        with file.open("a"):
            pass
    except OSError as error:
        raise cannot_write(file, error) from None
    if not existed:
        file.unlink()


class _Demo:
    def __init__(self, options: Options, report: Report, directory: RunDirectory) -> None:
        self._sizes = options.sizes
        self._report = report
        self._directory = directory
        newest = servables.versions(options.model_dir)[0]
        # A copy: versions come and go in it, and the user's models are not ours to touch.
        self._base = directory.path / "models" / MODEL
        source = next(
            child
            for child in options.model_dir.iterdir()
            if child.name.isdecimal() and int(child.name) == newest
        )
        shutil.copytree(source, self._base / str(newest))
        self._workshop = evaluation.Workshop(
            directory.path / "staging", newest + 1, _SEED, directory.path / "workshop.log"
        )
        grpc, rest, l4, *own = ports.free_ports(3 + 2 * self._sizes.replicas)
        gateway = Gateway(grpc, rest, l4_port=l4, access_log=False)
        self._grpc, self._rest, self._l4 = (f"127.0.0.1:{port}" for port in (grpc, rest, l4))
        self._desk = Desk(
            Servable(MODEL, self._base),
            [Replica(g, r) for g, r in zip(own[::2], own[1::2], strict=True)],
            gateway,
            directory.path,
            on_event=self._on_event,
        )

    def _on_event(self, event: Event) -> None:
        self._report.progress(event.text)

    async def run(self) -> float | None:
        """Return when the first prediction was shown, in seconds from the start."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        report = self._report
        report.progress(
            f"starting {self._sizes.replicas} replicas and the gateway; "
            f"logs in {self._directory.path}"
        )
        await self._workshop.start()
        evaluated = asyncio.create_task(self._evaluate())
        first: list[float] = []
        try:
            async with self._desk:
                await self._step(2, predictions.TITLE, lambda: self._predict(first))
                # The measurements want the machine for themselves.
                new = await evaluated
                await self._step(3, balance.TITLE, self._balance)
                await self._step(4, rollout.TITLE, lambda: self._roll(new))
                await self._step(5, crash.TITLE, self._crash)
                report.progress("draining")
        finally:
            evaluated.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await evaluated
            await self._workshop.stop()
        return first[0] if first else None

    async def _step(self, number: int, title: str, do: Callable[[], Awaitable[Any]]) -> None:
        """Do one step; an error is its verdict, and the next step still runs."""
        try:
            await do()
        except (ChopstickError, OSError) as error:
            self._fail(number, title, str(error))
        except Exception as error:
            # Whatever breaks a step is evidence about that step, not an end to the others.
            self._fail(number, title, f"{type(error).__name__}: {error}")

    def _fail(self, number: int, title: str, evidence: str) -> None:
        self._report.result(Result(number, title, False, evidence.replace("\n  ", "; ")))

    async def _evaluate(self) -> Path | None:
        found: list[Path] = []

        async def do() -> None:
            found.append(await evaluation.run(self._workshop, self._report))

        await self._step(1, evaluation.TITLE, do)
        return found[0] if found else None

    async def _predict(self, first: list[float]) -> None:
        _, shown = await predictions.step(self._grpc, self._rest, MODEL, self._report)
        first.append(round(shown, 3))

    async def _balance(self) -> None:
        await balance.step(
            self._desk, self._l4, self._grpc, self._sizes.balance_requests, self._report
        )

    async def _roll(self, new: Path | None) -> None:
        if new is None:
            raise ChopstickError("there is no new version: see step 1")
        await rollout.step(self._desk, self._grpc, new, self._sizes.rollout, self._report)

    async def _crash(self) -> None:
        await crash.step(self._desk, self._grpc, self._sizes.crash, self._report)
