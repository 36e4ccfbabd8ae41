"""What a public gRPC port gets."""

import contextlib
import struct
import threading
import time
import zlib
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.protocol import messages, tensors
from serving.server import inflate
from tests.abuse.requests import PREDICT, Client, good_request, raw_http, shaped, zeros
from tests.support import http2
from tests.support.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame
from tests.support.resources import peak, reset_peak, usage
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for

GOOD = good_request().SerializeToString()
PARSING = ("INVALID_ARGUMENT", "tensor parsing error: chopstick_length")
BFLOAT16 = messages.DT_BFLOAT16


@pytest.fixture
def client(server: ModelServer):
    with Client(server) as client:
        yield client


@pytest.mark.parametrize(
    "request_bytes",
    [
        shaped(1 << 30),
        shaped(1 << 30, 1),
        shaped(1 << 28, 1),
        shaped(1 << 30, values=0),
        shaped(1 << 33, dtype=BFLOAT16),
        shaped(1 << 28, dtype=BFLOAT16),
        shaped(1 << 40, 1 << 40),
        shaped(-1, 1),
        shaped(-(1 << 63)),
        shaped(0, 1 << 62, 1 << 62),
        shaped(*[1] * 300),
        shaped(1, 1, dtype=999),
        shaped(1, 1, dtype=messages.DT_RESOURCE),
        shaped(1, 1, dtype=messages.DT_VARIANT),
    ],
    ids=[
        "2^30", "2^30 by 1", "2^28 by 1", "2^30 without a value", "2^33 bfloat16", "2^28 bfloat16",
        "product over int64", "negative", "most negative", "zero times huge", "rank 300",
        "dtype 999", "resource", "variant",
    ],
)  # fmt: skip
def test_a_shape_that_its_values_do_not_fill(server, client, request_bytes):
    before = usage(server.process.pid).rss
    reset_peak(server.process.pid)
    assert client.answer(request_bytes) == PARSING
    assert peak(server.process.pid) < before + 32


def test_a_long_string_that_would_be_repeated_for_ever(server, client):
    request = messages.PredictRequest()
    request.model_spec.name = "chopstick"
    tensor = request.inputs["chopstick_length"]
    tensor.dtype = messages.DT_STRING
    tensor.tensor_shape.dim.add().size = 1 << 20
    tensor.string_val.append(b"x" * (1 << 20))
    reset_peak(server.process.pid)
    before = usage(server.process.pid).rss
    assert client.answer(request.SerializeToString()) == PARSING
    assert peak(server.process.pid) < before + 64


def test_five_million_dimensions(client):
    shape = b"\x12\x00" * 5_000_000
    tensor = b"\x08\x01\x12" + _varint(len(shape)) + shape
    entry = b"\x0a\x10chopstick_length\x12" + _varint(len(tensor)) + tensor
    request = b"\x0a\x0b\x0a\x09chopstick\x12" + _varint(len(entry)) + entry
    assert client.answer(request) == PARSING


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1e-45])
def test_numbers_that_are_odd_are_answered(client, value):
    request = good_request()
    request.inputs["chopstick_length"].float_val[0] = value
    assert client.call(request.SerializeToString()) == "OK"


@pytest.mark.timeout(110)
def test_100_mb_do_not_keep_others_waiting(server, client):
    rows = np.ones((25_000_000, 1), np.float32)
    request = good_request()
    request.inputs["chopstick_length"].Clear()
    # A vector: refused after all 100 MB were taken apart and fed.
    tensors.fill_proto(request.inputs["chopstick_length"], rows[:, 0], as_content=True)
    waits, stop = [], threading.Event()

    def others() -> None:
        with Client(server) as other:
            while not stop.is_set():
                began = time.perf_counter()
                assert other.call(GOOD) == "OK"
                waits.append(time.perf_counter() - began)

    waiting = threading.Thread(target=others)
    waiting.start()
    try:
        code, details = client.answer(request.SerializeToString(), timeout=90)
        assert client.answer(b"\xff" * 100_000_000, timeout=90)[0] == "INTERNAL"
    finally:
        stop.set()
        waiting.join()
    assert code == "INVALID_ARGUMENT", details
    assert len(waits) > 10
    assert max(waits) < 3


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xff\xff",
        b"\x0a\x7f",
        b"\x0a\x04\x0a\x02\xff\xfe",
        b"\x0b" * 200,
        b"\x12\xff\xff\xff\xff\x0f",
    ],
    ids=["no wire type", "cut", "invalid UTF-8", "groups in groups", "length of 4 GB"],
)
@pytest.mark.parametrize(
    "path",
    [
        PREDICT,
        "/tensorflow.serving.PredictionService/Classify",
        "/tensorflow.serving.PredictionService/MultiInference",
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        "/tensorflow.serving.ModelService/GetModelStatus",
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
    ],
)
def test_malformed_protobuf_is_what_a_cpp_server_calls_it(client, path, body):
    assert client.call(body, path) == "INTERNAL"


