"""Load from one core that never is the bottleneck: prepared bytes over plain sockets.

A Python gRPC client takes more CPU for a call than the server does, so that a measurement with one
measures the client. These two write requests made beforehand and look at no more of an answer than
it takes to know that it came whole and was no failure.

Closed loop: `concurrency` requests are in flight all the time, and the next one leaves when an
answer comes.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import time
from dataclasses import dataclass

TIMEOUT = 30.0
# More answers than this end a measurement before its time does.
MOST = 200_000


class LoadError(Exception):
    """The server failed a request, or left."""


@dataclass(frozen=True)
class Sample:
    """One measurement: requests a second and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    count: int


def quantile(ordered: list[float], q: float) -> float:
    """The q-quantile (nearest rank) of a sorted list that is not empty."""
    return ordered[min(len(ordered) - 1, max(0, -(-int(q * 1e6) * len(ordered) // 1_000_000) - 1))]


def sample(latencies: list[float], seconds: float) -> Sample:
    """Latencies in seconds, measured within so many seconds, as a Sample."""
    if not latencies:
        raise LoadError(f"no answer within {seconds:.1f} s")
    ordered = sorted(latencies)
    return Sample(
        len(ordered) / seconds,
        quantile(ordered, 0.5) * 1e3,
        quantile(ordered, 0.99) * 1e3,
        len(ordered),
    )


# HTTP/2, as much of it as unary gRPC calls on one connection take (RFC 9113, RFC 7541).

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_MAX_FRAME = 16_384
_OPEN = (1 << 31) - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes, index: int = 0) -> bytes:
    """A header without indexing; `index` names it from the static table."""

    def text(data: bytes) -> bytes:
        assert len(data) < 127
        return bytes([len(data)]) + data

    if index:
        head = bytes([index]) if index < 15 else bytes([15, index - 15])
        return head + text(value)
    return b"\x00" + text(name) + text(value)


class GrpcLoad:
    """One HTTP/2 connection that sends the same unary call again and again.

    `method` is "/package.Service/Method", `message` the serialised request.
    """

    def __init__(self, target: str, method: str, message: bytes) -> None:
        host, port = target.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        block = (
            b"\x83\x86"  # POST, http
            + _literal(b":path", method.encode(), 4)
            + _literal(b":authority", target.encode(), 1)
            + _literal(b"content-type", b"application/grpc", 31)
            + _literal(b"te", b"trailers")
            + _literal(b"grpc-timeout", b"30S")
        )
        body = b"\x00" + struct.pack(">I", len(message)) + message
        self._parts = [(_HEADERS, _END_HEADERS, block)]
        pieces = [body[i : i + _MAX_FRAME] for i in range(0, len(body), _MAX_FRAME)]
        self._parts += [
            (_DATA, _END_STREAM if i == len(pieces) - 1 else 0, piece)
            for i, piece in enumerate(pieces)
        ]
        self._size = len(body)
        self._window = 65_535
        self._consumed = 0
        self._next = 1
        self._buffer = b""
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, struct.pack(">HIHI", 2, 0, 4, _OPEN))
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _OPEN - 65_535))
        )

    def call(self) -> bytes:
        """Make one call and return the message of its answer; raises LoadError."""
        bodies: list[bytes] = []
        self._run(1, time.perf_counter() + TIMEOUT, most=1, bodies=bodies)
        return b"".join(bodies)[5:]

    def measure(self, concurrency: int, seconds: float) -> Sample:
        """Keep `concurrency` calls in flight for so long; raises LoadError for one that fails."""
        started = time.perf_counter()
        latencies = self._run(concurrency, started + seconds)
        # Calls that were in flight at the end are counted with the time that they took.
        return sample(latencies, time.perf_counter() - started)

    def latencies(self, concurrency: int, seconds: float) -> list[tuple[float, float]]:
        """Like `measure`: (when the answer came by perf_counter, seconds it took) per call."""
        ends: list[float] = []
        took = self._run(concurrency, time.perf_counter() + seconds, ends=ends)
        return list(zip(ends, took, strict=True))

    def _request(self) -> bytes:
        stream, self._next = self._next, self._next + 2
        self._window -= self._size
        return b"".join([_frame(kind, flags, stream, data) for kind, flags, data in self._parts])

    def _run(
        self,
        concurrency: int,
        until: float,
        *,
        most: int = MOST,
        bodies: list[bytes] | None = None,
        ends: list[float] | None = None,
    ) -> list[float]:
        clock = time.perf_counter
        sent: dict[int, float] = {}
        bytes_of: dict[int, int] = {}
        latencies: list[float] = []
        wanted = concurrency
        going = True
        unpack = struct.Struct(">BHBBI").unpack_from
        while going or sent:
            out: list[bytes] = []
            # A request goes out when the connection's window has room for it whole.
            while going and wanted and self._window >= self._size:
                stream = self._next
                out.append(self._request())
                sent[stream] = clock()
                wanted -= 1
            if out:
                self._socket.sendall(b"".join(out))
            data = self._socket.recv(1 << 18)
            if not data:
                raise LoadError("the server closed the connection")
            buffer = self._buffer + data if self._buffer else data
            position, total = 0, len(buffer)
            now = clock()
            while total - position >= 9:
                high, low, kind, flags, stream = unpack(buffer, position)
                length = (high << 16) | low
                end = position + 9 + length
                if end > total:
                    break
                if kind == _DATA:
                    self._consumed += length
                    bytes_of[stream] = bytes_of.get(stream, 0) + length
                    if bodies is not None:
                        bodies.append(buffer[position + 9 : end])
                elif kind == _HEADERS:
                    if flags & _END_STREAM:
                        if not bytes_of.pop(stream, 0):
                            text = buffer[position + 9 : end].decode("latin-1")
                            raise LoadError(f"a call failed: {text!r}")
                        latencies.append(now - sent.pop(stream))
                        if ends is not None:
                            ends.append(now)
                        wanted += 1
                else:
                    self._control(kind, flags, stream, buffer[position + 9 : end])
                position = end
            self._buffer = buffer[position:]
            if self._consumed > 1 << 28:
                self._socket.sendall(_frame(_WINDOW, 0, 0, struct.pack(">I", self._consumed)))
                self._consumed = 0
            if going and (now >= until or len(latencies) + len(sent) >= most):
                going = False
        return latencies

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW and stream == 0:
            self._window += struct.unpack(">I", payload)[0]
        elif kind == _SETTINGS and not flags & _ACK:
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif kind in (_RST, _GOAWAY):
            raise LoadError(f"the server ended the call: frame {kind}, {payload!r}")

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


