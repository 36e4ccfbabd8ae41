"""A uvicorn for a public port: bound first, ended on request, with a limit on everything slow.

uvicorn itself has no limit on how long or large a request's head may be, how slowly a body may
come, or how long a client may leave its answer unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Generator, MutableMapping
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ASGIApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

# Seconds without a byte before a connection is closed; libevent's, which TFS uses.
IDLE_SECONDS = 50
# Seconds from a request's first byte to the end of its head.
HEAD_SECONDS = 10.0
HEAD_BYTES = 64 << 10
# A body may take this long whatever its size; after that it must have come at this rate.
BODY_SECONDS = 30.0
BODY_BYTES_PER_SECOND = 4096
# TFS has no limit. JSON takes up to 20 times its size once it is parsed, so that this much is some
# gigabytes at worst; whoever has more to send has gRPC.
BODY_BYTES = 128 << 20
# Descriptors are for models, too. A connection without a request costs about 15 KB.
CONNECTIONS = 8192

INVALID = (400, "Invalid HTTP request received.")
HEAD_TOO_LARGE = (431, f"The request's head is larger than {HEAD_BYTES} bytes.")
BODY_TOO_LARGE = (413, f"The request's body is larger than {BODY_BYTES} bytes.")
_PHRASES = {
    400: b"Bad Request",
    413: b"Request Entity Too Large",
    431: b"Request Header Fields Too Large",
}


class _Flow(FlowControl):
    """Reads on only when every request that came has begun to be answered.

    uvicorn's reads on with every answer, and one read brings thousands of pipelined requests.
    """

    def __init__(self, transport: asyncio.Transport, pipeline: Collection[Any]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class _Protocol(HttpToolsProtocol):
    """uvicorn's, and notes of when what came; `sweep` acts on them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._since = time.monotonic()
        self._receiving = self._in_head = self._began = self._upgrading = False
        self._refusal = INVALID
        self._head_bytes = 0
        self._body_bytes = 0
        self._unread = 0
        self._unread_since = 0.0
        if len(self.connections) > CONNECTIONS:
            transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._since = time.monotonic()
        self._receiving = self._in_head = self._began = True
        self._head_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            self._refusal = HEAD_TOO_LARGE
            # The parser turns it into an error of its own.
            raise ValueError("head too large")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._since = time.monotonic()
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            # Nothing to upgrade to. The parser has skipped the body: `_without_upgrade` begins anew.
            self._upgrading = True
            return
        for name, value in self.headers:
            if name == b"content-length" and int(value) > BODY_BYTES:
                self._refusal = BODY_TOO_LARGE
                raise ValueError("body too large")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES:
            self._refusal = BODY_TOO_LARGE
            raise ValueError("body too large")
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrading:
            self._receiving = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._since = time.monotonic()
        super().on_response_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        # A client may say that it has nothing more to send and wait for its answer.
        waiting = self.cycle is not None and not self.cycle.response_complete
        if not waiting or self._receiving:
            return False
        self.cycle.keep_alive = False
        return True

    def _without_upgrade(self, rest: bytes) -> None:
        """Read the request as if it had not asked for another protocol (Java's client does)."""
        self._upgrading = False
        version = self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        head += [b"%s: %s" % pair for pair in self.headers if pair[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"\r\n".join(head) + b"\r\n\r\n" + rest)

    def _refuse(self, status: int, text: str) -> None:
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, _PHRASES[status], len(text), text.encode())
        )
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._began = False
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._upgrading:
                    self._without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(*self._refusal)
            return
        if self._in_head and not self._began:
            # A header without an end is counted by no callback.
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(*HEAD_TOO_LARGE)

    def sweep(self, now: float) -> None:
        """Close the connection when a limit has passed."""
        elapsed = now - self._since
        if self._receiving:
            slow = elapsed > HEAD_SECONDS
            if not self._in_head:
                slow = (
                    elapsed > BODY_SECONDS
                    and self._body_bytes < elapsed * BODY_BYTES_PER_SECOND
                    and not self.flow.read_paused
                )
            if slow:
                self.transport.abort()
        unread = self.transport.get_write_buffer_size()
        idle = not self._receiving and (self.cycle is None or self.cycle.response_complete)
        if idle and unread:
            self._since = now
        elif idle and elapsed > IDLE_SECONDS:
            # uvicorn's own timer begins anew with every empty line.
            self.transport.abort()
        if unread != self._unread or not unread:
            self._unread, self._unread_since = unread, now
        elif now - self._unread_since > IDLE_SECONDS:
            self.transport.abort()


class _Uvicorn(uvicorn.Server):
    """uvicorn in somebody else's loop: no signal handlers, and a word when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def on_tick(self, counter: int) -> bool:
        # Ten ticks are a second.
        if counter % 10 == 5:
            now = time.monotonic()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, _Protocol):
                    connection.sweep(now)
        return await super().on_tick(counter)


class HttpServer:
    """A running server; made by `serve`."""

    def __init__(self, server: _Uvicorn, task: asyncio.Task[None], port: int) -> None:
        self._server = server
        self._task = task
        self.port = port

    async def stop(self, grace: float = 0.0) -> None:
        """Take no more connections; requests in flight may take `grace` seconds more."""
        self._server.config.timeout_graceful_shutdown = grace  # type: ignore[assignment]
        self._server.should_exit = True
        await self._task


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError.

    "", "::" and "0.0.0.0" are all addresses: IPv6 and IPv4 on one socket, as in TFS, or IPv4
    alone where there is no IPv6. Port 0 is any free one.
    """
    if host in {"", "::", "0.0.0.0"}:  # noqa: S104 - what TFS does
        try:
            return _bind(socket.AF_INET6, "::", port)
        except OSError:
            return _bind(socket.AF_INET, "0.0.0.0", port)  # noqa: S104
    return _bind(socket.AF_INET6 if ":" in host else socket.AF_INET, host, port)


def _bind(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these: a peer that is gone is noticed.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, IDLE_SECONDS * 1000)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((host, port))
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


async def serve(app: ASGIApp, host: str, port: int) -> HttpServer:
    """Serve `app` on the running loop; returns when connections are taken. Raises OSError."""
    bound = bind(host, port)
    # Nonsense from a port scanner is no news, and the application logs its own failures.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        interface="asgi3",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        backlog=2048,
    )
    server = _Uvicorn(config)
    task = asyncio.get_running_loop().create_task(server.serve(sockets=[bound]))
    ready = asyncio.ensure_future(server.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        bound.close()
        await task
    return HttpServer(server, task, bound.getsockname()[1])