def test_invalid_utf_8_where_protobuf_allows_bytes(client):
    request = good_request()
    request.inputs["chopstick_length"].Clear()
    tensors.fill_proto(request.inputs["chopstick_length"], np.array([[b"\xff\xfe"]], object))
    assert client.answer(request.SerializeToString()) == (
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but string is provided",
    )


@pytest.mark.parametrize("timeout", ["0n", "1n", "0S"])
def test_a_deadline_that_has_passed(server, timeout):
    with http2.Connection(server.grpc) as connection:
        connection.call(1, http2.message(GOOD), grpc_timeout=timeout)
        # Answered in time or not at all.
        assert connection.status(1) in (0, 4, None)


@pytest.mark.parametrize("timeout", ["-1S", "99999999999999H", "soon", ""])
def test_a_deadline_that_is_none(server, timeout):
    with http2.Connection(server.grpc) as connection:
        connection.call(1, http2.message(GOOD), grpc_timeout=timeout)
        assert connection.status(1) in (0, 3, 4, 13, None)


def test_a_negative_deadline(client):
    assert client.call(GOOD, timeout=-1) == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/",
        "/tensorflow.serving.PredictionService/Nope",
        "/tensorflow.serving.SessionService/SessionRun",
        "/tensorflow.serving.PredictionService/Predict/",
        "//tensorflow.serving.PredictionService/Predict",
        "/tensorflow.serving.PredictionService/%50redict",
        "/tensorflow.serving.PredictionService/" + "x" * 7000,
    ],
)
def test_methods_that_there_are_not(client, path):
    assert client.answer(GOOD, path) == ("UNIMPLEMENTED", "Method not found!")


def test_headers_that_are_too_large(client):
    assert client.call(GOOD, metadata=[("x", "y" * 60_000)]) == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    "changed",
    [
        {"content_type": "text/html"},
        {"content_type": None},
        {"p_method": "GET"},
        {"p_method": "DELETE"},
        {"te": "nothing"},
        {"p_scheme": "gopher"},
        {"grpc_encoding": "brotli"},
        {"p_path": None},
        {"x_bin": b"\xff\xfe"},
        {"UPPER": "case"},
        {"connection": "close"},
    ],
    ids=str,
)
def test_calls_that_are_no_calls(server, changed):
    with http2.Connection(server.grpc) as connection:
        connection.call(1, http2.message(GOOD), **changed)
        connection.status(1)


