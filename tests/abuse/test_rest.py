"""What a public REST port gets."""

import contextlib
import gzip
import json
import socket
import time

import pytest

from serving.server import http as limits
from tests.abuse.conftest import HEAD_SECONDS, with_limits
from tests.abuse.requests import GOOD_BODY, REST_PREDICT, Client, raw_http, zeros
from tests.support.resources import peak, reset_peak, usage
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for

HEAD = b"POST /v1/models/chopstick:predict HTTP/1.1\r\nHost: x\r\n"


def post(body: bytes, more: bytes = b"", path: bytes = REST_PREDICT.encode()) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (path, len(body), more)
    return head + body


def status(received: bytes) -> int:
    return int(received[9:12] or 0)


def error(received: bytes) -> str:
    return json.loads(received.partition(b"\r\n\r\n")[2].decode("utf-8", "replace"))["error"]


@pytest.fixture
def client(server: ModelServer):
    with Client(server) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"\xff\xfe", "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"instances": [["\xff"]]}', "Failed to process element: 0 of 'instances' list."),
        (b'{"instances": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "Failed to process element: 0"),
        (b"[" * 10_000, "JSON Parse error: Invalid value. at offset: 10000"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "Missing 'inputs' or 'instances' key"),
        (b'{"instances": [[1e400]]}', "JSON Parse error: Number too big to be stored in double."),
        (b'{"instances": [' + b"1" * 1_000_000 + b"]}", "JSON Parse error: Number too big"),
        (b'{"instances": ["' + b'\\"' * 500_000 + b'"]}', "Failed to process element: 0"),
        (b'{"instances": [[1' + b" " * 1_000_000, "JSON Parse error: Missing a comma or ']'"),
        (b"\0", "JSON Parse error: The document is empty."),
    ],
    ids=[
        "empty", "no UTF-8", "no UTF-8 in a string", "10,000 deep", "10,000 deep and cut",
        "10,000 objects deep", "1e400", "a million digits", "quotes", "blanks", "NUL",
    ],
)  # fmt: skip
def test_bodies_that_are_no_request(server, body, message):
    received = raw_http(server, post(body))
    assert status(received) == 400
    assert error(received).startswith(message)


def test_nan_and_infinities_are_answered_as_tfs_does(server):
    received = raw_http(server, post(b'{"instances": [[NaN], [Infinity], [-Infinity]]}'))
    assert status(received) == 200
    assert received.count(b"NaN") == 3


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1/models/..%2f..%2fetc%2fpasswd:predict", 404),
        (b"/v1/models/../../etc/passwd", 400),
        (b"/v1/models/../models/chopstick:predict", 400),
        (b"/v1/models/%00:predict", 404),
        (b"/v1/models/chopstick%00:predict", 404),
        (b"/v1/models/%ff%fe:predict", 404),
        (b"/v1/models/%:predict", 404),
        (b"/v1/models/%0d%0aSet-Cookie:%20x:predict", 400),
        (b"//v1/models/chopstick:predict", 404),
        (b"/v1//models/chopstick:predict", 400),
        (b"/v1/models//chopstick:predict", 400),
        (b"/v1/models/chopstick/:predict", 400),
        (b"/v1/models/chopstick%3Apredict", 400),
        (b"/v1/models/chopstick:predict/", 400),
        (b"/v1/models/chopstick:predict:predict", 400),
        (b"/v1/models/chopstick:PREDICT", 400),
        (b"/v1/models/chopstick/versions/-1:predict", 400),
        (b"/v1/models/chopstick/versions/99999999999999999999:predict", 400),
        (b"/v1/models/chopstick/versions/" + b"9" * 60_000 + b":predict", 400),
        (b"/v1/models/chopstick/labels/%00:predict", 400),
        (b"/v1/models/" + b"a" * 60_000 + b":predict", 404),
        (b"/v1/models/" + b"a" * 70_000 + b":predict", 431),
        (b"/v1/models/chopstick:predict?" + b"x" * 60_000, 400),
        (b"/v1/models/\xff:predict", 400),
        (b"/v1/models/a\x01b:predict", 400),
        (b"/v1/models/a b:predict", 400),
        (b"*", 404),
        (b"http://elsewhere/v1/models/chopstick:predict", 200),
        (b"/etc/passwd", 404),
        (b"/monitoring/prometheus/metrics/../../v1", 404),
    ],
    ids=lambda value: value[:40].decode("latin1") if isinstance(value, bytes) else str(value),
)
def test_path_tricks(server, path, expected):
    received = raw_http(server, post(GOOD_BODY, path=path))
    assert status(received) == expected
    assert b"Set-Cookie: " not in received.partition(b"\r\n\r\n")[0]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("GET", 400), ("PUT", 400), ("DELETE", 400), ("PATCH", 400), ("HEAD", 400), ("OPTIONS", 400),
        ("TRACE", 501), ("CONNECT", 501), ("PROPFIND", 501), ("NONSENSE", 400), ("post", 400),
    ],
)  # fmt: skip
def test_methods_that_are_wrong(server, method, expected):
    assert status(raw_http(server, method.encode() + post(GOOD_BODY)[4:], seconds=0.5)) == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        # Which of the two a proxy believes is how requests are smuggled.
        (b"Transfer-Encoding: chunked\r\n", 400),
        (b"Content-Length: 3\r\n", 400),
        (b"Content-Length: %d\r\n" % len(GOOD_BODY), 400),
        (b"Transfer-Encoding: xchunked\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", 400),
        (b"X: a\r\n folded: b\r\n", 400),
        (b"No colon\r\n", 400),
        (b"X: a\0b\r\n", 400),
        (b": no name\r\n", 400),
        (b"X: \xff\xfe\r\n", 200),
        (b"X: y\n", 400),
        (b"X: " + b"y" * 70_000 + b"\r\n", 431),
        (b"X: y\r\n" * 40_000, 431),
        (b"Content-Type: text/html\r\n", 200),
        (b"Content-Encoding: gzip\r\n", 400),
        (b"Content-Encoding: brotli\r\n", 200),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", 200),
        (b"Connection: upgrade\r\nUpgrade: websocket\r\n", 200),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Connection: close\r\n" * 100, 200),
        (b"Range: bytes=0-1\r\n", 200),
    ],
    ids=lambda value: value[:40].decode("latin1").strip() if isinstance(value, bytes) else "",
)
def test_headers_that_are_odd(server, more, expected):
    assert status(raw_http(server, post(GOOD_BODY, more))) == expected


