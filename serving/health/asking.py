"""One model server, asked over gRPC; every answer is one of `state`'s events."""

from __future__ import annotations

import asyncio
import contextlib
import os
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from serving.health.config import Config
from serving.health.probe import ProbeError, build_request
from serving.health.state import (
    Answered,
    Erred,
    Event,
    NoSuchModel,
    Predicted,
    Refused,
    Unanswered,
    Verdict,
    Version,
    VersionState,
)
from serving.protocol import messages
from serving.protocol.services import ModelServiceAsyncStub, PredictionServiceAsyncStub

# The longest deadline that this project's clients use, which the pod's grace period is computed
# from: a first Predict slower than that is asked again.
PREDICT_SECONDS = 5.0

_OPTIONS: list[tuple[str, Any]] = [
    # A large model's signatures or reply may pass gRPC's 4 MiB.
    ("grpc.max_receive_message_length", -1),
    # http_proxy of the environment is not for the server beside us.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    # A server that is back is noticed within one poll; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 400),
    ("grpc.primary_user_agent", "chopstick-health"),
]
# What a server answers when it is too busy, or about to load: no statement about the version.
_LATER = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
}


class ModelServer:
    """A channel to the server of a configuration; an asynchronous context manager."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._channel = grpc.aio.insecure_channel(config.server, options=_OPTIONS)
        self._models = ModelServiceAsyncStub(self._channel)
        self._predictions = PredictionServiceAsyncStub(self._channel)
        self._status = messages.GetModelStatusRequest()
        self._status.model_spec.name = config.model

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def status(self) -> Event:
        """Ask GetModelStatus once; never raises for what the server does."""
        timeout = self._config.timeout
        try:
            try:
                answer = await self._models.GetModelStatus(self._status, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                # A closed port says so, an aged connection or gRPC's backoff are no news.
                if refusal := await self._refusal():
                    return Refused(refusal)
                answer = await self._models.GetModelStatus(
                    self._status, timeout=timeout, wait_for_ready=True
                )
        except grpc.aio.AioRpcError as error:
            return _failure(error, timeout)
        return Answered(tuple(map(_version, answer.model_version_status)))

    async def _refusal(self) -> str:
        """Why no connection can be made, empty when one can or nobody knows in time."""
        connecting = asyncio.open_connection(self._config.host, self._config.port)
        try:
            _, writer = await asyncio.wait_for(connecting, self._config.timeout)
        except TimeoutError:
            return ""
        except OSError as error:
            # asyncio's own text names the address a second time.
            number = error.errno or 0
            why = os.strerror(number) if number > 0 else str(error)
            return f"{self._config.server}: {why}"
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return ""

    async def predict(self, version: int) -> Predicted:
        """Have the version answer one Predict by the configured signature and inputs."""
        config = self._config
        asked = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = config.model
        asked.model_spec.version.value = version
        try:
            metadata = await self._predictions.GetModelMetadata(asked, timeout=PREDICT_SECONDS)
            request = build_request(
                config.model, version, config.signature, metadata, config.inputs
            )
            await self._predictions.Predict(request, timeout=PREDICT_SECONDS)
        except ProbeError as error:
            return Predicted(version, Verdict.BAD, str(error))
        except grpc.aio.AioRpcError as error:
            verdict = Verdict.LATER if error.code() in _LATER else Verdict.BAD
            return Predicted(version, verdict, f"{error.code().name}: {error.details()}")
        return Predicted(version, Verdict.GOOD)


def _failure(error: grpc.aio.AioRpcError, timeout: float) -> Event:
    match error.code():
        case grpc.StatusCode.NOT_FOUND:
            return NoSuchModel(error.details() or "NOT_FOUND")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unanswered(f"GetModelStatus took longer than {timeout:g} s")
        case grpc.StatusCode.UNAVAILABLE:
            return Unanswered(f"UNAVAILABLE: {error.details()}")
        case code:
            return Erred(f"GetModelStatus: {code.name}: {error.details()}")


def _version(status: messages.ModelVersionStatus) -> Version:
    try:
        state = VersionState(status.state)
    except ValueError:
        state = VersionState.UNKNOWN
    return Version(status.version, state, status.status.error_code, status.status.error_message)
