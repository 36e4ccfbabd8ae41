"""The way to the server: nobody there, silence, retries, TLS. Real sockets, real servers."""

import contextlib
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.client import (
    INPUT,
    OUTPUT,
    TLS,
    AsyncRestClient,
    Client,
    DeadlineExceeded,
    Internal,
    NotFound,
    RestClient,
    Unavailable,
)
from serving.client.channel import MESH_OPTIONS
from serving.protocol import messages, services
from tests.support.ports import free_port
from tests.support.servers import ModelServer
from tests.support.skips import require_tool
from tests.unit.client.conftest import Caller
from tests.unit.client.sockets import listener, predictor


def http(body, status="200 OK"):
    def answer(connection):
        connection.recv(65536)
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    return answer


async def test_nobody_there(kind):
    target = f"127.0.0.1:{free_port()}"
    client = Caller(kind(target, timeout=10))
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await client.models()
    assert time.monotonic() - started < 8
    assert caught.value.target == target
    assert target in caught.value.message
    assert f"Is a server running at {target}?" in caught.value.remedy
    await client.close()


async def test_unknown_host(kind):
    client = Caller(kind("no-such-host.invalid:8500", timeout=10))
    with pytest.raises(Unavailable) as caught:
        await client.models()
    assert "Check the host name" in caught.value.remedy
    await client.close()


async def test_silence_ends_at_the_deadline(kind):
    with listener(lambda _: None) as target:
        client = Caller(kind(target, timeout=60))
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"DEADLINE_EXCEEDED") as caught:
            await client.models(timeout=0.4)
        assert 0.3 < time.monotonic() - started < 3
        assert target in caught.value.remedy
        await client.close()


@pytest.mark.parametrize("kind", [RestClient, AsyncRestClient])
async def test_a_deadline_bounds_the_whole_rest_call_not_each_read(kind):

    def drip(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b" ")
                time.sleep(0.05)

    with listener(drip) as target:
        client = Caller(kind(target, timeout=0.5))
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.models()
        assert time.monotonic() - started < 3
        await client.close()


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"<html>no model here</html>", "200 OK", Internal),
        (b'{"strange": 1}', "200 OK", Internal),
        (b"[]", "200 OK", Internal),
        (b"upstream connect error", "503 Service Unavailable", Unavailable),
    ],
)
def test_an_answer_that_is_not_tensorflow_servings(body, status, error):
    with listener(http(body, status)) as target, RestClient(target, timeout=5) as client:
        with pytest.raises(error) as caught:
            client.models()
        assert caught.value.remedy


