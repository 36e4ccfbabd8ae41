"""Where a benchmark runs: which core is whose, what the machine is, processes that end with it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from tests.bench.wire import LoadError
from tests.support.ports import free_port
from tests.support.servers import ModelServer

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
# With a single core both share it, and the tables say so.
SERVER_CPU = CPUS[0] if CPUS else None
CLIENT_CPU = CPUS[-1] if CPUS else None

START_SECONDS = 120.0


def pin(cpus: Sequence[int | None]) -> None:
    """Keep this thread, and what it starts from now on, to these cores."""
    wanted = {cpu for cpu in cpus if cpu is not None}
    if wanted:
        os.sched_setaffinity(0, wanted)


@contextlib.contextmanager
def on(*cpus: int | None) -> Iterator[None]:
    """What is started inside runs on these cores; afterwards this thread is the client again."""
    pin(cpus)
    try:
        yield
    finally:
        pin([CLIENT_CPU])


@contextlib.contextmanager
def process(
    arguments: Sequence[str],
    log: Path,
    *,
    cpus: Sequence[int | None] = (SERVER_CPU,),
    environment: dict[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on the server's core that ends with the block; `log` gets its output."""
    with log.open("wb") as output, on(*cpus):
        started = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def model_server(
    folder: Path,
    base_path: Path,
    *flags: str,
    cpus: Sequence[int | None] = (SERVER_CPU,),
    **options: Any,
) -> Iterator[ModelServer]:
    """The embedded server on the server's core."""
    server = ModelServer(folder, base_path, *flags, **options)
    with on(*cpus):
        server.start()
    try:
        # The channel that waited for it has no business in a measurement.
        server.channel.close()
        yield server
    finally:
        server.stop()


def until_up(connect: Callable[[], T], process: subprocess.Popen[bytes], log: Path) -> T:
    """What `connect` returns once the process answers; LoadError with its log when it ends."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return connect()
        except (OSError, LoadError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise LoadError(f"{process.args!r} does not answer: {error}\n{tail}") from None
            time.sleep(0.1)


def python(*words: str) -> list[str]:
    """A command line of this interpreter."""
    return [sys.executable, *words]


def memory_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_model() -> str:
    """The processor as the kernel names it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe(command: str) -> dict[str, Any]:
    """What a reader has to know about the machine and the versions behind a figure."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ("tensorflow-cpu", "grpcio", "protobuf", "numpy", "uvicorn", "httptools", "uvloop")
    versions = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(ImportError):
            versions[name] = version(name)
    return {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "server_core": SERVER_CPU,
        "client_core": CLIENT_CPU,
        "memory_gb": round(memory),
        "kernel": platform.release().split("-")[0],
        "versions": versions,
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


__all__ = [
    "CLIENT_CPU",
    "CPUS",
    "ROOT",
    "SERVER_CPU",
    "cpu_model",
    "describe",
    "free_port",
    "memory_mb",
    "model_server",
    "on",
    "pin",
    "process",
    "python",
    "until_up",
]
