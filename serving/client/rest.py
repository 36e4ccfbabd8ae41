"""The REST clients: the same calls over TensorFlow Serving's HTTP API.

JSON carries neither dtype nor the name of a single output, so the first predict of a model asks
/metadata once and remembers the signature until a call fails; a caller whose signatures differ
between versions names the version. There is no reload over REST, and no retry: gRPC's service
config does that. A deadline bounds the whole call, from name resolution to the last byte.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from serving.client import errors, wire
from serving.client.channel import TLS, check_timeout, deadline
from serving.client.errors import InvalidRequest, RequestError
from serving.client.http import reach
from serving.client.results import (
    Classification,
    ModelMetadata,
    Prediction,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving.protocol import messages, tensors
from serving.protocol.status import Code

DEFAULT_SIGNATURE = "serving_default"


class _Request(NamedTuple):
    method: str
    path: str
    body: bytes | None


def model_path(model: str, version: int | None = None, label: str | None = None) -> str:
    """The path of a model, of one of its versions or of a label."""
    # The same checks as for gRPC, before anything is put into a URL.
    wire.set_spec(messages.ModelSpec(), model, version, label, None)
    path = f"/v1/models/{quote(model, safe='')}"
    if version is not None:
        return f"{path}/versions/{int(version)}"
    return path if label is None else f"{path}/labels/{quote(label, safe='')}"


def to_json(array: NDArray[Any], name: str) -> Any:
    """An array as nested lists; bytes as TFS's {"b64": ...}. Complex numbers have no JSON."""
    if array.dtype.kind == "c":
        raise InvalidRequest(f"input '{name}' is complex, which JSON cannot carry", "Use gRPC.")
    if array.dtype.kind in "SUO":
        return _strings(array.tolist())
    return array.tolist()