@pytest.mark.parametrize(
    "frames",
    [
        [frame(0xFA, 0xFF, 0, b"x" * 100), frame(0xFA, 0, 77)],
        [frame(DATA, 0, 99, b"x")],
        [frame(RST_STREAM, 0, 99, bytes(4))],
        [frame(http2.SETTINGS, 0, 0, b"odd")],
        [frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 0x99, 1) * 100)],
        [frame(http2.PING, 0, 0, bytes(8))] * 1000,
        [frame(http2.PING, 0, 0, b"short")],
        [frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1))] * 2,
        [frame(http2.WINDOW_UPDATE, 0, 0, bytes(4))],
        [frame(HEADERS, END_HEADERS, 2, http2.call_headers())],
        [frame(HEADERS, END_HEADERS, 1, b"\xff" * 200)],
        [frame(HEADERS, 0, 1, http2.call_headers())],
        [frame(9, 0, 1, b"x")],
        [b"\xff" * 9 + bytes(100)],
        [frame(http2.GOAWAY, 0, 0, bytes(8))],
        [b"GET / HTTP/1.1\r\n\r\n"],
    ],
    ids=[
        "unknown frames", "data of no stream", "reset of no stream", "odd settings",
        "unknown settings", "pings", "short ping", "window beyond its size", "window of nothing",
        "even stream", "bad HPACK", "headers without an end", "continuation of nothing",
        "frame of 16 MB", "goodbye", "HTTP/1.1",
    ],
)  # fmt: skip
def test_frames_that_make_no_sense_end_their_connection_at_most(server, frames):
    with http2.Connection(server.grpc) as connection:
        connection.send(*frames)
        connection.call(101, http2.message(GOOD))
        connection.status(101, seconds=2)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no preface"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
    ],
    ids=["nothing", "HTTP/1.1", "TLS"],
)
def test_a_connection_that_speaks_something_else(server, data, what):
    with http2.Connection(server.grpc, preface=False) as connection:
        connection.send(data)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("sent", [0, 1, 2], ids=["before the body", "in the body", "after it"])
def test_a_client_that_hangs_up(server, sent, reset):
    whole = http2.message(GOOD)
    for _ in range(50):
        connection = http2.Connection(server.grpc)
        connection.send(frame(HEADERS, END_HEADERS, 1, http2.call_headers()))
        if sent:
            body = whole if sent == 2 else whole[:20]
            connection.send(frame(DATA, END_STREAM if sent == 2 else 0, 1, body))
        connection.close(reset=reset)


def test_a_message_that_is_shorter_or_longer_than_it_says(server):
    with http2.Connection(server.grpc) as connection:
        # gRPC's asyncio server says nothing and keeps the call until its connection ends.
        connection.call(1, http2.message(GOOD, length=len(GOOD) + 10))
        assert connection.status(1, seconds=0.5) != 0
    with http2.Connection(server.grpc) as connection:
        connection.call(1, http2.message(GOOD, length=2**32 - 1))
        assert connection.status(1, seconds=0.5) != 0
    with http2.Connection(server.grpc) as connection:
        connection.call(1, http2.message(GOOD) * 3)
        connection.status(1)


RESETS = 20_000


def test_rapid_reset(server):
    """HEADERS and RST_STREAM at once, 20,000 times, while others want answers."""
    waits, stop = [], threading.Event()

    def others() -> None:
        with Client(server) as other:
            while not stop.is_set():
                began = time.perf_counter()
                assert other.call(GOOD) == "OK"
                waits.append(time.perf_counter() - began)

    block = http2.call_headers()
    before = usage(server.process.pid).rss
    reset_peak(server.process.pid)
    waiting = threading.Thread(target=others)
    waiting.start()
    try:
        sent = 0
        while sent < RESETS:
            connection = http2.Connection(server.grpc)
            try:
                for at in range(100):
                    batch = []
                    for number in range(at * 50, at * 50 + 50):
                        stream = 2 * number + 1
                        batch.append(frame(HEADERS, END_HEADERS, stream, block))
                        batch.append(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
                    connection.send(*batch)
                    sent += 50
            except OSError:
                # gRPC closes a connection that resets too much.
                sent += 50
            finally:
                connection.close()
    finally:
        stop.set()
        waiting.join()
    assert waits
    assert max(waits) < 3
    assert peak(server.process.pid) < before + 200


def test_a_thousand_idle_connections(server):
    idle = [http2.Connection(server.grpc, preface=bool(number % 2)) for number in range(1000)]
    try:
        with Client(server) as client:
            assert client.call(GOOD) == "OK"
        wait_for(lambda: usage(server.process.pid).descriptors > 1000, "the server to have them")
        with Client(server) as client:
            assert client.call(GOOD) == "OK"
    finally:
        for connection in idle:
            connection.close()


# Compressed.


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_what_is_compressed_is_read(server, client, compression):
    request = good_request()
    request.inputs["chopstick_length"].Clear()
    rows = np.full((500, 1), 240, np.float32)
    tensors.fill_proto(request.inputs["chopstick_length"], rows)
    assert client.call(request.SerializeToString(), compression=compression) == "OK"
    # An implementation that compresses everything, however small.
    path = "/grpc.health.v1.Health/Check"
    check = health_pb2.HealthCheckRequest(service="PredictionService").SerializeToString()
    packed = zlib.compress(check) if compression is grpc.Compression.Deflate else _gzip(check)
    encoding = compression.name.lower()
    with http2.Connection(server.grpc) as connection:
        connection.call(1, http2.message(packed, compressed=True), path, grpc_encoding=encoding)
        assert connection.status(1) == 0
    with http2.Connection(server.grpc) as connection:
        packed = zlib.compress(GOOD) if compression is grpc.Compression.Deflate else _gzip(GOOD)
        connection.call(1, http2.message(packed, compressed=True), grpc_encoding=encoding)
        assert connection.status(1) == 0


def _gzip(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=31)
    return stream.compress(data) + stream.flush()


def test_a_gzip_bomb_is_defused(server):
    bomb = http2.message(zeros(1024), compressed=True)
    before = usage(server.process.pid).rss
    reset_peak(server.process.pid)
    with http2.Connection(server.grpc) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, http2.call_headers(grpc_encoding="gzip")))
        for at in range(0, len(bomb), 16384):
            last = at + 16384 >= len(bomb)
            connection.send(frame(DATA, END_STREAM * last, 1, bomb[at : at + 16384]))
        assert connection.status(1, 30) == 8
    # One gigabyte would be; the limit is there twice for a moment.
    assert peak(server.process.pid) < before + 2.5 * inflate.MAX_GRPC_BYTES / (1 << 20)


