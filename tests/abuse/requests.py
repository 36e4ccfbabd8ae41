"""Good and bad requests, over gRPC and REST, for tests and for long runs."""

import http.client
import random
import socket
import struct
import zlib
from collections import Counter

import grpc
import numpy as np

from serving.protocol import messages, tensors
from tests.support import http2
from tests.support.servers import ModelServer

PREDICT = http2.PREDICT
REST_PREDICT = "/v1/models/chopstick:predict"
GOOD_BODY = b'{"instances": [[240.0]]}'
FOR_EVER = 30.0


def good_request() -> messages.PredictRequest:
    request = messages.PredictRequest()
    request.model_spec.name = "chopstick"
    tensors.fill_proto(request.inputs["chopstick_length"], np.array([[240.0]], np.float32))
    return request


def shaped(*dims: int, values: int = 1, dtype: int = messages.DT_FLOAT) -> bytes:
    """A Predict whose tensor declares `dims` around that many values."""
    request = messages.PredictRequest()
    request.model_spec.name = "chopstick"
    tensor = request.inputs["chopstick_length"]
    tensor.dtype = dtype
    for size in dims:
        tensor.tensor_shape.dim.add().size = size
    tensor.float_val.extend([1.0] * values)
    return request.SerializeToString()


def zeros(mebibytes: int) -> bytes:
    """That many mebibytes of zeros, as gzip: about a kilobyte each."""
    blank = bytes(1 << 20)
    stream = zlib.compressobj(9, wbits=-15)
    # After a full flush the same piece may come again, which saves the compressing.
    piece = stream.compress(blank) + stream.flush(zlib.Z_FULL_FLUSH)
    checksum = 0
    for _ in range(mebibytes):
        checksum = zlib.crc32(blank, checksum)
    head = b"\x1f\x8b\x08" + bytes(7)
    tail = struct.pack("<II", checksum, mebibytes << 20 & 0xFFFFFFFF)
    return head + piece * mebibytes + stream.flush() + tail


class Client:
    """One caller: a channel and a REST connection, both kept open."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.channel = grpc.insecure_channel(
            server.grpc,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
            ],
        )
        self.http = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=FOR_EVER)

    def close(self) -> None:
        self.channel.close()
        self.http.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, body: bytes, path: str = PREDICT, timeout: float = FOR_EVER, **more) -> str:
        """The code's name."""
        return self.answer(body, path, timeout, **more)[0]

    def answer(
        self, body: bytes, path: str = PREDICT, timeout: float = FOR_EVER, **more
    ) -> tuple[str, str]:
        """The code's name and the details."""
        try:
            self.channel.unary_unary(path)(body, timeout=timeout, **more)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    def rest(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """The status."""
        try:
            self.http.request(method, path, body, headers or {})
            response = self.http.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            # The server may close a connection that has waited.
            self.http.close()
            self.http.request(method, path, body, headers or {})
            response = self.http.getresponse()
            response.read()
        return response.status


def raw_http(server: ModelServer, data: bytes, seconds: float = 10.0) -> bytes:
    """What comes back for these bytes until the server closes or says no more for a second."""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        while True:
            try:
                part = connection.recv(1 << 16)
            except OSError:
                return received
            if not part:
                return received
            received += part
            head, found, rest = received.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            if found and length and len(rest) >= int(length):
                return received


def _rest_hang_up(client: Client) -> int:
    with socket.create_connection(("127.0.0.1", client.server.rest_port)) as connection:
        connection.sendall(
            b"POST " + REST_PREDICT.encode() + b" HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"
        )
    return 0


def _grpc_hang_up(client: Client) -> int:
    with http2.Connection(client.server.grpc) as connection:
        connection.send(
            http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call_headers()),
            http2.frame(http2.DATA, 0, 1, http2.message(b"\0" * 10, length=1000)),
        )
    return 0


_GOOD = good_request().SerializeToString()
_STATUS = b"\x0a\x0b\x0a\x09chopstick"
_BOMB = zeros(4)
_DEEP = b'{"instances": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
_MODEL = "/tensorflow.serving.ModelService/GetModelStatus"

# (weight, name, what it should give, how)
MIX = [
    (30, "predict", "OK", lambda c: c.call(_GOOD)),
    (20, "predict by REST", 200, lambda c: c.rest("POST", REST_PREDICT, GOOD_BODY)),
    (3, "status", "OK", lambda c: c.call(_STATUS, _MODEL)),
    (2, "status by REST", 200, lambda c: c.rest("GET", "/v1/models/chopstick")),
    (2, "metadata by REST", 200, lambda c: c.rest("GET", "/v1/models/chopstick/metadata")),
    (1, "metrics", 200, lambda c: c.rest("GET", "/monitoring/prometheus/metrics")),
    (2, "NaN by REST", 200, lambda c: c.rest("POST", REST_PREDICT, b'{"instances": [[NaN]]}')),
    (3, "huge shape", "INVALID_ARGUMENT", lambda c: c.call(shaped(1 << 30))),
    (3, "wrong rank", "INVALID_ARGUMENT", lambda c: c.call(shaped(1))),
    (2, "malformed protobuf", "INTERNAL", lambda c: c.call(b"\xff\xff\xff")),
    (2, "unknown model", "NOT_FOUND", lambda c: c.call(b"\x0a\x05\x0a\x03abc")),
    (2, "unknown method", "UNIMPLEMENTED", lambda c: c.call(b"", "/a.B/C")),
    (2, "no time", "DEADLINE_EXCEEDED", lambda c: c.call(_GOOD, timeout=-1)),
    (1, "bomb", 400, lambda c: c.rest("POST", REST_PREDICT, _BOMB, {"Content-Encoding": "gzip"})),
    (2, "bad JSON", 400, lambda c: c.rest("POST", REST_PREDICT, b'{"instances": [[1')),
    (1, "deep JSON", 400, lambda c: c.rest("POST", REST_PREDICT, _DEEP)),
    (2, "bad path", 400, lambda c: c.rest("GET", "/v1/models/a/b/c")),
    (2, "unknown model by REST", 404, lambda c: c.rest("POST", "/v1/models/x:predict", GOOD_BODY)),
    (1, "hang-up by REST", 0, _rest_hang_up),
    (1, "hang-up", 0, _grpc_hang_up),
]
_WEIGHTS = [entry[0] for entry in MIX]


def mixed(client: Client, count: int, seed: int) -> Counter[str]:
    """Make `count` requests; how many of which gave something else than they should."""
    rng = random.Random(seed)
    wrong: Counter[str] = Counter()
    for _, name, expected, make in rng.choices(MIX, _WEIGHTS, k=count):
        got = make(client)
        if got != expected:
            wrong[f"{name}: {got} instead of {expected}"] += 1
    return wrong
