"""The blocking gRPC client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from numpy.typing import ArrayLike

from serving.client import errors, wire
from serving.client.access import call_headers, check_connect_to
from serving.client.channel import (
    TLS,
    Options,
    check_target,
    check_timeout,
    deadline,
    open_channel,
)
from serving.client.results import Classification, ModelMetadata, Prediction, VersionStatus
from serving.protocol import messages, services


class Client:
    """A model server's gRPC port; safe to share between threads.

    `target` is HOST:PORT; `model` the model that calls without `model=` mean; `timeout` the
    deadline in seconds of calls without `timeout=`; `headers` go with every call, and so does
    `api_key`, which needs TLS or loopback; `connect_to` is the HOST:PORT to dial while names stay
    the target's; `options` are channel options that win over ours (see `serving.client`);
    `retries=False` leaves out the retry policy. Nothing connects before the first call. Calls raise
    `RequestError`.
    """

    def __init__(
        self,
        target: str,
        *,
        model: str = "chopstick",
        timeout: float | None = None,
        tls: TLS | None = None,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        connect_to: str | None = None,
        options: Options = (),
        retries: bool = True,
    ) -> None:
        self.target = target
        self.model = model
        self.timeout = check_timeout(timeout)
        dialled = check_connect_to(connect_to, tls) or check_target(target)
        sent = call_headers(headers, api_key, dialled=dialled, encrypted=tls is not None)
        self._headers = tuple(sent.items())
        self._channel: grpc.Channel = open_channel(
            target,
            tls=tls,
            options=options,
            retries=retries,
            asynchronous=False,
            connect_to=connect_to,
        )
        prediction = services.PredictionServiceStub(self._channel)
        self._predict = prediction.Predict
        self._classify = prediction.Classify
        self._metadata = prediction.GetModelMetadata
        model_service = services.ModelServiceStub(self._channel)
        self._status = model_service.GetModelStatus
        self._reload = model_service.HandleReloadConfigRequest

    def predict(
        self,
        inputs: wire.Inputs | None = None,
        *,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        **named: ArrayLike,
    ) -> Prediction:
        """Run a signature on arrays given by input name, as a mapping or as keywords.

        `version` or `label` selects the version (default: the newest available), `outputs`
        restricts the answer. Arrays are sent in their own dtype, Python numbers as float32 or
        int32. An input whose name is one of these parameters needs the mapping.
        """
        seconds = deadline(timeout, self.timeout)
        request = wire.predict_request(
            model or self.model,
            wire.merge_inputs(inputs, named),
            version,
            label,
            signature,
            outputs=outputs,
        )
        return wire.prediction(self._call(self._predict, request, seconds), self.target)

    def classify(
        self,
        features: wire.Inputs | None = None,
        *,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = "classify",
        timeout: float | None = None,
        **named: ArrayLike,
    ) -> Classification:
        """Classify examples: row i of every feature array is example i."""
        seconds = deadline(timeout, self.timeout)
        request = wire.classification_request(
            model or self.model, wire.merge_inputs(features, named), version, label, signature
        )
        return wire.classification(self._call(self._classify, request, seconds), self.target)

    def models(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> list[VersionStatus]:
        """The versions of a model and their states, newest first."""
        seconds = deadline(timeout, self.timeout)
        request = wire.status_request(model or self.model, version)
        return wire.statuses(self._call(self._status, request, seconds))

    def metadata(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """The signatures of the newest available version, or of the one selected."""
        seconds = deadline(timeout, self.timeout)
        request = wire.metadata_request(model or self.model, version, label)
        return wire.metadata(self._call(self._metadata, request, seconds), self.target)

    def reload(
        self, config: messages.ModelServerConfig | str, *, timeout: float | None = None
    ) -> None:
        """Replace the server's whole model config, given as a message or in text format.

        The server answers when every new model is available. Never retried.
        """
        seconds = deadline(timeout, self.timeout)
        response = self._call(self._reload, wire.reload_request(config), seconds)
        wire.check_reload(response, self.target)

    def _call(self, method: Any, request: Any, seconds: float) -> Any:
        try:
            return method(request, timeout=seconds, metadata=self._headers)
        except grpc.RpcError as error:
            raise errors.from_grpc(error, self.target) from error

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
