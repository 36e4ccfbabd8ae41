"""The REST API over a core of NumPy, in-process and over sockets; then over the real server."""

import asyncio
import contextlib
import errno
import gzip
import json
import socket
import threading
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.protocol import messages, tensors
from serving.protocol.status import (
    Code,
    ServingError,
    deadline_exceeded,
    internal,
    invalid_argument,
    not_found,
)
from serving.server import http, json_tensor, rest
from serving.server.metrics import ServerMetrics
from tests.support.servers import ModelServer

GOLDEN = Path(__file__).parent / "golden"
METRICS = "/monitoring/prometheus/metrics"
NAME = "half_plus_two"
ERRORS = {code.name: code for code in Code if code is not Code.OK}


class HalfPlusTwo:
    """ServerCore's interface over y = x/2 + 2, version 123, label `stable`.

    `plain`: answer from array to array where that is asked for.
    """

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain
        self.metrics = ServerMetrics()
        self.seen: list[messages.PredictRequest] = []
        self.timeouts: list[float | None] = []
        self.wait: asyncio.Event | None = None
        self.running = asyncio.Event()
        definition = messages.SignatureDef(method_name="tensorflow/serving/predict")
        self._describe(definition.inputs["x"], "x:0")
        self._describe(definition.outputs["y"], "y:0")
        self.definitions = {"serving_default": definition}

    @staticmethod
    def _describe(info: messages.TensorInfo, name: str) -> None:
        info.name = name
        info.dtype = messages.DT_FLOAT
        for size in (-1, 1):
            info.tensor_shape.dim.add().size = size

    def signatures(self, spec):
        self._find(spec)
        return self.definitions

    def _find(self, spec):
        if spec.version_label not in ("", "stable"):
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        version = spec.version.value if spec.HasField("version") else None
        if spec.name in ERRORS:
            raise ServingError(ERRORS[spec.name], "asked for")
        if spec.name != NAME or version not in (None, 123):
            which = (
                f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            )
            raise not_found(f"Servable not found for request: {which}")

    async def predict(self, request, *, timeout):
        self._find(request.model_spec)
        self.seen.append(request)
        self.timeouts.append(timeout)
        if self.wait is not None:
            self.running.set()
            try:
                await asyncio.wait_for(self.wait.wait(), timeout)
            except TimeoutError:
                raise deadline_exceeded("Timed out waiting for notification") from None
        response = messages.PredictResponse()
        x = tensors.to_array(request.inputs["x"])
        if x.size and x.flat[0] == 13:
            raise RuntimeError("a bug")
        tensors.fill_proto(response.outputs["y"], x / 2 + 2)
        return response

    async def predict_plain(self, spec, fill, *, timeout):
        self._find(spec)
        array = fill(messages.DT_FLOAT) if self.plain else None
        if array is None:
            return None
        request = messages.PredictRequest(model_spec=spec)
        tensors.fill_proto(request.inputs["x"], array)
        response = await self.predict(request, timeout=timeout)
        return tensors.to_array(response.outputs["y"])

    async def classify(self, request, *, timeout):
        self._find(request.model_spec)
        response = messages.ClassificationResponse()
        for example in request.input.example_list.examples:
            x = example.features.feature["x"].float_list.value[0]
            response.result.classifications.add().classes.add(label="", score=x / 2 + 2)
        return response

    async def regress(self, request, *, timeout):
        self._find(request.model_spec)
        response = messages.RegressionResponse()
        for example in request.input.example_list.examples:
            x = example.features.feature["x"].float_list.value[0]
            response.result.regressions.add(value=x / 2 + 2)
        return response

    def get_model_status(self, request):
        spec = request.model_spec
        if spec.name != NAME:
            raise not_found(f"Could not find any versions of model {spec.name}")
        response = messages.GetModelStatusResponse()
        status = response.model_version_status.add(version=123, state=30)
        status.status.SetInParent()
        return response

    def get_model_metadata(self, request):
        self._find(request.model_spec)
        if request.model_spec.version_label:
            raise internal("no labels here")
        response = messages.GetModelMetadataResponse()
        response.model_spec.name = NAME
        response.model_spec.version.value = 123
        definitions = messages.SignatureDefMap()
        for name, definition in self.definitions.items():
            definitions.signature_def[name].CopyFrom(definition)
        response.metadata["signature_def"].Pack(definitions)
        return response