@pytest.mark.parametrize("data", [b"-5", b"1e3", b"", b"0x10", b"9" * 30, b"+5"])
def test_content_lengths_that_are_none(server, data):
    assert status(raw_http(server, HEAD + b"Content-Length: " + data + b"\r\n\r\n")) in (400, 413)


@pytest.mark.parametrize(
    "chunk",
    [b"zz\r\n", b"-1\r\n\r\n", b"f" * 17 + b"\r\n", b"5\r\nabcdefgh\r\n", b"1;" + b"x" * 70_000],
)
def test_chunks_that_are_none(server, chunk):
    received = raw_http(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk, seconds=0.5)
    assert status(received) in (0, 400)


def test_a_smuggled_second_request_is_not_answered(server):
    second = b"GET /v1/models/chopstick HTTP/1.1\r\nHost: x\r\n\r\n"
    body = b"0\r\n\r\n" + second
    more = b"Transfer-Encoding: chunked\r\n"
    received = raw_http(server, post(body, more))
    assert received.count(b"HTTP/1.1") == 1
    assert status(received) == 400


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100,
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n" * 1000,
        b"GET\r\n\r\n",
    ],
    ids=["NUL", "TLS", "HTTP/2", "empty lines", "no path"],
)
def test_what_is_no_http(server, data):
    assert status(raw_http(server, data, seconds=0.5)) in (0, 400)


# Large.


def test_100_mb_that_are_no_json(server):
    before = usage(server.process.pid).rss
    reset_peak(server.process.pid)
    received = raw_http(server, post(b"\xff" * 100_000_000), seconds=60)
    assert status(received) == 400
    assert error(received).startswith("JSON Parse error: Invalid value.")
    assert peak(server.process.pid) < before + 700


def test_100_mb_of_brackets(server):
    received = raw_http(server, post(b"[" * 100_000_000), seconds=60)
    assert status(received) == 400
    assert error(received).startswith("JSON Parse error: ")


def test_100_mb_in_one_string(server):
    body = b'{"instances": ["' + b"a" * 100_000_000 + b'"]}'
    received = raw_http(server, post(body), seconds=60)
    assert status(received) == 400
    assert len(received) < 1 << 20


def test_100_mb_that_are_good(server):
    reset_peak(server.process.pid)
    before = usage(server.process.pid).rss
    body = b'{"instances": [[240.0]' + b" " * 100_000_000 + b"]}"
    received = raw_http(server, post(body), seconds=60)
    assert status(received) == 200
    assert peak(server.process.pid) < before + 700


def test_more_than_the_limit_is_refused_before_it_is_read(server):
    declared = HEAD + b"Content-Length: %d\r\n\r\n" % (limits.BODY_BYTES + 1)
    received = raw_http(server, declared + b"{")
    assert status(received) == 413
    assert str(limits.BODY_BYTES).encode() in received


