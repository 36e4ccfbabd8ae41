"""Long runs: `python -m tests.abuse.soak [--requests N] [--switches N]`, which is `make soak`."""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.protobuf import text_format

from serving.protocol import messages
from serving.protocol.services import PredictionServiceStub
from tests.abuse.conftest import warm
from tests.abuse.requests import Client, good_request, mixed
from tests.support.resources import Usage, open_files, usage
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for

CALLERS = 8
FIRST = 5_000
AVAILABLE, END = 30, 50


@dataclass
class Report:
    """What a run left: usage after its first part and at its end, and what went wrong."""

    first: Usage
    last: Usage
    wrong: Counter[str] = field(default_factory=Counter)

    @property
    def growth(self) -> float:
        """Memory at the end against memory after the first part: 1.0 is the same."""
        return self.last.rss / self.first.rss

    def __str__(self) -> str:
        return f"after the first part {self.first}, at the end {self.last} ({self.growth - 1:+.1%})"


def settled(
    server: ModelServer, threads: int | None = None, descriptors: int | None = None
) -> Usage:
    """Usage once it stands still, and, where given, once threads and descriptors are back."""
    pid = server.process.pid
    deadline = time.monotonic() + 10
    known = usage(pid)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = usage(pid)
        still = abs(now.rss - known.rss) < 0.5 and now.descriptors == known.descriptors
        back = (threads is None or now.threads <= threads) and (
            descriptors is None or now.descriptors <= descriptors
        )
        if still and back:
            return now
        known = now
    return known