@pytest.fixture(params=[False, True], ids=["exact", "plain"])
def core(request):
    return HalfPlusTwo(plain=request.param)


def client_of(core, **options):
    app = rest.build_app(core, timeout=options.pop("timeout", 30.0), **options)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


@pytest.fixture
async def client(core):
    async with client_of(core, monitoring_path=METRICS) as client:
        yield client


def error_of(response):
    """The message of an error whose body has TFS's layout."""
    message = response.json()["error"]
    assert response.text == f'{{\n    "error": {json.dumps(message, ensure_ascii=False)}\n}}'
    return message


ONE = {"instances": [1.0, 2.0, 5.0]}


async def test_predict_by_row_and_by_column(client, core):
    response = await client.post(f"/v1/models/{NAME}:predict", json=ONE)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
    response = await client.post(f"/v1/models/{NAME}:predict", json={"inputs": [1, 2, 5]})
    assert response.json() == {"outputs": [2.5, 3.0, 4.5]}
    assert core.timeouts == [30.0, 30.0]


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/models/{NAME}/versions/123:predict",
        f"/v1/models/{NAME}/versions/000123:predict",
        f"/v1/models/{NAME}/labels/stable:predict",
        f"/V1/Models/{NAME}/VERSIONS/123:predict",
        "/v1/models/half%5Fplus_two:predict",
        f"/v1/models/{NAME}/labels/%73table:predict",
    ],
)
async def test_paths_that_reach_the_model(client, path):
    response = await client.post(path, json=ONE)
    assert response.json() == {"predictions": [2.5, 3.0, 4.5]}


async def test_spec_and_signature_reach_the_core(client, core):
    core.definitions["other"] = core.definitions["serving_default"]
    body = {"signature_name": "other", **ONE}
    await client.post(f"/v1/models/{NAME}/versions/123:predict", json=body)
    await client.post(f"/v1/models/{NAME}/labels/stable:predict", json=ONE)
    first, second = (request.model_spec for request in core.seen)
    assert (first.name, first.version.value, first.signature_name) == (NAME, 123, "other")
    assert (second.version_label, second.signature_name) == ("stable", "")
    response = await client.post(
        f"/v1/models/{NAME}:predict", json={"signature_name": "third", **ONE}
    )
    assert response.status_code == 400
    assert error_of(response) == 'Serving signature name: "third" not found in signature def'


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/foo"),
        ("POST", "/v1/foo"),
        ("GET", "/v1/"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/debug/model_name"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/foo:predict"),
        ("POST", "/v1/models/foo/version/50:predict"),
        ("POST", "/v1/models/foo/versions/HELLO:regress"),
        ("POST", "/v1/models/foo/metadata"),
        ("POST", "/v1/models/foo/label/some_label:regress"),
        ("POST", "/v1/models/foo/versions/50/labels/some_label:regress"),
        ("POST", f"/v1/models/{NAME}:PREDICT"),
        ("POST", f"/v1/models/{NAME}:predict/"),
        ("PUT", f"/v1/models/{NAME}:predict"),
        ("DELETE", f"/v1/models/{NAME}"),
        ("PATCH", f"/v1/models/{NAME}"),
    ],
)
async def test_malformed_paths_in_tfs_words(client, core, method, path):
    response = await client.request(method, path, content=b"{}")
    assert response.status_code == 400
    assert error_of(response) == f"Malformed request: {method} {path}"


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models", "/v1models", METRICS + "/x"])
async def test_outside_of_v1_is_libevents_404(core, path):
    async with client_of(core) as client:
        response = await client.get(path)
    assert response.status_code == 404
    assert response.text == (
        "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n"
        "</BODY></HTML>\n"
    )
    assert core.metrics.request_count.is_empty()


async def test_method_that_libevent_does_not_know(client):
    assert (await client.request("BREW", f"/v1/models/{NAME}")).status_code == 501


async def test_query_string_belongs_to_the_name(client):
    response = await client.get(f"/v1/models/{NAME}?verbose=1")
    assert response.status_code == 404
    assert error_of(response) == f"Could not find any versions of model {NAME}?verbose=1"


