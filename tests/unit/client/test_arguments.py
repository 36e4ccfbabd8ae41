"""What the client refuses or settles before anything is sent."""

import inspect
import json
import math

import numpy as np
import pytest

from serving.client import (
    TLS,
    AsyncClient,
    AsyncRestClient,
    Client,
    InvalidRequest,
    MissingDeadline,
    RequestError,
    RestClient,
    errors,
    wire,
)
from serving.client.channel import MESH_OPTIONS, channel_options, check_target, service_config
from serving.client.http import base_url
from serving.client.rest import model_path
from serving.errors import ChopstickError
from serving.protocol import messages
from serving.protocol.status import Code

NOBODY = "127.0.0.1:1"
CALLS = ("predict", "classify", "models", "metadata", "reload")


@pytest.mark.parametrize("call", CALLS)
def test_the_four_clients_share_names_and_parameters(call):
    first = inspect.signature(getattr(Client, call))
    for other in (AsyncClient, RestClient, AsyncRestClient):
        method = getattr(other, call)
        assert inspect.signature(method) == first, other
        assert inspect.iscoroutinefunction(method) == other.__name__.startswith("Async")


@pytest.mark.parametrize("kind", [Client, RestClient])
@pytest.mark.parametrize(
    "call", [("predict", {"x": [1.0]}), ("classify", {"x": [1.0]}), ("models",), ("metadata",)]
)
def test_a_call_without_deadline_is_refused(kind, call):
    name, *arguments = call
    with kind(NOBODY) as client, pytest.raises(MissingDeadline, match="no deadline") as caught:
        getattr(client, name)(*arguments)
    assert "timeout=SECONDS" in caught.value.remedy
    assert isinstance(caught.value, ChopstickError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, "5"])
def test_a_deadline_that_is_none_is_refused(timeout):
    with pytest.raises(InvalidRequest, match="positive number of seconds"):
        Client(NOBODY, timeout=timeout)
    with Client(NOBODY) as client, pytest.raises(InvalidRequest, match="positive number"):
        client.models(timeout=timeout)


@pytest.mark.parametrize("kind", [Client, RestClient])
def test_version_and_label_exclude_each_other(kind):
    with kind(NOBODY, timeout=1) as client, pytest.raises(InvalidRequest, match="version 1 and"):
        client.predict({"x": [1.0]}, version=1, label="stable")


@pytest.mark.parametrize("version", ["newest", 2**63, 1.5])
def test_a_version_is_a_64_bit_number(version):
    with Client(NOBODY, timeout=1) as client, pytest.raises(InvalidRequest, match="not a version"):
        client.predict({"x": [1.0]}, version=version)


def test_a_bare_array_has_no_input_name():
    with Client(NOBODY, timeout=1) as client, pytest.raises(InvalidRequest, match="not a mapping"):
        client.predict(np.ones((1, 1)))


def test_a_ragged_list_is_no_array():
    with Client(NOBODY, timeout=1) as client, pytest.raises(InvalidRequest, match="input 'x'"):
        client.predict(x=[[1.0], [1.0, 2.0]])


def test_a_dtype_that_tensorflow_lacks():
    with Client(NOBODY, timeout=1) as client, pytest.raises(InvalidRequest, match="datetime64"):
        client.predict(x=np.array(["2026-01-01"], "datetime64[D]"))


def test_complex_numbers_have_no_json():
    with RestClient(NOBODY, timeout=1) as client, pytest.raises(InvalidRequest, match="complex"):
        client.predict(x=np.array([1j]))


@pytest.mark.parametrize("features", [{}, {"a": [1.0], "b": [1.0, 2.0]}, {"a": 1.0}, {"a": [1j]}])
def test_features_need_as_many_rows_each(features):
    with Client(NOBODY, timeout=1) as client, pytest.raises(InvalidRequest):
        client.classify(features)


def test_a_reload_config_must_parse():
    with Client(NOBODY, timeout=1) as client, pytest.raises(InvalidRequest, match="text format"):
        client.reload("model_config_list { name }")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([[240.0]], np.float32),
        (240.0, np.float32),
        ([1, 2], np.int32),
        ([2**40], np.int64),
        (True, np.bool_),
        (np.array([1.0]), np.float64),
        (np.float64(1), np.float64),
        (np.int64(1), np.int64),
    ],
)
def test_python_numbers_become_what_tensorflow_makes_of_them(value, dtype):
    assert wire.as_array(value, "x").dtype == dtype