def endurance(
    server: ModelServer, first: int, total: int, say: Callable[[str], None] = lambda _: None
) -> Report:
    """`total` mixed requests by eight callers, looked at after the first `first`."""
    wrong: Counter[str] = Counter()
    seed = 0

    def part(count: int) -> None:
        nonlocal seed
        clients = [Client(server) for _ in range(CALLERS)]
        with ThreadPoolExecutor(CALLERS) as pool:
            jobs = []
            for client in clients:
                seed += 1
                jobs.append(pool.submit(mixed, client, count // CALLERS, seed))
            for job in jobs:
                wrong.update(job.result())
        for client in clients:
            client.close()

    part(first)
    after_first = settled(server)
    say(f"{first} requests: {after_first}")
    done = first
    while done < total:
        step = min(5_000, total - done)
        part(step)
        done += step
        say(f"{done} requests: {usage(server.process.pid)}")
    last = settled(server, after_first.threads, after_first.descriptors)
    return Report(after_first, last, wrong)


class Switcher:
    """Versions of a model that come and go under load."""

    def __init__(self, source: Path, base: Path) -> None:
        self.source = source
        self.base = base
        self.newest = 0

    def add(self) -> int:
        """Put the next version there, copied beside and renamed into place."""
        self.newest += 1
        beside = self.base / f".tmp-{self.newest}"
        shutil.copytree(self.source, beside)
        beside.rename(self.base / str(self.newest))
        return self.newest

    def states(self, server: ModelServer) -> dict[int, int]:
        request = messages.GetModelStatusRequest()
        request.model_spec.name = server.model
        answer = server.models.GetModelStatus(request, timeout=30)
        return {v.version: v.state for v in answer.model_version_status}

    def switch(self, server: ModelServer) -> None:
        """One version on: the new one answers, the old one is gone, and its files are deleted."""
        old, new = self.newest, self.add()
        request = messages.ReloadConfigRequest()
        text_format.Parse(
            f'model_config_list {{ config {{ name: "{server.model}" base_path: "{self.base}" '
            'model_platform: "tensorflow" } }',
            request.config,
            descriptor_pool=messages.POOL,
        )
        # A reload looks at the files at once, a second before the next poll does.
        server.models.HandleReloadConfigRequest(request, timeout=30)

        def done() -> bool:
            states = self.states(server)
            return states.get(new) == AVAILABLE and states.get(old) == END

        wait_for(done, f"version {new} to replace {old}")
        shutil.rmtree(self.base / str(old))


def switches(
    server: ModelServer,
    switcher: Switcher,
    first: int,
    total: int,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Report, int, list[str]]:
    """`total` switches under load: a report, the requests answered, files of old versions open."""
    wrong: Counter[str] = Counter()
    answered: Counter[int] = Counter()
    stop = threading.Event()

    def load() -> None:
        with grpc.insecure_channel(server.grpc) as channel:
            stub = PredictionServiceStub(channel)
            request = good_request()
            request.model_spec.name = server.model
            while not stop.is_set():
                try:
                    response = stub.Predict(request, timeout=30)
                    answered[response.model_spec.version.value] += 1
                except grpc.RpcError as error:
                    wrong[f"{error.code()} {error.details()}"] += 1

    callers = [threading.Thread(target=load) for _ in range(2)]
    for caller in callers:
        caller.start()
    after_first: Usage | None = None
    try:
        for number in range(1, total + 1):
            switcher.switch(server)
            if number == first:
                after_first = usage(server.process.pid)
            if number % 20 == 0:
                say(f"{number} switches: {usage(server.process.pid)}")
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert after_first is not None
    last = settled(server)
    newest = f"{switcher.base}/{switcher.newest}/"
    left = [
        name
        for name in open_files(server.process.pid, str(switcher.base))
        if not name.startswith(newest)
    ]
    return Report(after_first, last, wrong), answered.total(), left


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.abuse.soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--switches", type=int, default=200)
    arguments = parser.parse_args()
    failed = False

    def say(text: str) -> None:
        print(f"  {text}", flush=True)

    def verdict(good: bool, text: str) -> None:
        nonlocal failed
        failed = failed or not good
        print(f"{'ok  ' if good else 'FAIL'} {text}", flush=True)

    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        trained = folder / "trained"
        command = [sys.executable, "-m", "serving.cli", "train", "--out", str(trained)]
        subprocess.run([*command, "--version", "1"], check=True, capture_output=True)
        if arguments.requests:
            print(f"{arguments.requests} mixed requests, {CALLERS} callers", flush=True)
            began = time.monotonic()
            with ModelServer(folder / "a", trained) as server:
                warm(server)
                report = endurance(
                    server, min(FIRST, arguments.requests // 2), arguments.requests, say
                )
            seconds = time.monotonic() - began
            verdict(
                not report.wrong,
                f"{report.wrong.total()} of them answered otherwise than they should",
            )
            for text, count in report.wrong.most_common(10):
                say(f"{count} {text}")
            verdict(report.growth < 1.10, str(report))
            verdict(report.last.threads <= report.first.threads, "threads are back")
            verdict(report.last.descriptors <= report.first.descriptors, "descriptors are back")
            print(f"{seconds:.0f} s", flush=True)
        if arguments.switches:
            print(f"{arguments.switches} version switches under load", flush=True)
            began = time.monotonic()
            base = folder / "switched"
            base.mkdir()
            switcher = Switcher(trained / "1", base)
            switcher.add()
            with ModelServer(folder / "b", base) as server:
                report, answered, left = switches(
                    server, switcher, max(arguments.switches // 10, 1), arguments.switches, say
                )
            seconds = time.monotonic() - began
            verdict(not report.wrong, f"{report.wrong.total()} of {answered} requests failed")
            for text, count in report.wrong.most_common(10):
                say(f"{count} {text}")
            each = (report.last.rss - report.first.rss) / (arguments.switches * 0.9)
            verdict(each < PER_SWITCH, f"{report}: {each:.2f} MiB a switch")
            verdict(not left, f"{len(left)} files of unloaded versions are open or mapped")
            verdict(report.last.descriptors <= report.first.descriptors, "descriptors are back")
            print(f"{seconds:.0f} s", flush=True)
    return failed


PER_SWITCH = 0.5
"""MiB that a switch may leave behind."""

if __name__ == "__main__":
    sys.exit(main())
