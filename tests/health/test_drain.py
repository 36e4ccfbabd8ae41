"""The hook that ends a pod's readiness: who may, what it costs, what it says when it can't."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.health.http import _is_loopback
from tests.health.processes import Sidecar
from tests.support.ports import free_port
from tests.unit.client.sockets import listener

SECONDS, MIB = 0.3, 15

IMPORTS = """
import sys
import serving.health.__main__, serving.health.drain
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    """One on all addresses, as in a pod, that waits for a server that never comes."""
    with Sidecar(tmp_path, f"127.0.0.1:{free_port()}", "--host", "0.0.0.0") as sidecar:
        yield sidecar


def hook(port: int | str | None, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "HEALTH_PROBE_PORT"}
    if port is not None:
        environment["HEALTH_PROBE_PORT"] = str(port)
    return subprocess.run(
        [sys.executable, "-m", "serving.health", "drain", *words],
        env=environment, capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip


def own_address() -> str:
    """An address of this machine that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no address but loopback")
        return str(probe.getsockname()[0])


def test_the_hook_drains(sidecar: Sidecar) -> None:
    assert sidecar.page().body["reason"] == "loading"
    done = hook(sidecar.probe)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sidecar.page().status == 410


def test_nobody_from_outside_drains(sidecar: Sidecar) -> None:
    address = own_address()
    with socket.create_connection((address, sidecar.probe), timeout=5) as connection:
        connection.sendall(b"GET /drain HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(4096).split(b" ")[1] == b"403"
        # The probes are the kubelet's, which comes from outside.
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(4096).split(b" ")[1] == b"200"
    assert sidecar.page().body["reason"] == "loading"


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (("127.0.0.1", 5), True),
        (("127.8.0.1", 5), True),
        (("::ffff:127.0.0.1", 5, 0, 0), True),
        (("::1", 5, 0, 0), True),
        (("10.0.0.127", 5), False),
        (("::ffff:10.127.0.0", 5, 0, 0), False),
        (("fe80::1", 5, 0, 0), False),
        (("::127.0.0.1", 5, 0, 0), False),
        (None, False),
    ],
)
def test_who_is_this_pod_itself(peer: tuple[str, ...] | None, local: bool) -> None:
    assert _is_loopback(peer) is local


def test_what_the_hook_says_when_it_cannot() -> None:
    port = free_port()
    done = hook(port)
    assert done.returncode == 1
    assert f"http://127.0.0.1:{port}/drain: Connection refused" in done.stderr
    assert "HEALTH_PROBE_PORT" in done.stderr
    for text in ("0", "65536", "probe", "-1", "٣"):
        done = hook(text)
        assert (done.returncode, f"'{text}' is not a port" in done.stderr) == (2, True)
    done = hook(port, "--probe-port", "1")
    assert (done.returncode, "drain takes no '--probe-port'" in done.stderr) == (2, True)


def test_without_a_variable_it_is_the_port_of_the_manifests() -> None:
    for port in (None, ""):
        assert "http://127.0.0.1:8502/drain" in hook(port).stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "/drain: HTTP/1.1 403 Forbidden"),
        (b"SSH-2.0-OpenSSH\r\n", "/drain: SSH-2.0-OpenSSH"),
        (b"", "/drain: no answer"),
    ],
)
def test_another_program_at_the_port(answer: bytes, said: str) -> None:
    def tell(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)
        connection.close()

    with listener(tell) as address:
        done = hook(address.rpartition(":")[2])
    assert done.returncode == 1
    assert said in done.stderr


def test_a_silent_port_does_not_use_up_the_grace_period() -> None:
    with listener(lambda connection: connection.recv(4096)) as address:
        began = time.monotonic()
        done = hook(address.rpartition(":")[2])
    assert (done.returncode, "timed out" in done.stderr) == (1, True)
    assert time.monotonic() - began < 5


def test_its_cost(sidecar: Sidecar) -> None:
    """It runs in the sidecar's container, within the sidecar's limits."""
    fastest = SECONDS
    for _ in range(5):
        began = time.monotonic()
        assert hook(sidecar.probe).returncode == 0
        fastest = min(fastest, time.monotonic() - began)
    assert fastest < SECONDS
    # The largest child so far is the sidecar itself, unless a process of its own waits for it.
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True,
        env={**os.environ, "HEALTH_PROBE_PORT": str(sidecar.probe)},
    )  # fmt: skip
    assert float(measured.stdout) < MIB


MEASURE = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "serving.health", "drain"], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""


def test_it_imports_none_of_what_the_sidecar_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "serving" in loaded
    assert not loaded & {"grpc", "google", "asyncio", "argparse", "http", "ssl", "json", "model"}