def _strings(value: Any) -> Any:
    if isinstance(value, list):
        return [_strings(item) for item in value]
    raw = value.encode() if isinstance(value, str) else bytes(value)
    return {"b64": base64.b64encode(raw).decode()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return str(value).encode()


def from_json(value: Any, spec: TensorSpec) -> NDArray[Any]:
    """Nested lists as an array of the signature's dtype; strings as bytes, as over gRPC."""
    dtype = tensors.DTYPES[messages.DataType.Value(f"DT_{spec.dtype.upper()}")]
    if dtype == np.dtype(object):
        value = _plain(value)
    return np.array(value, dtype=dtype)


class _Codec:
    """Calls as HTTP requests and answers as results; no connection."""

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
    ) -> None:
        self.target = target
        self.model = model
        self.timeout = check_timeout(timeout)
        self._signatures: dict[tuple[Any, ...], Signature] = {}
        to = reach(target, tls=tls, headers=headers, api_key=api_key, connect_to=connect_to)
        self._extensions = to.extensions
        self._settings: dict[str, Any] = {
            "base_url": to.url,
            "headers": to.headers,
            "verify": to.verify,
            # A proxy named by the environment is for the way out, not for a model next door.
            "trust_env": False,
        }

    def _predict_request(
        self,
        inputs: wire.Inputs,
        model: str,
        version: int | None,
        label: str | None,
        signature: str | None,
    ) -> _Request:
        body: dict[str, Any] = {
            "inputs": {
                name: to_json(wire.as_array(value, name), name) for name, value in inputs.items()
            }
        }
        if signature is not None:
            body["signature_name"] = signature
        return self._post(f"{model_path(model, version, label)}:predict", body)

    def _classify_request(
        self,
        features: wire.Inputs,
        model: str,
        version: int | None,
        label: str | None,
        signature: str | None,
    ) -> _Request:
        examples = [
            {
                name: [_strings(v) if isinstance(v, bytes | str) else v for v in values]
                for name, values in row.items()
            }
            for row in wire.example_rows(features)
        ]
        body: dict[str, Any] = {"examples": examples}
        if signature is not None:
            body["signature_name"] = signature
        return self._post(f"{model_path(model, version, label)}:classify", body)

    @staticmethod
    def _post(path: str, body: dict[str, Any]) -> _Request:
        try:
            return _Request("POST", path, json.dumps(body).encode())
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"the request has no JSON: {error}", "Use gRPC.") from None

    def _prediction(
        self,
        answer: Any,
        signature: Signature,
        outputs: Sequence[str],
        version: int | None,
        name: str,
    ) -> Prediction:
        wanted = (outputs,) if isinstance(outputs, str) else outputs
        for output in wanted:
            if output not in signature.outputs:
                # The words of TFS's gRPC; its REST API has no output filter.
                known = ", ".join(sorted(signature.outputs))
                raise errors.from_code(
                    Code.INVALID_ARGUMENT,
                    f"output tensor alias not found in signature: {output} "
                    f"Outputs expected to be in the set {{{known}}}.",
                    self.target,
                )
        try:
            values = answer["outputs"]
            if len(signature.outputs) == 1:
                values = {next(iter(signature.outputs)): values}
            arrays = {
                key: from_json(value, signature.outputs[key])
                for key, value in values.items()
                if not wanted or key in wanted
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense(error) from error
        return Prediction(arrays, version, name)

    def _classification(self, answer: Any, version: int | None, name: str) -> Classification:
        try:
            rows = [[(str(k), float(v)) for k, v in row] for row in answer["results"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._nonsense(error) from error
        return wire.classification_of(rows, version, name, self.target)

    def _statuses(self, answer: Any) -> list[VersionStatus]:
        try:
            found = [
                VersionStatus(
                    int(item["version"]),
                    str(item["state"]),
                    Code[item.get("status", {}).get("error_code", "OK")],
                    str(item.get("status", {}).get("error_message", "")),
                )
                for item in answer["model_version_status"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense(error) from error
        return sorted(found, key=lambda status: -status.version)

    def _model_metadata(self, answer: Any) -> ModelMetadata:
        try:
            spec = answer["model_spec"]
            found = answer["metadata"]["signature_def"]["signature_def"]
            return ModelMetadata(
                str(spec["name"]),
                int(spec["version"]),
                {
                    name: Signature(
                        _tensor_specs(item.get("inputs", {})),
                        _tensor_specs(item.get("outputs", {})),
                        str(item.get("method_name", "")),
                    )
                    for name, item in sorted(found.items())
                    if name != "__saved_model_init_op"
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense(error) from error

    def _find(self, found: ModelMetadata, name: str) -> Signature:
        try:
            return found.signatures[name]
        except KeyError:
            raise errors.from_code(
                Code.INVALID_ARGUMENT,
                f'Serving signature name: "{name}" not found in signature def',
                self.target,
            ) from None

    def _nonsense(self, error: Exception) -> RequestError:
        return errors.from_code(
            Code.INTERNAL, f"the answer is not TensorFlow Serving's ({error!r})", self.target
        )

    def _read(self, status: int, body: bytes) -> Any:
        """The JSON of an answer; raises the error that it stands for."""
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if 200 <= status < 300 and answer is not None:
            return answer
        # A failed call may mean that another version, with another signature, answers by now.
        self._signatures.clear()
        if isinstance(answer, dict) and "error" in answer:
            detail = str(answer["error"])
        else:
            detail = f"HTTP {status} {body[:200].decode(errors='replace').strip()}".strip()
        if 200 <= status < 300:
            raise errors.from_code(Code.INTERNAL, f"the answer is not JSON: {detail}", self.target)
        raise errors.from_http(status, detail, self.target)

    def _transport_error(self, error: Exception, seconds: float) -> RequestError:
        if isinstance(error, httpx.TimeoutException | TimeoutError):
            return errors.from_code(
                Code.DEADLINE_EXCEEDED, f"no answer within {seconds:g} s", self.target
            )
        detail = str(error) or type(error).__name__
        return errors.from_code(Code.UNAVAILABLE, detail, self.target)

    def _no_reload(self) -> RequestError:
        return errors.Unimplemented(
            "TensorFlow Serving has no reload over REST",
            target=self.target,
            remedy="Use the gRPC client, or the server's --model_config_file_poll_wait_seconds.",
        )


def _tensor_specs(items: Mapping[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, info in sorted(items.items()):
        shape = info.get("tensor_shape", {})
        specs[name] = TensorSpec(
            str(info["dtype"]).removeprefix("DT_").lower(),
            None
            if shape.get("unknown_rank")
            else tuple(int(dim["size"]) for dim in shape.get("dim", [])),
        )
    return specs


class _Remaining(dict[str, float]):
    """Timeouts that shrink: what is left of one deadline, whichever phase asks.

    httpx bounds each phase of a call by itself, so that connecting, sending and reading could
    together take three times the deadline.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(connect=seconds, read=seconds, write=seconds, pool=seconds)
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.001, self.end - time.monotonic())

    def get(self, key: str, default: Any = None) -> Any:
        return self.left() if key in self else default


class RestClient(_Codec):
    """A model server's REST port; safe to share between threads.

    `target` is HOST:PORT or a URL; the other arguments are those of `Client`, without channel
    options and retries, which are gRPC's. Calls raise `RequestError`.
    """

    def __init__(self, target: str, **settings: Any) -> None:
        super().__init__(target, **settings)
        self._http = httpx.Client(**self._settings)

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
        """As `Client.predict`; the server converts numbers to the signature's dtype."""
        limit = _Remaining(deadline(timeout, self.timeout))
        asked = model or self.model
        request = self._predict_request(
            wire.merge_inputs(inputs, named), asked, version, label, signature
        )
        name = signature or DEFAULT_SIGNATURE
        key = (asked, version, label, name)
        known = self._signatures.get(key)
        if known is None:
            path = f"{model_path(asked, version, label)}/metadata"
            answer = self._call(_Request("GET", path, None), limit)
            known = self._find(self._model_metadata(answer), name)
            self._signatures[key] = known
        return self._prediction(self._call(request, limit), known, outputs, version, name)

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
        """As `Client.classify`."""
        limit = _Remaining(deadline(timeout, self.timeout))
        request = self._classify_request(
            wire.merge_inputs(features, named), model or self.model, version, label, signature
        )
        return self._classification(
            self._call(request, limit), version, signature or DEFAULT_SIGNATURE
        )

    def models(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> list[VersionStatus]:
        """As `Client.models`."""
        limit = _Remaining(deadline(timeout, self.timeout))
        path = model_path(model or self.model, version)
        return self._statuses(self._call(_Request("GET", path, None), limit))

    def metadata(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """As `Client.metadata`."""
        limit = _Remaining(deadline(timeout, self.timeout))
        path = f"{model_path(model or self.model, version, label)}/metadata"
        return self._model_metadata(self._call(_Request("GET", path, None), limit))

    def reload(
        self, config: messages.ModelServerConfig | str, *, timeout: float | None = None
    ) -> None:
        """Raise Unimplemented: TensorFlow Serving has no reload over REST."""
        deadline(timeout, self.timeout)
        wire.reload_request(config)
        raise self._no_reload()

    def _call(self, request: _Request, limit: _Remaining) -> Any:
        seconds = limit["read"]
        try:
            built = self._http.build_request(
                request.method,
                request.path,
                content=request.body,
                headers={"content-type": "application/json"} if request.body else None,
                extensions={**self._extensions, "timeout": limit},
            )
            response = self._http.send(built, stream=True)
            body = bytearray()
            try:
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() > limit.end:
                        raise TimeoutError
            finally:
                response.close()
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._transport_error(error, seconds) from error
        return self._read(response.status_code, bytes(body))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncRestClient(_Codec):
    """A model server's REST port for asyncio; the arguments are those of `RestClient`."""

    def __init__(self, target: str, **settings: Any) -> None:
        super().__init__(target, **settings)
        self._http = httpx.AsyncClient(**self._settings, timeout=None)  # noqa: S113 - _call has one

    async def predict(
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
        """As `Client.predict`; the server converts numbers to the signature's dtype."""
        limit = _Remaining(deadline(timeout, self.timeout))
        asked = model or self.model
        request = self._predict_request(
            wire.merge_inputs(inputs, named), asked, version, label, signature
        )
        name = signature or DEFAULT_SIGNATURE
        key = (asked, version, label, name)
        known = self._signatures.get(key)
        if known is None:
            path = f"{model_path(asked, version, label)}/metadata"
            answer = await self._call(_Request("GET", path, None), limit)
            known = self._find(self._model_metadata(answer), name)
            self._signatures[key] = known
        return self._prediction(await self._call(request, limit), known, outputs, version, name)

    async def classify(
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
        """As `Client.classify`."""
        limit = _Remaining(deadline(timeout, self.timeout))
        request = self._classify_request(
            wire.merge_inputs(features, named), model or self.model, version, label, signature
        )
        return self._classification(
            await self._call(request, limit), version, signature or DEFAULT_SIGNATURE
        )

    async def models(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        timeout: float | None = None,
    ) -> list[VersionStatus]:
        """As `Client.models`."""
        limit = _Remaining(deadline(timeout, self.timeout))
        path = model_path(model or self.model, version)
        return self._statuses(await self._call(_Request("GET", path, None), limit))

    async def metadata(
        self,
        model: str | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> ModelMetadata:
        """As `Client.metadata`."""
        limit = _Remaining(deadline(timeout, self.timeout))
        path = f"{model_path(model or self.model, version, label)}/metadata"
        return self._model_metadata(await self._call(_Request("GET", path, None), limit))

    async def reload(
        self,
        config: messages.ModelServerConfig | str,
        *,
        timeout: float | None = None,
    ) -> None:
        """Raise Unimplemented: TensorFlow Serving has no reload over REST."""
        deadline(timeout, self.timeout)
        wire.reload_request(config)
        raise self._no_reload()

    async def _call(self, request: _Request, limit: _Remaining) -> Any:
        seconds = limit["read"]
        try:
            async with asyncio.timeout(limit.left()):
                response = await self._http.request(
                    request.method,
                    request.path,
                    content=request.body,
                    headers={"content-type": "application/json"} if request.body else None,
                    extensions=self._extensions,
                )
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise self._transport_error(error, seconds) from error
        return self._read(response.status_code, response.content)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
