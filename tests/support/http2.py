"""HTTP/2 frames by hand: what no well-behaved client sends."""

import re
import socket
import struct
import time
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREDICT = "/tensorflow.serving.PredictionService/Predict"

# Not Huffman-coded and not indexed, as gRPC's server sends a status for the first time.
_STATUS = re.compile(rb"\x0bgrpc-status[\x01\x02](\d+)")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def _text(value: bytes) -> bytes:
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    prefix, length = b"\x7f", length - 127
    while length > 127:
        prefix += bytes([length & 127 | 128])
        length >>= 7
    return prefix + bytes([length]) + value


def header_block(headers: list[tuple[str, str | bytes]]) -> bytes:
    """HPACK with nothing in it but literals."""
    pairs = [(n.encode(), v.encode() if isinstance(v, str) else v) for n, v in headers]
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)


def call_headers(path: str = PREDICT, **changed: str | bytes | None) -> bytes:
    """A gRPC call's headers; `changed` sets or (None) drops one, `_` for `-`, `p_` for `:`."""
    headers: dict[str, str | bytes | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    for name, value in changed.items():
        headers[re.sub("^p_", ":", name).replace("_", "-")] = value
    return header_block([(name, value) for name, value in headers.items() if value is not None])


def message(payload: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """A gRPC message with its prefix; `length` is what the prefix says instead of the truth."""
    return struct.pack(">BI", compressed, len(payload) if length is None else length) + payload


class Connection:
    """A connection with preface and settings sent; a context manager."""

    def __init__(self, target: str, *, preface: bool = True) -> None:
        host, _, port = target.partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.received = b""
        if preface:
            # A large window, so that a reply never waits for one.
            settings = struct.pack(">HI", 4, (1 << 31) - 1)
            self.send(PREFACE, frame(SETTINGS, 0, 0, settings), frame(SETTINGS, ACK, 0))

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def call(
        self, stream: int, body: bytes, path: str = PREDICT, **changed: str | bytes | None
    ) -> None:
        """Send a whole call."""
        self.send(
            frame(HEADERS, END_HEADERS, stream, call_headers(path, **changed)),
            frame(DATA, END_STREAM, stream, body),
        )

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """What has come: (kind, flags, stream, payload)."""
        found, data = [], self.received
        while len(data) >= 9:
            size = int.from_bytes(data[:3], "big")
            if len(data) < 9 + size:
                break
            stream = int.from_bytes(data[5:9], "big")
            found.append((data[3], data[4], stream, data[9 : 9 + size]))
            data = data[9 + size :]
        return found

    def read_until(self, done, seconds: float = 10.0) -> bool:
        """Read until `done(frames)`; False when it was closed or the time was over before."""
        deadline = time.monotonic() + seconds
        while not done(self.frames()):
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(1 << 16)
            except (ConnectionError, TimeoutError):
                return False
            if not data:
                return False
            self.received += data
        return True

    def status(self, stream: int, seconds: float = 10.0) -> int | None:
        """The call's grpc-status, None when it has none; the first on its connection only."""
        self.read_until(lambda frames: any(ends(f, stream) for f in frames), seconds)
        for kind, _, number, payload in self.frames():
            if kind == HEADERS and number == stream and (found := _STATUS.search(payload)):
                return int(found[1])
        return None

    def close(self, *, reset: bool = False) -> None:
        """Close it; `reset` sends a RST instead of a FIN."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def ends(found: tuple[int, int, int, bytes], stream: int) -> bool:
    """Whether the frame ends the stream, or the whole connection."""
    kind, flags, number, _ = found
    if kind == GOAWAY:
        return True
    return number == stream and (
        kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM != 0)
    )
