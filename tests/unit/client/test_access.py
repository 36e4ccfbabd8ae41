"""Keys, addresses beside names, and what to try: through a real gateway with TLS."""

import socket

import numpy as np
import pytest

from serving.client import (
    INPUT,
    OUTPUT,
    TLS,
    AsyncRestClient,
    Client,
    InvalidRequest,
    PermissionDenied,
    RequestError,
    ResourceExhausted,
    RestClient,
    Unauthenticated,
    Unavailable,
    Unknown,
    errors,
)
from serving.client.access import API_KEY_HEADER, call_headers, is_loopback
from serving.load import InThread, LoadConfig
from tests.support.certificates import Authority
from tests.support.ingress import DOMAIN, KEY, REFUSED_KEY, Ingress
from tests.unit.client.conftest import Caller
from tests.unit.client.sockets import listener, predictor


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ingress(authority, model_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ingress")
    with Ingress(folder, authority, model_server.grpc, model_server.rest) as ingress:
        yield ingress


@pytest.fixture
def through(kind, ingress, authority):
    """Makes a client of any kind that comes through the ingress."""

    def client(host=None, port=443, **changes):
        host = host or ("api" if kind in (RestClient, AsyncRestClient) else "grpc")
        settings = {
            "timeout": 20,
            "tls": TLS(ca=authority.ca),
            "api_key": KEY,
            "connect_to": ingress.address,
            **changes,
        }
        return Caller(kind(f"{host}.{DOMAIN}:{port}", **settings))

    return client


async def test_every_call_that_the_routes_let_through(through):
    client = through()
    assert (await client.predict({INPUT: [[240.0]]}))[OUTPUT].shape == (1, 3)
    assert (await client.classify({INPUT: [[240.0]]})).labels.shape == (1, 3)
    assert (await client.models())[0].available
    assert "serving_default" in (await client.metadata()).signatures
    await client.close()


async def test_names_stay_whatever_is_dialled(through):
    """The gateway answers by SNI and by Host, so that an answer says that both were the target's."""
    for port in (443, 8443):
        client = through(port=port)
        assert (await client.models())[0].available
        await client.close()
    client = through("elsewhere")
    with pytest.raises(Unavailable):
        await client.models()
    await client.close()


async def test_no_key_and_a_wrong_one(through):
    for key in (None, "wrong"):
        client = through(api_key=key)
        with pytest.raises(Unauthenticated) as caught:
            await client.models()
        assert "--api-key" in caught.value.remedy
        assert "wrong" not in str(caught.value)
        await client.close()


async def test_a_key_that_may_not(through):
    client = through(api_key=REFUSED_KEY)
    with pytest.raises(PermissionDenied) as caught:
        await client.models()
    assert "service account" in caught.value.remedy
    await client.close()


async def test_an_authority_that_nobody_named(through, tmp_path):
    # By the same name and another key, by another name, and none of the system's.
    for name in ("test authority", "another authority", None):
        ca = Authority(tmp_path / name, name).ca if name else None
        client = through(tls=TLS(ca=ca))
        with pytest.raises(Unavailable, match=r"(?i)certificate") as caught:
            await client.models()
        assert "--ca FILE" in caught.value.remedy
        await client.close()


async def test_a_certificate_for_another_name(kind, authority, model_server, tmp_path):
    """The same gateway by a name that it answers to, with a certificate that lacks it."""
    other = Authority(tmp_path / "authority")
    sign = other.sign
    other.sign = lambda *_: sign("other.test")
    with Ingress(tmp_path, other, model_server.grpc, model_server.rest) as ingress:
        client = Caller(
            kind(f"grpc.{DOMAIN}:443", timeout=20, tls=TLS(ca=other.ca), connect_to=ingress.address)
        )
        with pytest.raises(Unavailable) as caught:
            await client.models()
        assert "another name" in caught.value.remedy
        assert "--connect-to" in caught.value.remedy
        await client.close()


async def test_plain_text_to_a_port_with_tls(through):
    client = through(tls=None, api_key=None)
    with pytest.raises(Unavailable) as caught:
        await client.models()
    assert "TLS" in caught.value.remedy
    await client.close()


async def test_what_no_route_lets_through(through):
    client = through("grpc" if through().rest else "api")
    with pytest.raises((errors.NotFound, errors.Unimplemented)) as caught:
        await client.models()
    assert "no route for this host or call" in caught.value.remedy
    await client.close()


async def test_a_request_that_the_gateway_finds_too_large(through):
    client = through()
    # Envoy tells by the second piece of a body, and a frame of HTTP/2 holds 16 KiB.
    rows = np.linspace(180, 330, 20_000, dtype=np.float32).reshape(-1, 1)
    with pytest.raises((ResourceExhausted, Unknown), match="Payload Too Large") as caught:
        await client.predict({INPUT: rows})
    assert "fewer rows" in caught.value.remedy
    await client.close()


async def test_a_rate_limit(kind, authority, model_server, tmp_path):
    with Ingress(tmp_path, authority, model_server.grpc, model_server.rest) as ingress:
        client = Caller(
            kind(
                f"limited.{DOMAIN}:443", timeout=20, tls=TLS(ca=authority.ca), api_key=KEY,
                connect_to=ingress.address,
            )
        )  # fmt: skip
        await client.models()
        with pytest.raises((ResourceExhausted, Unavailable)) as caught:
            await client.models()
        assert "rate limit" in caught.value.remedy
        await client.close()


@pytest.mark.parametrize("rest", [False, True])
def test_a_load_through_the_gateway(ingress, authority, rest):
    host = "api" if rest else "grpc"
    config = LoadConfig(
        f"{host}.{DOMAIN}:443", rate=100, count=50, connections=2, rest=rest,
        tls=TLS(ca=authority.ca), api_key=KEY, connect_to=ingress.address,
    )  # fmt: skip
    with InThread(config) as load:
        pass
    assert (load.result.ok, load.result.failed) == (50, 0)
    assert KEY not in repr(config)
    assert KEY not in str(load.result.to_json())
    with InThread(LoadConfig(config.target, 100, count=5, rest=rest, tls=config.tls,
                             connect_to=ingress.address)) as load:  # fmt: skip
        pass
    assert load.result.codes == {"UNAUTHENTICATED": 5}


@pytest.mark.parametrize("rest", [False, True])
def test_a_load_keeps_a_key_from_the_wire_too(rest):
    config = LoadConfig("192.0.2.1:8500", rate=1, count=1, rest=rest, api_key=KEY)
    with pytest.raises(InvalidRequest, match="without TLS"), InThread(config):
        pass


def test_the_authority_without_tls():
    """Behind a proxy of one's own, names matter in plain text, too."""
    seen = []

    def predict(request, context):
        seen.append(context._rpc_event.call_details.host.decode())
        raise AssertionError

    with (
        predictor(predict) as address,
        Client("grpc.test:80", timeout=5, connect_to=address, retries=False) as client,
        pytest.raises(RequestError),
    ):
        client.predict({INPUT: [[240.0]]})
    assert seen == ["grpc.test:80"]


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("api.test:80", "api.test"),
        ("api.test:8501", "api.test:8501"),
        ("http://api.test/prefix", "api.test"),
    ],
)
def test_the_host_of_rest_without_tls(target, host):
    seen = []

    def answer(connection: socket.socket):
        seen.append(connection.recv(65536).decode())
        connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    with (
        listener(answer) as address,
        RestClient(target, timeout=5, connect_to=address, headers={"X-One": "1"}) as client,
        pytest.raises(errors.NotFound),
    ):
        client.models()
    lines = seen[0].lower().splitlines()
    assert [line for line in lines if line.startswith("host:")] == [f"host: {host}"]
    assert "x-one: 1" in lines
    prefix = "/prefix" if "prefix" in target else ""
    assert lines[0] == f"get {prefix}/v1/models/chopstick http/1.1"