# HTTP/1.1.

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class RestLoad:
    """Keep-alive connections, one request at a time on each, that all send the same POST."""

    def __init__(self, target: str, path: str, body: bytes) -> None:
        self._target = target
        self._request = (
            f"POST {path} HTTP/1.1\r\nhost: {target}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body

    def _connection(self) -> socket.socket:
        host, port = self._target.rsplit(":", 1)
        made = socket.create_connection((host, int(port)), TIMEOUT)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def call(self) -> bytes:
        """Make one call and return the body of its answer; raises LoadError."""
        connection = self._connection()
        connection.sendall(self._request)
        buffer = b""
        while (end := _answer_end(buffer)) is None:
            data = connection.recv(1 << 18)
            if not data:
                raise LoadError("the server closed the connection")
            buffer += data
        connection.close()
        return buffer[buffer.index(b"\r\n\r\n") + 4 : end]

    def measure(self, concurrency: int, seconds: float) -> Sample:
        """Keep `concurrency` calls in flight for so long; raises LoadError for one that fails."""
        clock = time.perf_counter
        poll = select.epoll()
        connections = {c.fileno(): c for c in (self._connection() for _ in range(concurrency))}
        buffers = dict.fromkeys(connections, b"")
        sent: dict[int, float] = {}
        latencies: list[float] = []
        started = clock()
        until = started + seconds
        for number, connection in connections.items():
            poll.register(number, select.EPOLLIN)
            sent[number] = clock()
            connection.sendall(self._request)
        try:
            while sent:
                ready = poll.poll(TIMEOUT)
                if not ready:
                    raise LoadError(f"no answer for {TIMEOUT:g} s")
                for number, _ in ready:
                    connection = connections[number]
                    data = connection.recv(1 << 18)
                    if not data:
                        raise LoadError("the server closed the connection")
                    buffer = buffers[number] = buffers[number] + data
                    end = _answer_end(buffer)
                    if end is None:
                        continue
                    now = clock()
                    buffers[number] = buffer[end:]
                    latencies.append(now - sent.pop(number))
                    if now < until and len(latencies) < MOST:
                        sent[number] = now
                        connection.sendall(self._request)
        finally:
            poll.close()
            for connection in connections.values():
                connection.close()
        elapsed = clock() - started
        return sample(latencies, elapsed)

    def close(self) -> None:
        """Nothing stays open between measurements."""


def _answer_end(buffer: bytes) -> int | None:
    """Where the first answer in the buffer ends, or None before it is whole."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    if not buffer.startswith(b"HTTP/1.1 200"):
        raise LoadError(f"a call failed: {buffer[:300]!r}")
    found = _LENGTH.search(buffer, 0, head)
    if found is None:
        raise LoadError(f"an answer without a content-length: {buffer[:head]!r}")
    end = head + 4 + int(found[1])
    return end if len(buffer) >= end else None