@pytest.mark.parametrize("data", [b"\x1f\x8b nonsense", _gzip(GOOD)[:-9]], ids=["corrupt", "cut"])
def test_gzip_that_is_none(server, data):
    with http2.Connection(server.grpc) as connection:
        connection.call(1, http2.message(data, compressed=True), grpc_encoding="gzip")
        assert connection.status(1) == 13


# Names.


def test_a_million_names_would_not_be_a_million_series(server, client):
    long = "n" * 100_000
    for number in range(300):
        request = good_request()
        request.model_spec.name = f'absurd-{number}-\n"\\\x00-{"é" * number}'
        assert client.call(request.SerializeToString()) == "NOT_FOUND"
    request = good_request()
    request.model_spec.name = long
    code, details = client.answer(request.SerializeToString())
    assert code == "NOT_FOUND"
    assert len(details.encode()) < 1100
    assert client.rest("GET", "/monitoring/prometheus/metrics") == 200


def test_health_goes_on_being_itself(server):
    stub = health_pb2_grpc.HealthStub(server.channel)
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="x" * 100_000), timeout=10)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


# A long run.


@pytest.fixture(scope="module")
def busy(busy_models: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("busy-abused")
    with ModelServer(folder, busy_models, model="busy") as server:
        yield server


def busy_request(iterations: int, rows: int = 1) -> bytes:
    request = messages.PredictRequest()
    request.model_spec.name = "busy"
    tensors.fill_proto(request.inputs["iterations"], np.array([iterations] * rows, np.int32))
    return request.SerializeToString()


def graph_runs(server: ModelServer) -> int:
    page = raw_http(server, b"GET /monitoring/prometheus/metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return int(page.partition(b":tensorflow:core:graph_runs{} ")[2].split(b"\n")[0] or 0)


def test_callers_who_give_up_in_a_long_run(busy):
    """80 callers leave early; whoever comes next is answered."""
    with grpc.insecure_channel(busy.grpc) as channel:
        call = channel.unary_unary(PREDICT)
        call(busy_request(300), timeout=60)
        before = graph_runs(busy)
        late = [call.future(busy_request(300), timeout=0.5) for _ in range(60)]
        for future in late:
            with contextlib.suppress(grpc.RpcError):
                future.result()
        hung_up = [call.future(busy_request(300), timeout=60) for _ in range(20)]
        time.sleep(0.1)
        for future in hung_up:
            future.cancel()
        # A size that was never measured goes to the end of the queue.
        call(busy_request(1, rows=3), timeout=60)
    assert graph_runs(busy) - before < 80
