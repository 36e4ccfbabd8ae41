"""TensorFlow Serving's REST API as an ASGI application.

Paths, methods, bodies, codes and what is counted follow model_servers/http_rest_api_handler.cc,
http_rest_api_util.cc and http_server.cc, oddities included: a query string belongs to the model's
name, `:PREDICT` is malformed although the rest of the path may be in any case, and a version that
is no int64 gets an empty 400.

A plain ASGI callable: routing is two regular expressions, and a framework's routing, request and
response objects would cost more than all of it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from google.protobuf import json_format
from numpy.typing import NDArray

from serving.protocol import messages, tensors
from serving.protocol.status import (
    Code,
    ServingError,
    http_status,
    internal,
    invalid_argument,
)
from serving.server import http, json_tensor, memory, plain_rows
from serving.server.json_tensor import Document, Format
from serving.server.logs import log
from serving.server.metrics import CONTENT_TYPE, ServerMetrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = http.ASGIApp
Headers = list[tuple[bytes, bytes]]

# Bodies above this are parsed, and replies of more values than that are written, in a worker
# thread: a megabyte of JSON takes some 20 ms to parse, and 16,384 floats one to write.
LARGE_BODY = 64 << 10
LARGE_REPLY = 16_384

# tensorflow_serving/util/net_http/compression/gzip_zlib.h, kMaxUncompressedBytes.
MAX_UNCOMPRESSED = 100 << 20

_PREDICTION = re.compile(
    r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?:(classify|regress|predict)",
    re.IGNORECASE | re.ASCII,
)
_STATUS = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(?:/(metadata))?",
    re.IGNORECASE | re.ASCII,
)
_ORIGIN = re.compile(rb"https?://")

# libevent answers any other method with 501 before TFS sees it.
_METHODS = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))

_JSON: Headers = [(b"content-type", b"application/json")]
_CORS: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]


class Core(Protocol):
    """What of ServerCore the REST API calls."""

    metrics: ServerMetrics

    async def predict(
        self, request: messages.PredictRequest, *, timeout: float | None
    ) -> messages.PredictResponse:
        """Answer a Predict; raises ServingError."""
        ...

    async def predict_plain(
        self,
        spec: messages.ModelSpec,
        fill: plain_rows.Fill,
        *,
        timeout: float | None,
    ) -> NDArray[Any] | None:
        """Answer a Predict from array to array, or None; raises ServingError."""
        ...

    async def classify(
        self, request: messages.ClassificationRequest, *, timeout: float | None
    ) -> messages.ClassificationResponse:
        """Answer a Classify; raises ServingError."""
        ...

    async def regress(
        self, request: messages.RegressionRequest, *, timeout: float | None
    ) -> messages.RegressionResponse:
        """Answer a Regress; raises ServingError."""
        ...

    def get_model_metadata(
        self, request: messages.GetModelMetadataRequest
    ) -> messages.GetModelMetadataResponse:
        """Answer a GetModelMetadata; raises ServingError."""
        ...

    def get_model_status(
        self, request: messages.GetModelStatusRequest
    ) -> messages.GetModelStatusResponse:
        """Answer a GetModelStatus; raises ServingError."""
        ...

    def signatures(self, spec: messages.ModelSpec) -> Mapping[str, messages.SignatureDef]:
        """The signatures of the servable that the spec asks for; raises ServingError."""
        ...


def build_app(
    core: Core, *, timeout: float, cors: bool = False, monitoring_path: str | None = None
) -> ASGIApp:
    """The REST API of `core` as an ASGI application.

    `timeout`: seconds for each inference; 0 or less is none. `cors`: add the CORS headers to every
    reply. `monitoring_path`: where the metrics page is; None is nowhere.
    """
    return _App(core, timeout if timeout > 0 else None, cors=cors, monitoring_path=monitoring_path)


async def serve_rest(app: ASGIApp, host: str, port: int) -> http.HttpServer:
    """Serve the application on the running loop, until `stop(grace)`; raises OSError."""
    return await http.serve(app, host, port)


class _Empty(Exception):  # noqa: N818
    """An error whose reply has no body: TFS returns before it writes one."""

    def __init__(self, error: ServingError) -> None:
        super().__init__(error.message)
        self.error = error


class _Counted:
    """What a request is counted under."""

    __slots__ = ("api", "model")

    def __init__(self) -> None:
        self.model = ""
        self.api = ""


class _Target(NamedTuple):
    """What a path asks for."""

    spec: messages.ModelSpec
    model: str
    api: str


class _App:
    def __init__(
        self, core: Core, timeout: float | None, *, cors: bool, monitoring_path: str | None
    ) -> None:
        self._core = core
        self._timeout = timeout
        self._headers = _JSON + _CORS if cors else _JSON
        self._options_headers: Headers = _CORS if cors else []
        self._monitoring_path = monitoring_path
        # In lower case only: the path's words are matched in any case, these are not.
        self._answers = {
            "predict": self._predict,
            "classify": self._classify,
            "regress": self._regress,
        }
        # The first paths asked for, taken apart; the specs are only read.
        self._targets: dict[str, _Target] = {}
        # A signature's input dtypes by the definition's identity; holding the definition keeps
        # the identity its own.
        self._inputs: dict[int, tuple[messages.SignatureDef, dict[str, int]]] = {}
        # JSON is many times larger once it is parsed: one of the largest bodies at a time.
        self._huge = asyncio.Semaphore(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method: str = scope["method"]
        path = scope["raw_path"].decode("utf-8", "replace")
        query: bytes = scope["query_string"]
        if method not in _METHODS:
            await _send_page(send, 501, "Not Implemented")
            return
        if path == self._monitoring_path:
            await self._metrics_page(path, query, send)
            return
        if query:
            path = f"{path}?{query.decode('utf-8', 'replace')}"
        if path[:4].lower() != "/v1/" or "\n" in path:
            await _send_page(send, 404, "Not Found")
            return
        body = await _read_body(scope, receive)
        if body is None:
            return
        if len(body) <= memory.LARGE_BYTES:
            await self._api(method, path, body, scope, send)
            return
        async with self._huge:
            await self._api(method, path, body, scope, send)
        del body
        memory.release_soon()

    async def _metrics_page(self, path: str, query: bytes, send: Send) -> None:
        headers: Headers = [(b"content-type", CONTENT_TYPE.encode())]
        if query:
            full = f"{path}?{query.decode('utf-8', 'replace')}"
            text = f"Unexpected path: {full}. Should be {path}"
            await _send(send, 400, headers, text.encode())
            return
        page = self._core.metrics.registry.render()
        await _send(send, 200, headers, page.encode("utf-8", "replace"))

    async def _api(self, method: str, path: str, body: bytes, scope: Scope, send: Send) -> None:
        started = time.perf_counter()
        counted = _Counted()
        headers = self._headers
        code = Code.OK
        reply = b""
        try:
            if method == "POST":
                reply = await self._post(path, body, counted)
            elif method == "GET":
                reply = self._get(path, counted)
            elif method == "OPTIONS":
                headers = self._options_headers
                if not _ORIGIN.search(_header(scope, b"origin")):
                    code = Code.FAILED_PRECONDITION
            else:
                raise _malformed(method, path)
        except ServingError as error:
            code = error.code
            reply = json_tensor.error_body(error.message)
        except _Empty as empty:
            code = empty.error.code
        except Exception as error:
            # A public port answers whatever happens; the log has the rest.
            log.exception("REST request failed", path=path[:200])
            code = Code.INTERNAL
            reply = json_tensor.error_body(f"{type(error).__name__}: {error}"[:1024])
        metrics = self._core.metrics
        if code is Code.OK:
            elapsed = int((time.perf_counter() - started) * 1e6)
            metrics.request_latency.observe((counted.model, counted.api, "REST"), elapsed)
            metrics.request_count.add((counted.model, "OK"))
        else:
            metrics.request_count.add((counted.model, code.name))
        await _send(send, http_status(code), headers, reply)

    # Inference.

    async def _post(self, path: str, body: bytes, counted: _Counted) -> bytes:
        target = self._targets.get(path)
        if target is None:
            found = _PREDICTION.fullmatch(path)
            if found is None:
                raise _malformed("POST", path)
            name, version, label, counted.api = found.groups()
            spec = messages.ModelSpec()
            _fill_spec(spec, name, version, label, counted)
            if counted.api not in self._answers:
                raise _malformed("POST", path)
            target = _Target(spec, counted.model, counted.api)
            if len(self._targets) < 256 and len(path) < 256:
                self._targets[path] = target
        counted.model, counted.api = target.model, target.api
        return await self._answers[target.api](target.spec, body)

    async def _predict(self, spec: messages.ModelSpec, body: bytes) -> bytes:
        fill = plain_rows.read(body)
        if fill is not None:
            output = await self._core.predict_plain(spec, fill, timeout=self._timeout)
            if output is not None:
                if not output.size or not output.ndim:
                    return json_tensor.predict_body({"": tensors.to_proto(output)}, Format.ROW)
                if output.size > LARGE_REPLY:
                    return await asyncio.to_thread(json_tensor.float_rows_body, output)
                return json_tensor.float_rows_body(output)
        return await self._predict_exactly(spec, body)

    async def _predict_exactly(self, spec: messages.ModelSpec, body: bytes) -> bytes:
        request = messages.PredictRequest()
        target = request.model_spec
        target.CopyFrom(spec)
        layout: Format
        if len(body) > LARGE_BODY:
            document = await asyncio.to_thread(Document, body)
        else:
            document = Document(body)
        signature = json_tensor.clean(document.signature_name())
        inputs = self._signature_inputs(target, signature)
        target.signature_name = signature
        if len(body) > LARGE_BODY:
            layout = await asyncio.to_thread(json_tensor.fill_predict, request, document, inputs)
        else:
            layout = json_tensor.fill_predict(request, document, inputs)
        del document
        response = await self._core.predict(request, timeout=self._timeout)
        outputs = response.outputs
        if response.ByteSize() > LARGE_REPLY * 4:
            return await asyncio.to_thread(json_tensor.predict_body, outputs, layout)
        return json_tensor.predict_body(outputs, layout)

    def _signature_inputs(self, spec: messages.ModelSpec, signature: str) -> Mapping[str, int]:
        signatures = self._core.signatures(spec)
        name = signature or "serving_default"
        definition = signatures.get(name)
        if definition is None:
            raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
        known = self._inputs.get(id(definition))
        if known is not None and known[0] is definition:
            return known[1]
        inputs = {alias: info.dtype for alias, info in definition.inputs.items()}
        if len(self._inputs) >= 256:
            self._inputs.clear()
        self._inputs[id(definition)] = (definition, inputs)
        return inputs

    async def _classify(self, spec: messages.ModelSpec, body: bytes) -> bytes:
        request = messages.ClassificationRequest(model_spec=spec)
        await _fill_examples(request, body)
        response = await self._core.classify(request, timeout=self._timeout)
        return json_tensor.classification_body(response.result)

    async def _regress(self, spec: messages.ModelSpec, body: bytes) -> bytes:
        request = messages.RegressionRequest(model_spec=spec)
        await _fill_examples(request, body)
        response = await self._core.regress(request, timeout=self._timeout)
        return json_tensor.regression_body(response.result)

    # Status and metadata.

    def _get(self, path: str, counted: _Counted) -> bytes:
        found = _STATUS.fullmatch(path)
        if found is None:
            raise _malformed("GET", path)
        name, version, label, subresource = found.groups()
        spec = messages.ModelSpec()
        _fill_spec(spec, name or "", version, label, counted)
        if not name:
            raise invalid_argument("Missing model name in request.")
        if subresource == "metadata":
            request = messages.GetModelMetadataRequest(
                model_spec=spec, metadata_field=["signature_def"]
            )
            return metadata_body(self._core.get_model_metadata(request))
        status = self._core.get_model_status(messages.GetModelStatusRequest(model_spec=spec))
        return json_text(status, proto_names=False).encode()


async def _fill_examples(
    request: messages.ClassificationRequest | messages.RegressionRequest, body: bytes
) -> None:
    def fill() -> None:
        json_tensor.fill_examples(request, Document(body))

    if len(body) > LARGE_BODY:
        await asyncio.to_thread(fill)
    else:
        fill()


def _fill_spec(
    spec: messages.ModelSpec,
    name: str,
    version: str | None,
    label: str | None,
    counted: _Counted,
) -> None:
    counted.model = spec.name = _unquote(name)
    if version is not None:
        # Nineteen digits are the most that an int64 has; int() is slow for very many.
        number = int(version) if len(version.lstrip("0")) < 20 else 2**63
        if number >= 2**63:
            raise _Empty(invalid_argument(f"Failed to convert version: {version} to numeric."))
        spec.version.value = number
    if label is not None:
        spec.version_label = _unquote(label)


def _unquote(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "replace") if "%" in text else text


def _malformed(method: str, path: str) -> ServingError:
    return invalid_argument(f"Malformed request: {method} {path}")


# Protobuf's JSON.


def json_text(message: Any, *, proto_names: bool) -> str:
    """The message as the C++ JSON printer has it, whitespace and empty fields included.

    Fields in order of their numbers, one space per level, a newline at the end. `proto_names`:
    field names as in the proto, not camel case (or the proto's own json_name).
    """
    members = json_format.MessageToDict(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=proto_names,
    )
    ordered = _by_number(message.DESCRIPTOR, members, proto_names=proto_names)
    text = json.dumps(ordered, indent=1, ensure_ascii=False)
    # Neither character can stand outside a string.
    return text.replace("<", "\\u003c").replace(">", "\\u003e") + "\n"


def _by_number(descriptor: Any, members: Any, *, proto_names: bool) -> Any:
    if not isinstance(members, dict):
        # A well-known type, such as the Int64Value of a version.
        return members
    ordered: dict[str, Any] = {}
    for field in sorted(descriptor.fields, key=lambda field: field.number):
        name = field.name if proto_names else field.json_name
        if name not in members:
            continue
        value = members[name]
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            inner = kind.fields_by_name["value"].message_type
            # In C++ a map comes in no order.
            value = {
                key: _by_number(inner, item, proto_names=proto_names) if inner else item
                for key, item in sorted(value.items())
            }
        elif kind is not None and isinstance(value, list):
            value = [_by_number(kind, item, proto_names=proto_names) for item in value]
        elif kind is not None:
            value = _by_number(kind, value, proto_names=proto_names)
        ordered[name] = value
    return ordered


def metadata_body(response: messages.GetModelMetadataResponse) -> bytes:
    """The reply to /metadata; raises ServingError (INTERNAL) without a signature_def."""
    if "signature_def" not in response.metadata:
        raise internal(
            "Failed to find 'signature_def' key in the GetModelMetadataResponse metadata map."
        )
    definitions = messages.SignatureDefMap()
    if not response.metadata["signature_def"].Unpack(definitions):
        raise internal("Failed to unpack 'Any' object to 'SignatureDefMap'.")
    spec = json_text(response.model_spec, proto_names=True)
    signatures = json_text(definitions, proto_names=True)
    # Glued together as in TFS, blank for blank.
    return (
        f'{{\n"model_spec":{spec},\n"metadata": {{"signature_def": {signatures}}}\n}}\n'
    ).encode()


# HTTP.


def _header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


async def _read_body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body, uncompressed; b"" for one that does not uncompress, as in TFS.

    None when the client left before its request was whole.
    """
    message = await receive()
    if message["type"] == "http.disconnect":
        return None
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        chunks = [body]
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
        body = b"".join(chunks)
    if body and b"gzip" in _header(scope, b"content-encoding"):
        if len(body) > LARGE_BODY // 16:
            return await asyncio.to_thread(_gunzip, body)
        return _gunzip(body)
    return body


def _gunzip(body: bytes) -> bytes:
    unzip = zlib.decompressobj(wbits=31)
    try:
        plain = unzip.decompress(body, MAX_UNCOMPRESSED)
    except zlib.error:
        return b""
    return plain if unzip.eof else b""


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", b"%d" % len(body))],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _send_page(send: Send, status: int, phrase: str) -> None:
    """What libevent's evhttp_send_error sends."""
    page = (
        f"<HTML><HEAD>\n<TITLE>{status} {phrase}</TITLE>\n</HEAD><BODY>\n"
        f"<H1>{phrase}</H1>\n</BODY></HTML>\n"
    )
    headers: Headers = [(b"content-type", b"text/html"), (b"connection", b"close")]
    await _send(send, status, headers, page.encode())