def test_grpc_on_a_rest_port_says_so():
    page = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"
    with (
        listener(lambda c: (c.recv(100), c.sendall(page))) as target,
        Client(target, timeout=5) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.models()
    assert "--rest" in caught.value.remedy


@contextlib.contextmanager
def flaky(failures):
    """A gRPC server that answers UNAVAILABLE so many times per method, and counts its calls."""
    calls = {"Predict": 0, "GetModelStatus": 0, "HandleReloadConfigRequest": 0}

    def handler(name, request, response):
        def serve(_, context):
            calls[name] += 1
            if calls[name] <= failures:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
            return response()

        return grpc.unary_unary_rpc_method_handler(
            serve, request.FromString, response.SerializeToString
        )

    server = grpc.server(ThreadPoolExecutor(2))
    for service, methods in (
        (services.PredictionService_NAME, services.PredictionService_METHODS),
        (services.ModelService_NAME, services.ModelService_METHODS),
    ):
        handlers = {name: handler(name, *methods[name]) for name in methods if name in calls}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", calls
    finally:
        server.stop(0)


def test_what_changes_nothing_is_tried_again():
    with flaky(2) as (target, calls), Client(target, timeout=20) as client:
        client.predict(x=[1.0])
        client.models()
    assert calls["Predict"] == 3
    assert calls["GetModelStatus"] == 3


def test_a_reload_is_never_tried_again():
    refused = pytest.raises(Unavailable, match="not yet")
    with flaky(2) as (target, calls), Client(target, timeout=20) as client, refused:
        client.reload("")
    assert calls["HandleReloadConfigRequest"] == 1


def test_retries_can_be_left_to_a_mesh():
    refused = pytest.raises(Unavailable, match="not yet")
    with flaky(2) as (target, calls), Client(target, timeout=20, retries=False) as client, refused:
        client.predict(x=[1.0])
    assert calls["Predict"] == 1


def test_retries_end():
    refused = pytest.raises(Unavailable, match="not yet")
    with flaky(100) as (target, calls), Client(target, timeout=20) as client, refused:
        client.predict(x=[1.0])
    assert calls["Predict"] == 4


def test_answers_larger_than_grpcs_default_limit():
    rows = 3_000_000  # 12 MB of float32; the default limit of a channel is 4 MB

    def serve(_, __):
        response = messages.PredictResponse()
        output = response.outputs["y"]
        output.dtype = messages.DT_FLOAT
        output.tensor_shape.dim.add().size = rows
        output.tensor_content = bytes(4 * rows)
        return response

    with predictor(serve) as target, Client(target, timeout=20) as client:
        assert client.predict(x=[1.0])["y"].shape == (rows,)


def test_headers_go_with_every_call():
    seen = []

    def answer(connection):
        seen.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    with (
        listener(answer) as target,
        RestClient(target, timeout=5, headers={"x-route": "canary"}) as client,
        pytest.raises(NotFound),
    ):
        client.models()
    assert b"x-route: canary" in seen[0].lower()


def test_a_peer_that_stands_still_is_noticed_before_the_deadline(model_server):
    """The options that bound it, a tenth as long: 1 s of silence, 0.8 s without an answer."""
    quick = [
        (name, value // 10)
        for name, value in MESH_OPTIONS
        if "keepalive_t" in name or "ping" in name
    ]
    assert len(quick) == 3
    with Client(model_server.grpc, timeout=20, options=quick, retries=False) as client:
        client.models()
        os.kill(model_server.process.pid, signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(Unavailable, match="ping"):
                client.models()
        finally:
            os.kill(model_server.process.pid, signal.SIGCONT)
        assert time.monotonic() - started < 8
        assert client.models()[0].available


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A CA, a server's and a client's certificate, made by openssl."""
    openssl = require_tool("openssl")
    folder = tmp_path_factory.mktemp("tls")

    def run(*words):
        subprocess.run([openssl, *words], check=True, capture_output=True, cwd=folder)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run(
        "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
        "-subj", "/CN=test authority",
    )  # fmt: skip
    for name in ("server", "client"):
        run(
            "req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr",
            "-subj", f"/CN={name}.test",
        )  # fmt: skip
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name}.test\n")
        run(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
    return folder


def test_tls_both_ways(authority, chopstick_models, tmp_path):
    def pem(name):
        return (authority / name).read_text()

    config = messages.SSLConfig(
        server_key=pem("server.key"),
        server_cert=pem("server.pem"),
        custom_ca=pem("ca.pem"),
        client_verify=True,
    )
    file = tmp_path / "ssl.txt"
    file.write_text(str(config))
    identity = {"certificate": authority / "client.pem", "key": authority / "client.key"}
    server = ModelServer(
        tmp_path, chopstick_models, f"--ssl_config_file={file}", rest=False, wait=False
    )
    with server:
        good = TLS(ca=authority / "ca.pem", server_name="server.test", **identity)
        with Client(server.grpc, timeout=20, tls=good) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    answer = client.predict({INPUT: [[240.0]]})
                    break
                except Unavailable:
                    assert server.process.poll() is None, server.output()
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            assert answer[OUTPUT].shape == (1, 3)
        for bad in (
            None,
            TLS(ca=authority / "ca.pem", server_name="server.test"),
            TLS(ca=authority / "ca.pem", **identity),
            TLS(server_name="server.test", **identity),
        ):
            with Client(server.grpc, timeout=10, tls=bad) as client:
                with pytest.raises((Unavailable, DeadlineExceeded)) as caught:
                    client.models()
                assert caught.value.remedy
