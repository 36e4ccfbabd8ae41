"""HTTP/1.1 for probes and scrapes: h11 does the protocol, asyncio the sockets.

A framework would need more memory than the whole budget leaves (docs/adr/0004). GET alone, small
answers, and limits on everything that a stranger could make slow or large.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from http import HTTPStatus

import h11

from serving.errors import ChopstickError
from serving.health.pages import Answer, Pages, Question

# A kubelet and two Prometheus servers need three; the rest is for people.
CONNECTIONS = 64
HEAD_BYTES = 16 << 10
# Seconds for one request and its answer, and for a connection to stay open between two. Prometheus
# scrapes every 15 to 60 s and may keep its connection that long.
IDLE_SECONDS = 75.0


class HttpServer:
    """A listening server; made by `serve`."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; raises ChopstickError when the address can't be had."""
        try:
            bound = _bind(host, port)
        except OSError as error:
            raise ChopstickError(
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                "Another process may have the port; choose another with --probe-port or "
                "--metrics-port.",
            ) from None
        self.port = bound.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=bound, limit=HEAD_BYTES)

    async def stop(self) -> None:
        """Close the port and every connection at once."""
        if self._server:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        if len(self._connections) >= CONNECTIONS:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            # The peer's loss, or ours at the end; nobody is left to tell.
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        local = _is_loopback(writer.get_extra_info("peername"))
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                try:
                    request = await _read(connection, reader)
                    if request is None:
                        return
                    answer = self._answer(request, local=local)
                except h11.RemoteProtocolError as error:
                    if connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
                        return
                    answer = _text(error.error_status_hint, str(error))
                    request = None
                writer.write(_encode(connection, request, answer))
                await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    def _answer(self, request: h11.Request, *, local: bool) -> Answer:
        if request.method not in {b"GET", b"HEAD"}:
            return _text(405, "GET is all there is")
        path = request.target.decode("ascii", "replace").partition("?")[0]
        if request.method == b"HEAD" and path == "/drain":
            return _text(405, "HEAD changes nothing")
        accept = next((v.decode("latin-1") for n, v in request.headers if n == b"accept"), "")
        return self._pages(Question(path, accept, local)) or _text(404, f"no page {path}")


def _is_loopback(peer: tuple[str, ...] | None) -> bool:
    """Whether a peer is this pod itself; an IPv4 peer of an IPv6 socket begins with ::ffff:."""
    address = peer[0].removeprefix("::ffff:") if peer else ""
    return address == "::1" or address.startswith("127.")


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The next request, None when the peer is done; raises h11.RemoteProtocolError."""
    request = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(4 * HEAD_BYTES))
        elif isinstance(event, h11.Request):
            request = event
            if any(name in {b"content-length", b"transfer-encoding"} for name, _ in event.headers):
                # A body is of no use here: answer, and close instead of reading it.
                return request
        elif isinstance(event, h11.EndOfMessage):
            return request
        else:
            return None


def _encode(connection: h11.Connection, request: h11.Request | None, answer: Answer) -> bytes:
    headers = [
        ("content-type", answer.content_type),
        ("content-length", str(len(answer.body))),
        # A cached readiness would be a lie.
        ("cache-control", "no-store"),
    ]
    if connection.their_state is not h11.DONE:
        headers.append(("connection", "close"))
    if answer.status == 405:
        headers.append(("allow", "GET, HEAD"))
    reason = HTTPStatus(answer.status).phrase.encode()
    response = h11.Response(status_code=answer.status, headers=headers, reason=reason)
    parts = [connection.send(response)]
    if request is None or request.method != b"HEAD":
        parts.append(connection.send(h11.Data(data=answer.body)))
    parts.append(connection.send(h11.EndOfMessage()))
    return b"".join(part for part in parts if part)


def _text(status: int, text: str) -> Answer:
    return Answer(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket; "", "::" and "0.0.0.0" are all addresses, IPv6 and IPv4 on one socket."""
    if host in {"", "::", "0.0.0.0"}:  # noqa: S104 - the kubelet and the mesh come from outside
        if socket.has_dualstack_ipv6():
            with contextlib.suppress(OSError):
                return socket.create_server(
                    ("::", port), family=socket.AF_INET6, dualstack_ipv6=True
                )
        host = "0.0.0.0"  # noqa: S104
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