async def test_reserved_characters_in_a_name(client):
    name = "modelname!#$%&'()*+,/:;=?@[]"
    quoted = "modelname%21%23%24%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40%5B%5D"
    response = await client.get(f"/v1/models/{quoted}")
    assert error_of(response) == f"Could not find any versions of model {name}"
    response = await client.get("/v1/models/%ff")
    assert error_of(response) == "Could not find any versions of model \ufffd"


async def test_version_that_is_no_int64_gets_an_empty_400(client, core):
    for version in (2**63, "9" * 5000):
        response = await client.post(f"/v1/models/{NAME}/versions/{version}:predict", json=ONE)
        assert (response.status_code, response.content) == (400, b"")
        assert response.headers["content-type"] == "application/json"
    assert core.metrics.request_count.value((NAME, "INVALID_ARGUMENT")) == 2
    response = await client.post(f"/v1/models/{NAME}/versions/{2**63 - 1}:predict", json=ONE)
    assert response.status_code == 404


async def test_unknown_model_version_and_label(client):
    cases = {
        "nope:predict": (404, "Servable not found for request: Latest(nope)"),
        f"{NAME}/versions/7:predict": (
            404,
            f"Servable not found for request: Specific({NAME}, 7)",
        ),
        f"{NAME}/labels/nope:predict": (400, "Unrecognized servable version label: nope"),
    }
    for path, expected in cases.items():
        response = await client.post(f"/v1/models/{path}", json=ONE)
        assert (response.status_code, error_of(response)) == expected


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (Code.CANCELLED, 499),
        (Code.UNKNOWN, 500),
        (Code.INVALID_ARGUMENT, 400),
        (Code.DEADLINE_EXCEEDED, 504),
        (Code.NOT_FOUND, 404),
        (Code.ALREADY_EXISTS, 409),
        (Code.PERMISSION_DENIED, 403),
        (Code.RESOURCE_EXHAUSTED, 429),
        (Code.FAILED_PRECONDITION, 400),
        (Code.ABORTED, 409),
        (Code.OUT_OF_RANGE, 400),
        (Code.UNIMPLEMENTED, 501),
        (Code.INTERNAL, 500),
        (Code.UNAVAILABLE, 503),
        (Code.DATA_LOSS, 500),
        (Code.UNAUTHENTICATED, 401),
    ],
)
async def test_codes_over_http(client, core, code, status):
    response = await client.post(f"/v1/models/{code.name}:predict", json=ONE)
    assert (response.status_code, error_of(response)) == (status, "asked for")
    assert core.metrics.request_count.value((code.name, code.name)) == 1


async def test_bug_in_the_server_is_an_answer_too(client, core):
    response = await client.post(f"/v1/models/{NAME}:predict", json={"instances": [13]})
    assert (response.status_code, error_of(response)) == (500, "RuntimeError: a bug")
    assert core.metrics.request_count.value((NAME, "INTERNAL")) == 1


async def test_classify_and_regress(client):
    body = {"examples": [{"x": 20.0}]}
    response = await client.post(f"/v1/models/{NAME}:classify", json=body)
    assert response.json() == {"results": [[["", 12.0]]]}
    response = await client.post(f"/v1/models/{NAME}:regress", json=body)
    assert response.json() == {"results": [12.0]}
    response = await client.post(f"/v1/models/{NAME}:regress", json={})
    assert response.status_code == 400


async def test_status_and_metadata_text(client):
    status = await client.get(f"/v1/models/{NAME}")
    assert status.text == (GOLDEN / "status.json").read_text()
    assert (await client.get(f"/v1/models/{NAME}/versions/123")).text == status.text
    metadata = await client.get(f"/v1/models/{NAME}/metadata")
    assert metadata.text == (GOLDEN / "metadata.json").read_text()
    assert metadata.headers["content-type"] == "application/json"
    # Only in lower case; else it is a status.
    assert (await client.get(f"/v1/models/{NAME}/METADATA")).text == status.text
    assert (await client.get("/v1/models/nope/metadata")).status_code == 404


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/versions/1", "/v1/models/labels/x"])
async def test_missing_name(client, path):
    response = await client.get(path)
    assert response.status_code == 400
    assert error_of(response) == "Missing model name in request."