@pytest.mark.parametrize("target", ["localhost:8500", "[::1]:8500", "dns:///a.b:1", "unix:/tmp/s"])
def test_targets(target):
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target", ["", "localhost", "http://localhost:8500", "a b:1", ":8500", "h:0", "h:65536", "h:x"]
)
def test_what_is_no_target(target):
    with pytest.raises(InvalidRequest) as caught:
        Client(target, timeout=1)
    assert f"'{target}'" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    "target", ["", "localhost", "ftp://x:1", "h:x", "http://", "http://h:99999"]
)
def test_what_is_no_rest_target(target):
    with pytest.raises(InvalidRequest, match="neither HOST:PORT nor a URL"):
        RestClient(target, timeout=1)


def test_rest_urls():
    assert base_url("h:1", tls=False) == "http://h:1"
    assert base_url("h:1", tls=True) == "https://h:1"
    assert base_url("https://h/prefix/", tls=False) == "https://h/prefix"
    assert model_path("a/b", label="x y") == "/v1/models/a%2Fb/labels/x%20y"
    assert model_path("m", version=3) == "/v1/models/m/versions/3"


def test_retries_leave_out_reload_and_stop_in_an_outage():
    config = json.loads(service_config(retries=True))
    (method,) = config["methodConfig"]
    assert method["name"] == [
        {"service": "tensorflow.serving.PredictionService"},
        {"service": "tensorflow.serving.ModelService", "method": "GetModelStatus"},
    ]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert config["retryThrottling"]
    assert "methodConfig" not in json.loads(service_config(retries=False))


def test_a_dead_connection_is_noticed_within_20_seconds():
    options = dict(MESH_OPTIONS)
    for timeout in ("grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"):
        assert options["grpc.keepalive_time_ms"] + options[timeout] <= 20_000


def test_the_callers_options_win():
    options = dict(channel_options(retries=True, extra=[("grpc.keepalive_time_ms", 1)]))
    assert options["grpc.keepalive_time_ms"] == 1


def test_every_option_has_its_reason_in_the_docstring():
    import serving.client

    for name, _ in channel_options(retries=True):
        assert f"\n{name.removeprefix('grpc.')} " in serving.client.__doc__, name


def test_every_code_has_a_class_and_a_remedy():
    for code in Code:
        if code is Code.OK:
            continue
        error = errors.from_code(code, "why", "h:1")
        assert error.code is code
        assert (error.detail, error.target) == ("why", "h:1")
        assert code.name in error.message
        assert error.remedy
        assert "{target}" not in error.remedy
        assert isinstance(error, RequestError)
    assert type(errors.from_code(99, "why", "h:1")) is errors.Unknown


def test_a_refusal_that_grpc_lost_says_what_it_may_be():
    lost = "Stream removed (Data frame with END_STREAM flag received)"
    assert "may this caller make it" in errors.from_code(Code.UNKNOWN, lost, "h:1").remedy
    assert "may this caller" not in errors.from_code(Code.UNKNOWN, "why", "h:1").remedy


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidArgument),
        (401, errors.Unauthenticated),
        (403, errors.PermissionDenied),
        (404, errors.NotFound),
        (409, errors.AlreadyExists),
        (429, errors.ResourceExhausted),
        (499, errors.Cancelled),
        (500, errors.Internal),
        (501, errors.Unimplemented),
        (502, errors.Unavailable),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
        (418, errors.Unknown),
    ],
)
def test_http_maps_back_to_the_same_classes(status, kind):
    assert type(errors.from_http(status, "", "h:1")) is kind


def test_a_certificate_needs_its_key(tmp_path):
    with pytest.raises(InvalidRequest, match="needs its key"):
        TLS(certificate="client.pem")
    with pytest.raises(InvalidRequest, match="cannot read the CA file nowhere"):
        Client(NOBODY, tls=TLS(ca="nowhere"))
    text = tmp_path / "ca.pem"
    text.write_text("hello")
    for kind in (Client, RestClient):
        with pytest.raises(InvalidRequest, match=r"ca\.pem is not PEM"):
            kind(NOBODY, tls=TLS(ca=text))


def test_an_answer_that_is_no_tensor_is_internal():
    response = messages.PredictResponse()
    response.outputs["y"].dtype = messages.DT_FLOAT
    response.outputs["y"].float_val.extend([1, 2, 3])
    with pytest.raises(errors.Internal, match="output 'y' is not a tensor"):
        wire.prediction(response, "h:1")
