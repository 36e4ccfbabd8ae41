"""One request over gRPC or REST: what was answered, by whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import grpc.aio
import numpy as np

from serving.client import INPUT, errors, wire
from serving.client.access import call_headers, check_connect_to
from serving.client.channel import check_target, open_channel
from serving.client.lengths import MEASURED
from serving.protocol import messages
from serving.protocol.status import Code

if TYPE_CHECKING:
    from serving.load.config import LoadConfig


class Answer(NamedTuple):
    """What became of one request: `code` is None for OK."""

    peer: str
    version: int | None = None
    code: str | None = None
    message: str = ""


class Sender(Protocol):
    """Sends the n-th request over its turn of the connections."""

    async def send(self, number: int) -> Answer:
        """Send one request and wait for its answer; does not raise for a failure."""

    async def close(self) -> None:
        """Close the connections."""


def lengths(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Lengths within the measured range, [rows, 1] float32 mm; the same for the same seed."""
    draw = Random(seed)  # noqa: S311 - a load, not a secret
    return np.array([[draw.uniform(*MEASURED)] for _ in range(rows)], np.float32)


# gRPC's messages name the address that a connection was lost to: ipv4:127.0.0.1:8500.
_ADDRESS = re.compile(r"\bipv[46]:(\[[^\]]+\]:\d+|[\d.]+:\d+)")


def _peer_in(message: str, default: str) -> str:
    found = _ADDRESS.search(message)
    return found[1] if found else default


class GrpcSender:
    """C channels, each with a connection of its own, one Predict message for all requests."""

    def __init__(self, config: LoadConfig) -> None:
        self._target = check_target(config.target)
        self._timeout = config.timeout
        self._key = config.share_key.lower()
        dialled = check_connect_to(config.connect_to, config.tls) or self._target
        headers = call_headers(
            config.headers, config.api_key, dialled=dialled, encrypted=config.tls is not None
        )
        self._headers = tuple(headers.items())
        # Encoded once: a generator that encodes 10,000 rows for each request measures itself.
        self._request = wire.predict_request(
            config.model,
            {INPUT: lengths(config.rows, config.seed)},
            config.version,
            config.label,
            config.signature,
            outputs=(),
        ).SerializeToString()
        # Channels with equal options share one connection unless the pool is their own.
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.primary_user_agent", "chopstick-load"),
        )
        self._channels: list[grpc.aio.Channel] = [
            open_channel(
                config.target,
                tls=config.tls,
                options=options,
                retries=config.retries,
                asynchronous=True,
                connect_to=config.connect_to,
            )
            for _ in range(config.connections)
        ]
        self._stubs: Sequence[Callable[..., Any]] = [
            channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict",
                request_serializer=None,
                response_deserializer=messages.PredictResponse.FromString,
            )
            for channel in self._channels
        ]

    async def connect(self, seconds: float) -> None:
        """Open every connection; one that does not come up in time fails its requests later."""
        ready = [asyncio.ensure_future(channel.channel_ready()) for channel in self._channels]
        _, pending = await asyncio.wait(ready, timeout=seconds)
        for task in pending:
            task.cancel()
        await asyncio.gather(*ready, return_exceptions=True)

    async def send(self, number: int) -> Answer:
        """Send one Predict over connection `number` modulo their count."""
        call = self._stubs[number % len(self._stubs)](
            self._request, timeout=self._timeout, metadata=self._headers
        )
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            message = error.details() or code
            peer = self._replica(error.initial_metadata()) or self._replica(
                error.trailing_metadata()
            )
            return Answer(peer or _peer_in(message, self._target), None, code, message)
        peer = self._replica(await call.initial_metadata())
        if not peer:
            peer = self._replica(await call.trailing_metadata())
        return Answer(peer, response.model_spec.version.value)

    def _replica(self, metadata: Any) -> str:
        for key, value in metadata or ():
            if key == self._key:
                return str(value)
        return ""

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels))


class RestSender:
    """At most C HTTP/1.1 connections, kept alive, one JSON body for all requests."""

    def __init__(self, config: LoadConfig) -> None:
        import httpx

        from serving.client import http, rest

        self._errors = (httpx.HTTPError, httpx.InvalidURL)
        self._timeouts = (httpx.TimeoutException, TimeoutError)
        self._timeout = config.timeout
        self._key = config.share_key.lower()
        self._target = config.target
        path = rest.model_path(config.model, config.version, config.label)
        to = http.reach(
            config.target,
            tls=config.tls,
            headers=config.headers,
            api_key=config.api_key,
            connect_to=config.connect_to,
        )
        self._url = f"{to.url}{path}:predict"
        body: dict[str, Any] = {"instances": lengths(config.rows, config.seed).tolist()}
        if config.signature is not None:
            body["signature_name"] = config.signature
        self._body = json.dumps(body).encode()
        self._http = httpx.AsyncClient(
            headers={"content-type": "application/json", **to.headers},
            verify=to.verify,
            limits=httpx.Limits(
                max_connections=config.connections, max_keepalive_connections=config.connections
            ),
            timeout=None,  # noqa: S113 - asyncio.timeout bounds the whole request
            trust_env=False,
        )
        self._extensions = to.extensions

    async def connect(self, seconds: float) -> None:
        """Nothing to open beforehand: HTTP connections open with their first request."""

    async def send(self, number: int) -> Answer:  # noqa: ARG002 - the pool picks the connection
        """Send one predict over a free connection, waiting for one if need be."""
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._http.post(
                    self._url, content=self._body, extensions=self._extensions
                )
        except self._timeouts:
            message = f"no answer within {self._timeout:g} s"
            return Answer(self._target, None, Code.DEADLINE_EXCEEDED.name, message)
        except self._errors as error:
            message = str(error) or type(error).__name__
            return Answer(self._target, None, Code.UNAVAILABLE.name, message)
        peer = response.headers.get(self._key, "")
        if response.status_code == 200:
            return Answer(peer)
        detail = response.text
        # A proxy's page instead of TensorFlow Serving's JSON: its text says enough.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            detail = str(response.json()["error"])
        failure = errors.from_http(response.status_code, detail, self._target)
        return Answer(peer or self._target, None, failure.code.name, failure.detail)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def open_sender(config: LoadConfig) -> GrpcSender | RestSender:
    """Return the sender that a config asks for; inside a running loop."""
    return RestSender(config) if config.rest else GrpcSender(config)