async def test_what_is_counted(client, core):
    await client.post(f"/v1/models/{NAME}:predict", json=ONE)
    await client.post(f"/v1/models/{NAME}:predict", json={})
    await client.get(f"/v1/models/{NAME}")
    await client.get("/v1/foo")
    await client.get(METRICS)
    count, latency = core.metrics.request_count, core.metrics.request_latency
    assert count.value((NAME, "OK")) == 2
    assert count.value((NAME, "INVALID_ARGUMENT")) == 1
    assert count.value(("", "INVALID_ARGUMENT")) == 1
    assert latency.count((NAME, "predict", "REST")) == 1
    assert latency.count((NAME, "", "REST")) == 1
    page = (await client.get(METRICS)).text
    assert f':tensorflow:serving:request_count{{model_name="{NAME}",status="OK"}} 2\n' in page


async def test_metrics_page(client, core):
    response = await client.get(METRICS)
    assert response.headers["content-type"] == "text/plain"
    assert response.text == core.metrics.render()
    response = await client.get(METRICS + "?x=1")
    assert response.status_code == 400
    assert response.text == f"Unexpected path: {METRICS}?x=1. Should be {METRICS}"


async def test_cors(core, client):
    preflight = {"Origin": "https://example.org"}
    response = await client.options(f"/v1/models/{NAME}", headers=preflight)
    assert (response.status_code, response.content) == (200, b"")
    assert "access-control-allow-origin" not in response.headers
    response = await client.options(f"/v1/models/{NAME}")
    assert (response.status_code, response.content) == (400, b"")
    assert core.metrics.request_count.value(("", "FAILED_PRECONDITION")) == 1
    async with client_of(core, cors=True) as open_client:
        for response in (
            await open_client.options(f"/v1/models/{NAME}", headers=preflight),
            await open_client.get(f"/v1/models/{NAME}"),
            await open_client.get("/v1/models/nope"),
        ):
            assert response.headers["access-control-allow-origin"] == "*"
            assert response.headers["access-control-allow-methods"] == "POST, GET"
            assert response.headers["access-control-allow-headers"] == "Content-Type"


async def test_compressed_body(client, monkeypatch):
    packed = gzip.compress(json.dumps(ONE).encode())
    path, headers = f"/v1/models/{NAME}:predict", {"Content-Encoding": "gzip"}
    response = await client.post(path, content=packed, headers=headers)
    assert response.json() == {"predictions": [2.5, 3.0, 4.5]}
    monkeypatch.setattr(rest, "MAX_UNCOMPRESSED", 1000)
    bomb = gzip.compress(b'{"instances": [' + b"0," * 50_000 + b"0]}")
    for body in (packed[:-9], b"no gzip", zlib.compress(b"{}"), bomb):
        response = await client.post(path, content=body, headers=headers)
        assert response.status_code == 400
        assert error_of(response) == "JSON Parse error: The document is empty"


async def test_timeout(core):
    core.wait = asyncio.Event()
    async with client_of(core, timeout=0.01) as client:
        response = await client.post(f"/v1/models/{NAME}:predict", json=ONE)
    assert (response.status_code, error_of(response)) == (
        504,
        "Timed out waiting for notification",
    )
    core.wait.set()
    async with client_of(core, timeout=0) as client:
        await client.post(f"/v1/models/{NAME}:predict", json=ONE)
    assert core.timeouts[-1] is None


async def test_large_bodies_leave_the_loop_to_others(client, monkeypatch):
    threads = []
    for place, name in (
        (rest, "Document"),
        (json_tensor, "fill_predict"),
        (json_tensor, "predict_body"),
    ):
        real = getattr(place, name)

        def noted(*arguments, real=real):
            threads.append(threading.current_thread() is threading.main_thread())
            return real(*arguments)

        monkeypatch.setattr(place, name, noted)
    rows = [[index / 7] * 8 for index in range(5_000)]
    response = await client.post(f"/v1/models/{NAME}:predict", json={"instances": rows})
    expected = np.array(rows, np.float32) / 2 + 2
    np.testing.assert_array_equal(np.array(response.json()["predictions"], np.float32), expected)
    assert threads == [False, False, False]
    await client.post(f"/v1/models/{NAME}:predict", json={"inputs": [1.0]})
    assert threads[3:] == [True, True, True]