async def test_a_key_needs_tls_unless_it_stays_here(kind):
    for target in ("192.0.2.1:8500", "models.test:8500"):
        with pytest.raises(InvalidRequest, match="without TLS") as caught:
            kind(target, api_key=KEY)
        assert "--tls" in caught.value.remedy
        assert KEY not in str(caught.value)
        await Caller(kind(target, api_key=KEY, tls=TLS())).close()
        await Caller(kind(target, api_key=KEY, connect_to="127.0.0.1:8500")).close()
    with pytest.raises(InvalidRequest, match="without TLS"):
        kind("127.0.0.1:8500", api_key=KEY, connect_to="192.0.2.1:8500")
    await Caller(kind("127.0.0.1:8500", api_key=KEY)).close()


def test_a_url_says_whether_there_is_tls():
    RestClient("https://api.test", api_key=KEY).close()
    RestClient("http://[::1]:8501", api_key=KEY).close()
    with pytest.raises(InvalidRequest, match="without TLS"):
        RestClient("http://api.test", api_key=KEY)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/tmp/socket", True),
        ("dns:///localhost:1", True),
        ("localhost.test:1", False),
        ("127.0.0.1.test:1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("dns:///models:1", False),
    ],
)
def test_what_stays_on_this_machine(address, here):
    assert is_loopback(address) is here


@pytest.mark.parametrize("key", ["", "two words", "line\n", "clé", "a\x00b"])
def test_keys_that_no_header_carries(key):
    with pytest.raises(InvalidRequest, match="can't carry") as caught:
        call_headers(None, key, dialled="127.0.0.1:1", encrypted=True)
    assert not key or key not in str(caught.value)


def test_a_key_is_given_once():
    with pytest.raises(InvalidRequest, match="both api_key and a header x-api-key"):
        call_headers({"X-API-Key": "a"}, "b", dialled="127.0.0.1:1", encrypted=True)
    sent = call_headers({"X-Other": "a"}, "b", dialled="127.0.0.1:1", encrypted=True)
    assert sent == {"x-other": "a", API_KEY_HEADER: "b"}


def test_addresses_that_are_none(kind):
    with pytest.raises(InvalidRequest, match="not HOST:PORT"):
        kind("models.test:1", connect_to="http://127.0.0.1:1")
    with pytest.raises(InvalidRequest, match=r"server_name=other\.test"):
        kind("models.test:1", connect_to="127.0.0.1:1", tls=TLS(server_name="other.test"))
    with pytest.raises(InvalidRequest, match="has no name"):
        Client("unix:/tmp/socket", connect_to="127.0.0.1:1")