@pytest.mark.parametrize("mebibytes", [1024])
def test_a_gzip_bomb_is_defused(server, client, mebibytes):
    bomb = zeros(mebibytes)
    before = usage(server.process.pid).rss
    reset_peak(server.process.pid)
    assert client.rest("POST", REST_PREDICT, bomb, {"Content-Encoding": "gzip"}) == 400
    assert peak(server.process.pid) < before + 300


def test_gzip_that_is_good(client):
    packed = gzip.compress(GOOD_BODY)
    assert client.rest("POST", REST_PREDICT, packed, {"Content-Encoding": "gzip"}) == 200


# Clients that are slow, silent or gone.


def connect(server: ModelServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.rest_port), timeout=20)


@pytest.mark.parametrize("sent", [b"", HEAD[:20], HEAD, post(GOOD_BODY)[:-5], post(GOOD_BODY)])
def test_a_client_that_hangs_up(server, sent):
    for _ in range(50):
        with connect(server) as gone:
            gone.sendall(sent)


def test_half_open_gets_its_answer(server):
    with connect(server) as half:
        half.sendall(post(GOOD_BODY))
        half.shutdown(socket.SHUT_WR)
        received = b""
        while part := half.recv(1 << 16):
            received += part
    assert status(received) == 200
    with connect(server) as half:
        half.sendall(post(GOOD_BODY)[:-5])
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1) == b""


def test_slow_loris_and_a_thousand_idle_connections(server):
    """300 clients that send a byte a second and 700 that send nothing keep nobody waiting."""
    idle = [connect(server) for _ in range(700)]
    slow = [connect(server) for _ in range(300)]
    try:
        for number, loris in enumerate(slow):
            loris.sendall(HEAD if number % 2 else HEAD + b"Content-Length: 99\r\n\r\n")
        wait_for(lambda: usage(server.process.pid).descriptors > 1000, "the server to have them")
        with Client(server) as client:
            times = []
            for _ in range(20):
                began = time.perf_counter()
                assert client.rest("POST", REST_PREDICT, GOOD_BODY) == 200
                times.append(time.perf_counter() - began)
                slow[0].sendall(b"X")
        assert sorted(times)[10] < 0.1
        # Half a head is cut off in time, however many bytes still trickle in.
        began = time.monotonic()
        with connect(server) as loris:
            loris.sendall(HEAD)
            with contextlib.suppress(ConnectionError):
                while time.monotonic() - began < 10 * HEAD_SECONDS:
                    loris.sendall(b"x")
                    time.sleep(0.2)
        assert HEAD_SECONDS - 0.5 < time.monotonic() - began < HEAD_SECONDS + 4
    finally:
        for connection in (*idle, *slow):
            connection.close()


def test_a_client_that_reads_nothing_is_only_its_own_trouble(server):
    rows = b'{"instances": [' + b",".join([b"[240.0]"] * 100_000) + b"]}"
    deaf = [connect(server) for _ in range(3)]
    try:
        for connection in deaf:
            connection.sendall(post(rows))
        assert status(raw_http(server, post(GOOD_BODY))) == 200
    finally:
        for connection in deaf:
            connection.close()


def test_a_client_that_reads_nothing_for_too_long_is_left(chopstick_models, tmp_path):
    rows = b'{"instances": [' + b",".join([b"[240.0]"] * 200_000) + b"]}"
    with with_limits(ModelServer(tmp_path, chopstick_models), IDLE_SECONDS=2) as server:
        before = usage(server.process.pid).descriptors
        with socket.socket() as deaf:
            # Some megabytes of reply fit into no buffer between the two.
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.rest_port))
            deaf.sendall(post(rows))
            wait_for(lambda: usage(server.process.pid).descriptors > before, "the connection", 5)
            wait_for(lambda: usage(server.process.pid).descriptors <= before, "it to be closed", 30)
        assert status(raw_http(server, post(GOOD_BODY))) == 200


def test_pipelined_requests_are_read_no_faster_than_answered(server):
    """30 MB of requests without reading an answer: the server stops reading."""
    before = usage(server.process.pid).rss
    reset_peak(server.process.pid)
    one = post(GOOD_BODY)
    with connect(server) as connection:
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            connection.sendall(one * (30_000_000 // len(one)))
    assert peak(server.process.pid) < before + 100


def test_absurd_names_make_no_endless_series(server, client):
    for number in range(200):
        assert client.rest("GET", f"/v1/models/name-{number}-" + "n" * 2000) == 404
    received = raw_http(server, b"GET /monitoring/prometheus/metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    longest = max(len(line) for line in received.split(b"\n"))
    assert longest < 1500