@pytest.mark.parametrize(("count", "in_loop"), [(16_384, True), (16_385, False)])
async def test_large_replies_leave_the_loop_to_others(monkeypatch, count, in_loop):
    threads = []
    real = json_tensor.float_rows_body

    def noted(array):
        threads.append(threading.current_thread() is threading.main_thread())
        return real(array)

    monkeypatch.setattr(json_tensor, "float_rows_body", noted)
    async with client_of(HalfPlusTwo(plain=True)) as client:
        response = await client.post(
            f"/v1/models/{NAME}:predict", json={"instances": [1.0] * count}
        )
    assert response.json() == {"predictions": [2.5] * count}
    assert threads == [in_loop]


# Over sockets.


@contextlib.asynccontextmanager
async def served(core, **options):
    app = rest.build_app(core, timeout=30.0, monitoring_path=METRICS, **options)
    server = await rest.serve_rest(app, "127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.stop(0.1)


async def exchange(port, data, *, until_closed=True):
    """What the server sends for the bytes; waits for the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            if until_closed:
                return await asyncio.wait_for(reader.read(), 10)
            return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        return b""
    finally:
        writer.close()


async def has_no_connections(server):
    state = server._server.server_state
    async with asyncio.timeout(20):
        while state.connections or state.tasks:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)


async def refuses(port):
    # Refused, or taken by the kernel just before the end.
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await asyncio.sleep(0.01)


def post(body, *headers, path=f"/v1/models/{NAME}:predict"):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def test_requests_over_a_socket(core):
    async with served(core) as server, httpx.AsyncClient() as client:
        base = f"http://127.0.0.1:{server.port}"
        response = await client.post(f"{base}/v1/models/{NAME}:predict", json=ONE)
        assert response.json() == {"predictions": [2.5, 3.0, 4.5]}
        assert "server" not in response.headers
        assert "date" in response.headers
        response = await client.head(f"{base}/v1/models/{NAME}")
        assert (response.status_code, response.content) == (400, b"")
        # The path as it came: nothing is resolved, nothing decoded twice.
        raw = await exchange(
            server.port, b"GET /v1/models/a%252Fb HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        assert b"Could not find any versions of model a%2Fb" in raw
        raw = await exchange(
            server.port, b"GET /v1/models/../../etc/passwd HTTP/1.1\r\nConnection: close\r\n\r\n"
        )
        assert b"Malformed request: GET /v1/models/../../etc/passwd" in raw
        raw = await exchange(server.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 404 Not Found\r\n")


async def test_pipelined_and_chunked_requests(core):
    body = json.dumps(ONE).encode()
    chunked = (
        f"POST /v1/models/{NAME}:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    for at in range(0, len(body), 7):
        piece = body[at : at + 7]
        chunked += b"%x\r\n%s\r\n" % (len(piece), piece)
    async with served(core) as server:
        raw = await exchange(server.port, post(body) * 3 + chunked + b"0\r\n\r\n")
    assert raw.count(b"HTTP/1.1 200 OK") == 4


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 64,
        b"GET http:// HTTP/1.1\r\n\r\n",
        b"GET /v1/models/\xff\xfe HTTP/1.1\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\n\r\n",
        b"POST /v1/models/x:predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/models/x:predict HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked"
        b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nX: " + b"y" * (http.HEAD_BYTES + 1) + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n" + b"X: y\r\n" * http.HEAD_BYTES + b"\r\n",
        b"GET /v1/models/" + b"y" * (http.HEAD_BYTES + 1) + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_nonsense_ends_the_connection_and_not_the_server(core, data):
    async with served(core) as server:
        raw = await exchange(server.port, data)
        assert raw == b"" or raw[9:12] in {b"400", b"404", b"431", b"501"}
        raw = await exchange(server.port, post(b'{"instances": [1]}', "Connection: close"))
        assert raw.startswith(b"HTTP/1.1 200 OK")


async def test_head_without_an_end_is_cut(core):
    async with served(core) as server:
        data = b"GET /v1/models HTTP/1.1\r\nX: " + b"y" * (8 * http.HEAD_BYTES)
        assert b"200" not in await exchange(server.port, data)


async def test_body_beyond_the_limit_is_cut(core, monkeypatch):
    monkeypatch.setattr(http, "BODY_BYTES", 1000)
    async with served(core) as server:
        raw = await exchange(server.port, post(b" " * 2000))
        assert b"200" not in raw[:20]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /v1/models",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n",
        post(b"x" * 100)[:-50],
        post(b"", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"") + b"5\r\nab",
    ],
)
async def test_slow_clients_are_cut(core, monkeypatch, data):
    monkeypatch.setattr(http, "IDLE_SECONDS", 0)
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.0)
    monkeypatch.setattr(http, "BODY_SECONDS", 0.0)
    async with served(core) as server:
        assert await exchange(server.port, data) == b""


async def test_client_that_does_not_read_is_cut(core, monkeypatch):
    monkeypatch.setattr(http, "IDLE_SECONDS", 0)
    body = json.dumps({"instances": [[0.333] * 100] * 5_000}).encode()
    async with served(core) as server:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", server.port))
        await loop.sock_sendall(client, post(body))
        await has_no_connections(server)
        client.close()


async def test_client_that_hangs_up_leaves_nothing_behind(core):
    core.wait = asyncio.Event()
    async with served(core) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b'{"instances": [1]}'))
        await core.running.wait()
        writer.transport.abort()
        core.wait.set()
        await has_no_connections(server)
        assert core.metrics.request_count.value((NAME, "OK")) == 1


async def test_stop_waits_for_what_is_in_flight(core):
    core.wait = asyncio.Event()
    app = rest.build_app(core, timeout=30.0)
    server = await rest.serve_rest(app, "127.0.0.1", 0)
    request = asyncio.ensure_future(exchange(server.port, post(b'{"instances": [1]}')))
    await core.running.wait()
    stopping = asyncio.ensure_future(server.stop(10))
    await refuses(server.port)
    assert not stopping.done()
    core.wait.set()
    assert (await request).startswith(b"HTTP/1.1 200 OK")
    await stopping


async def test_stop_has_an_end(core):
    core.wait = asyncio.Event()
    server = await rest.serve_rest(rest.build_app(core, timeout=30.0), "127.0.0.1", 0)
    request = asyncio.ensure_future(exchange(server.port, post(b'{"instances": [1]}')))
    await core.running.wait()
    async with asyncio.timeout(5):
        await server.stop(0.05)
    assert b"200 OK" not in await request


async def test_signal_handlers_are_left_alone(core):
    import signal

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with served(core):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_bind_takes_both_families_or_falls_back(monkeypatch):
    with http.bind("0.0.0.0", 0) as bound:
        if bound.family == socket.AF_INET6:
            assert not bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        bound.listen()
        with socket.create_connection(("127.0.0.1", bound.getsockname()[1])):
            pass
        with pytest.raises(OSError, match="in use"):
            http.bind("0.0.0.0", bound.getsockname()[1])
    bind = http._bind

    def without_ipv6(family, host, port):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no IPv6")
        return bind(family, host, port)

    monkeypatch.setattr(http, "_bind", without_ipv6)
    with http.bind("::", 0) as bound:
        assert bound.family == socket.AF_INET


# Over the real server.


def test_the_real_server(model_server: ModelServer):
    base = f"http://{model_server.rest}"
    path = f"{base}/v1/models/chopstick"
    with httpx.Client(timeout=30) as client:
        response = client.post(f"{path}:predict", json={"instances": [[180.0], [240.0], [330.0]]})
        rows = np.array(response.json()["predictions"])
        assert rows.shape == (3, 3)
        np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-5)
        columns = client.post(
            f"{path}:predict", json={"inputs": {"chopstick_length": [[180], [240], [330]]}}
        )
        assert columns.json()["outputs"] == response.json()["predictions"]
        classes = client.post(
            f"{path}:classify",
            json={"signature_name": "classify", "examples": [{"chopstick_length": 240.0}]},
        )
        assert [label for label, _ in classes.json()["results"][0]] == ["low", "medium", "high"]
        status = client.get(path).json()["model_version_status"]
        assert status[0]["state"] == "AVAILABLE"
        metadata = client.get(f"{path}/metadata").json()
        assert "serving_default" in metadata["metadata"]["signature_def"]["signature_def"]
        response = client.post(f"{path}:predict", json={"instances": [["a"]]})
        assert response.status_code == 400
        assert "is not of expected type: float" in error_of(response)
        response = client.post(f"{base}/v1/models/nope:predict", json={"instances": [[1]]})
        assert (response.status_code, error_of(response)) == (
            404,
            "Servable not found for request: Latest(nope)",
        )
        page = client.get(f"{base}{METRICS}").text
        assert (
            ':tensorflow:serving:request_latency_count{model_name="chopstick",API="predict"' in page
        )
