"""`chopstick health`: the same program, and one question with one answer."""

import signal
import subprocess
import sys

import grpc

from tests.health.processes import Scripted, get
from tests.support.ports import free_port
from tests.support.waiting import wait_for

CHOPSTICK = [sys.executable, "-m", "serving.cli", "health"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHOPSTICK, *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def test_once_prints_the_reason_and_exits_by_it() -> None:
    with Scripted([grpc.StatusCode.OK]) as server:
        ended = run(server.address, "--once")
        assert (ended.returncode, ended.stdout) == (0, "ready\t1\t\n")
        ended = run(server.address, "--once", "--version", "7")
        assert (ended.returncode, ended.stdout.split("\t")[0]) == (1, "wrong_version")
    ended = run(f"127.0.0.1:{free_port()}", "--once")
    assert (ended.returncode, ended.stdout.split("\t")[0]) == (1, "loading")
    assert "Start one with `chopstick serve`" in ended.stderr
    ended = run("localhost", "--once")
    assert ended.returncode == 2
    assert "'localhost' is not HOST:PORT" in ended.stderr


def test_it_runs_on_loopback_until_ctrl_c() -> None:
    probe, scrape, health = (str(free_port()) for _ in range(3))
    with Scripted([grpc.StatusCode.OK]) as server:
        ports = ("--probe-port", probe, "--metrics-port", scrape, "--grpc-port", health)
        process = subprocess.Popen([*CHOPSTICK, server.address, *ports], stdout=subprocess.DEVNULL)

        def ready() -> bool:
            try:
                return get(int(probe), "/readyz")[0] == 200
            except OSError:
                return False

        wait_for(ready, "the sidecar to be ready")
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
