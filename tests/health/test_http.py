"""The two HTTP ports against good, odd and hostile requests."""

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.health.processes import Sidecar, get
from tests.support.ports import free_port
from tests.support.resources import usage
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """One that waits for a server that never comes."""
    with Sidecar(tmp_path_factory.mktemp("http"), f"127.0.0.1:{free_port()}") as sidecar:
        yield sidecar


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
        return received


def test_one_connection_serves_many_requests(sidecar: Sidecar) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.probe, timeout=5)
    for _ in range(3):
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
        assert (answer.status, answer.getheader("content-type")) == (503, "application/json")
        assert answer.getheader("cache-control") == "no-store"
        assert int(answer.getheader("content-length", "")) == len(body)
    connection.close()


def test_bodies_have_the_same_fields_on_every_path(sidecar: Sidecar) -> None:
    fields = {"status", "reason", "message", "model", "version", "since_seconds"}
    for path, status, word in (
        ("/startupz", 503, "not_started"),
        ("/livez", 200, "alive"),
        ("/readyz", 503, "not_ready"),
        ("/healthz", 200, "listening"),
        ("/readyz?verbose", 503, "not_ready"),
    ):
        page = sidecar.page(path)
        assert (page.status, set(page.body), page.body["status"]) == (status, fields, word)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", b"404"),
        (b"POST /drain HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"HEAD /drain HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /livez HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", b"200"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 20000, b"431"),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20000, b"431"),
    ],
)
def test_odd_requests_are_answered_and_nothing_is_drained(
    sidecar: Sidecar, request_: bytes, status: bytes
) -> None:
    assert raw(sidecar.probe, request_).split(b" ")[1] == status
    assert sidecar.page().body["reason"] == "loading"


def test_head_has_no_body(sidecar: Sidecar) -> None:
    answer = raw(sidecar.probe, b"HEAD /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503")
    assert answer.endswith(b"\r\n\r\n")


def test_metrics_are_on_their_own_port_in_both_formats(sidecar: Sidecar) -> None:
    status, text = get(sidecar.scrape, "/metrics")
    assert status == 200
    assert "# TYPE chopstick_health_ready gauge" in text
    assert "process_resident_memory_bytes" in text
    accept = "application/openmetrics-text; version=1.0.0"
    assert get(sidecar.scrape, "/metrics", accept=accept)[1].endswith("# EOF\n")
    assert get(sidecar.scrape, "/readyz")[0] == 404


def test_idle_connections_do_not_keep_the_kubelet_out_for_good(sidecar: Sidecar) -> None:
    before = usage(sidecar.process.pid).descriptors
    held = [socket.create_connection(("127.0.0.1", sidecar.probe)) for _ in range(200)]
    # 64 of them, and what is there anyway.
    wait_for(lambda: usage(sidecar.process.pid).descriptors < 120, "the rest to be closed")
    for connection in held:
        connection.close()
    wait_for(
        lambda: usage(sidecar.process.pid).descriptors < before + 64, "a connection to be free"
    )
    assert sidecar.page("/livez").status == 200


def test_every_address_listens_with_the_default_host(tmp_path: Path) -> None:
    sidecar = Sidecar(tmp_path, f"127.0.0.1:{free_port()}", "--host", "0.0.0.0")
    with sidecar:
        hosts = ["127.0.0.1"]
        if socket.has_dualstack_ipv6():
            hosts.append("::1")
        for host in hosts:
            for port in (sidecar.probe, sidecar.scrape, sidecar.grpc_port):
                socket.create_connection((host, port), timeout=5).close()
