"""Section 2, as far as it shows on the wire, and section 7's SIGTERM."""

from __future__ import annotations

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from serving.protocol import messages
from tests.conformance.cases.config import (
    PLAIN,
    POLLED,
    RELOAD,
    START,
    START_FLAGS,
    ends,
    fresh,
    predict_k,
)
from tests.conformance.cases.grpc_api import unimplemented
from tests.conformance.harness import (
    AVAILABLE,
    END,
    Process,
    Server,
    case,
    classify_request,
    predict_request,
    profile,
    regress_request,
    run_to_end,
    same,
    starts,
    status_request,
)
from tests.support.waiting import wait_for

SWITCHED = profile(
    "switched",
    "--not_a_flag=1",
    "--enable_signature_method_name_check",
    "--enable_serialization_as_tensor_content=true",
    "--rest_api_timeout_in_ms=300",
    "--rest_api_enable_cors_support=1",
    "--monitoring_config_file={folder}/elsewhere.config",
    "--grpc_socket_path={folder}/s",
    "--file_system_poll_wait_seconds=0",
    "--model_name=ignored",
    "--model_base_path=/ignored",
    "--grpc_channel_arguments=grpc.max_connection_age_ms=1500,grpc.max_connection_age_grace_ms=500",
    only=("half_plus_two", "half_plus_three", "slow", "several"),
    files={"elsewhere.config": 'prometheus_config { enable: true path: "/my/metrics" }'},
)
PER_MODEL = profile(
    "per-model",
    "--enable_batching",
    "--enable_per_model_batching_parameters",
    "--max_num_load_retries=0",
    "--grpc_max_threads=4",
    "--batching_parameters_file={folder}/batching.config",
    "--monitoring_config_file={folder}/monitoring.config",
    only=("half_plus_two", "half_plus_three", "slow"),
    files={
        "batching.config": "batch_timeout_micros { value: 500000 }",
        "models/half_plus_three/2/batching_params.pbtxt": "max_batch_size { value: 3 }",
    },
)

X = {"x": 2.0}


# Defaults.


@case("flags.rest-off", profile=RELOAD)
def rest_is_off_by_default(server: Server) -> None:
    same(server.outputs("half_plus_two", {"x": [[2.0]]}), {"y": [[3.0]]})
    assert "Exporting HTTP/REST API" not in server.owned.output()


@case("grpc.health.off", profile=POLLED)
def health_is_off_by_default(server: Server) -> None:
    unimplemented(server, "/grpc.health.v1.Health/Check")


@case("flags.monitoring-off", profile=PLAIN)
def the_metrics_page_is_off_by_default(server: Server) -> None:
    same(server.get("/monitoring/prometheus/metrics").status, 404)


# Switched on.


@case("flags.unknown-continues", profile=SWITCHED)
def an_unknown_flag_is_printed_and_the_server_starts(server: Server) -> None:
    assert "unknown argument: --not_a_flag=1\n" in server.owned.output()


@case("flags.config-file-overrides", profile=SWITCHED)
def the_config_file_overrides_name_and_base_path(server: Server) -> None:
    same(server.states("ignored"), {})


@case("flags.tensor-content", profile=SWITCHED)
def outputs_come_in_tensor_content_when_asked_for(server: Server) -> None:
    output = server.predict("several", {"a": [5.0], "b": [1.0]}).outputs["sum"]
    same(list(output.float_val), [])
    same(np.frombuffer(output.tensor_content, np.float32).tolist(), [6.0])


@case("flags.tensor-content", profile=SWITCHED)
def rest_answers_as_before(server: Server) -> None:
    reply = server.post("/v1/models/half_plus_three:predict", {"instances": [2.0]})
    same(reply.json, {"predictions": [4.0]})


@case("flags.method-name-check", "flags.bool-forms", profile=SWITCHED)
def with_the_check_a_signature_needs_the_method_name(server: Server) -> None:
    request = classify_request("half_plus_three", X, signature="classify")
    expected = (
        "Expected classification signature method_name to be tensorflow/serving/classify. Was: "
        "tensorflow/serving/predict"
    )
    same(server.refusal("Classify", request), ("INVALID_ARGUMENT", expected))
    request = regress_request("half_plus_three", X, signature="regress")
    expected = (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: "
        "tensorflow/serving/predict"
    )
    same(server.refusal("Regress", request), ("INVALID_ARGUMENT", expected))
    request = regress_request("half_plus_two", X, signature="regress_x_to_y")
    same([r.value for r in server.call("Regress", request).result.regressions], [3.0])


@case("flags.rest-timeout", "grpc.deadline-message", "rest.http-codes", profile=SWITCHED)
def a_rest_call_that_takes_too_long_is_504(server: Server) -> None:
    reply = server.post("/v1/models/slow:predict", {"instances": [3000]})
    same((reply.status, reply.error), (504, "Timed out waiting for notification"))


@case("flags.rest-cors", "flags.bool-forms", profile=SWITCHED)
def cors_headers_are_on_every_reply(server: Server) -> None:
    path = "/v1/models/half_plus_two"
    for reply in (
        server.get(path),
        server.get("/v1/models/fork"),
        server.request("OPTIONS", path, headers={"Origin": "https://example.org"}),
    ):
        same(reply.headers["access-control-allow-origin"], "*")
        same(reply.headers["access-control-allow-methods"], "POST, GET")
        same(reply.headers["access-control-allow-headers"], "Content-Type")


@case("flags.monitoring-config-file", profile=SWITCHED)
def the_metrics_page_is_where_the_file_says(server: Server) -> None:
    assert ":tensorflow:serving:request_count" in server.page("/my/metrics")
    same(server.get("/monitoring/prometheus/metrics").status, 404)


@case("flags.grpc-socket", profile=SWITCHED)
def a_unix_socket_answers_beside_the_port(server: Server) -> None:
    beside = Server(f"unix:{server.folder}/s")
    same(beside.states("half_plus_two"), {123: AVAILABLE})
    beside.close()


@case("flags.grpc-channel-arguments", profile=SWITCHED)
def channel_arguments_reach_grpc(server: Server) -> None:
    seen: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(server.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        channel.subscribe(seen.append, try_to_connect=True)
        ready, idle = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE
        wait_for(lambda: ready in seen, "a connection", 10)
        wait_for(lambda: idle in seen[seen.index(ready) :], "the connection to be ended", 10)


@case("flags.file-system-poll-0", profile=SWITCHED, alone=True)
def with_0_directories_are_looked_at_once(server: Server) -> None:
    folder = server.folder / "models" / "half_plus_two"
    shutil.copytree(server.folder / "spare" / "k1", folder / "124")
    time.sleep(2)
    same(server.states("half_plus_two"), {123: AVAILABLE})


# Few threads.


def exhaust(server: Server) -> list[tuple[str, str]]:
    """(code, message) of 12 calls at once, where 4 may be worked on."""
    request = predict_request("slow", {"iterations": [300]})

    def ask(_: int) -> tuple[str, str]:
        try:
            server.stub("Predict")(request, timeout=30)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    with ThreadPoolExecutor(12) as pool:
        return list(pool.map(ask, range(12)))


@case("flags.grpc-max-threads", "metrics.rejections-uncounted", profile=PER_MODEL)
def more_calls_than_threads_are_resource_exhausted_and_not_counted(server: Server) -> None:
    results: list[tuple[str, str]] = []
    grown = server.growth(lambda: results.extend(exhaust(server)))
    codes = [code for code, _ in results]
    same(set(codes), {"OK", "RESOURCE_EXHAUSTED"})
    count = ':tensorflow:serving:request_count{model_name="slow",status="OK"}'
    counted = {name: value for name, value in grown.items() if "request_count" in name}
    same(counted, {count: codes.count("OK")})


@case("flags.grpc-max-threads-message", profile=PER_MODEL)
def the_message_says_that_threads_are_exhausted(server: Server) -> None:
    messages_ = {text for code, text in exhaust(server) if code == "RESOURCE_EXHAUSTED"}
    same(messages_, {"Server Threadpool Exhausted"})


@case("rest.dual-stack", profile=PER_MODEL)
def rest_listens_on_ipv6_too(server: Server) -> None:
    beside = Server(server.grpc, f"[::1]:{server.owned.rest_port}")
    same(beside.get("/v1/models/slow").status, 200)


@case("batching.per-model", "metrics.batching-off", profile=PER_MODEL)
def only_a_version_with_its_own_parameters_is_batched(server: Server) -> None:
    sizes = ":tensorflow:serving:batching_session:processed_batch_size_count{}"
    began = time.monotonic()
    grown = server.growth(lambda: server.predict("half_plus_two", {"x": [[2.0]]}))
    assert sizes not in grown, grown
    assert time.monotonic() - began < 0.4
    code, text = server.refusal("Predict", predict_request("half_plus_three", {"x": [1.0] * 5}))
    same(code, "INVALID_ARGUMENT")
    same(text, starts("Task size 5 is larger than maximum input batch size 3"))
    same(server.growth(lambda: server.predict("half_plus_three", {"x": [1.0]})).get(sizes), 1)


@case("batching.allowed-sizes", profile=PER_MODEL, alone=True)
def allowed_sizes_have_to_end_with_the_maximum(server: Server) -> None:
    folder = server.folder / "models" / "half_plus_two"
    beside = folder / ".tmp"
    shutil.copytree(server.folder / "spare" / "k1", beside)
    parameters = "max_batch_size { value: 8 } allowed_batch_sizes: 2 allowed_batch_sizes: 4"
    (beside / "batching_params.pbtxt").write_text(parameters)
    beside.rename(folder / "124")
    wait_for(lambda: server.states("half_plus_two").get(124) == END, "the version to fail")
    expected = (
        "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8"
    )
    same(server.error_of("half_plus_two", 124), (3, expected))


# Ends and starts.


@case("flags.file-system-poll-negative", profile=START)
def a_negative_poll_never_looks_and_never_starts(server: Server) -> None:
    with process(server, "negative", "--file_system_poll_wait_seconds=-1", wait=False) as never:
        time.sleep(6)
        assert never.child.poll() is None
        assert "Running gRPC ModelServer at" not in never.output()


@case("flags.bad-value", profile=START)
def a_value_of_the_wrong_type_ends_with_255(server: Server) -> None:
    output = ends(server, "--port=eight")
    assert "--port=8500" in output, output[:300]


@case("flags.version", profile=START)
def version_is_printed(server: Server) -> None:
    code, output = run_to_end(server.folder, "--version")
    same(code, 0)
    same(output, starts("TensorFlow ModelServer: "))
    assert "\nTensorFlow Library: " in output


FAILED = "Failed to start server. Error: INVALID_ARGUMENT: "
for _name, _row, _flags, _error in [
    ("batching parameters without batching", "flags.batching-file",
     ("--model_base_path=/m", "--batching_parameters_file=/nothing"),
     "server_options.batching_parameters_file is set without setting "
     "server_options.enable_batching to true.\n"),
    ("all three kinds of parallelism", "flags.session-parallelism",
     ("--model_base_path=/m", "--tensorflow_session_parallelism=1",
      "--tensorflow_intra_op_parallelism=1", "--tensorflow_inter_op_parallelism=1"),
     "Either configure server_options.tensorflow_session_parallelism or "
     "(server_options.tensorflow_intra_op_parallelism, "
     "server_options.tensorflow_inter_op_parallelism) separately. You cannot configure all.\n"),
    ("no model", "flags.no-model", (),
     "Both server_options.model_base_path and server_options.model_config_file are empty!\n"),
    ("a relative base path", "flags.base-path-absolute", ("--model_base_path=m",),
     "Expected model default to have an absolute path or URI; got base_path()=m\n"),
    ("ALTS and TLS", "flags.alts-and-ssl",
     ("--model_base_path=/m", "--use_alts_credentials", "--ssl_config_file=/s"),
     "Either use_alts_credentials must be false or ssl_config_file must be empty.\n"),
    ("a session config that is none", "flags.session-config-file",
     ("--model_base_path=/m", "--tensorflow_session_config_file=nonsense"),
     "Invalid protobuf file: 'nonsense'"),
]:  # fmt: skip

    def _run(server, flags=_flags, error=_error):
        (server.folder / "start").mkdir(exist_ok=True)
        (server.folder / "start" / "nonsense").write_text("nonsense {")
        same(ends(server, *START_FLAGS, *flags), starts(FAILED + error))

    _run.__name__ = f"{_name.replace(' ', '_')}_ends_with_255"
    case(_row, profile=START)(_run)


@case("flags.no-port", profile=START)
def no_port_and_no_socket_ends_with_255(server: Server) -> None:
    expected = (
        "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.\n"
    )
    same(ends(server, "--port=0", "--model_base_path=/m"), starts(FAILED + expected))


def process(server: Server, name: str, *flags: str, source: str = "k1", **how) -> Process:
    path = fresh(server, name, source)
    return Process(server.folder / f"process-{name}", f"--model_base_path={path}", *flags, **how)


@case(
    "flags.port-0", "flags.model-name-default", "flags.warmup-off", "flags.saved-model-tags",
    "flags.monitoring-needs-rest", profile=START,
)  # fmt: skip
def a_socket_alone_a_default_name_other_tags_and_no_warm_up(server: Server) -> None:
    # Its tag is train and its warm-up fails: it loads only where both flags are heard.
    source = server.folder / "spare" / "odd"
    shutil.copytree(server.folder / "spare" / "mistagged", source)
    shutil.copytree(
        server.folder / "spare" / "warm_failing" / "assets.extra", source / "assets.extra"
    )
    folder = server.folder.resolve()
    flags = (
        f"--grpc_socket_path={folder}/o", "--saved_model_tags=train",
        "--enable_model_warmup=false", "--monitoring_config_file=/dev/null/none",
    )  # fmt: skip
    with process(server, "odd", *flags, source="odd", rest=False, port=False):
        beside = Server(f"unix:{folder}/o")
        same(predict_k(beside, "default"), 9.0)
        beside.close()


@case("flags.rest-port-equal", profile=POLLED)
def rest_on_the_port_of_grpc_is_left_out(server: Server) -> None:
    output = server.owned.output()
    assert "server_options.http_port cannot be same as grpc_port" in output
    assert "Exporting HTTP/REST API" not in output
    same(server.states("half_plus_two"), {123: AVAILABLE})


@case(
    "flags.ssl", "flags.ssl-client-verify", "flags.ssl-rest-plain", "flags.warmup-iterations",
    profile=START,
)  # fmt: skip
def tls_is_for_grpc_and_rest_stays_plain(server: Server) -> None:
    folder = Path(server.folder)
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout key.pem -out cert.pem "
        "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1".split(),
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    key, certificate = (folder / "key.pem").read_text(), (folder / "cert.pem").read_text()
    config = messages.SSLConfig(
        server_key=key, server_cert=certificate, custom_ca=certificate, client_verify=True
    )
    (folder / "ssl.config").write_text(str(config))
    (folder / "metrics.config").write_text("prometheus_config { enable: true }")
    with process(
        server, "tls", f"--ssl_config_file={folder}/ssl.config", "--num_request_iterations_for_warmup=7",
        f"--monitoring_config_file={folder}/metrics.config", source="warm_good",
    ) as tls:  # fmt: skip
        # Three records, seven times each, and what loading takes.
        runs = tls.samples()[":tensorflow:core:direct_session_runs{}"]
        assert 21 <= runs < 30, runs
        same(tls.get("/v1/models/default").status, 200)
        same(tls.refusal("GetModelStatus", status_request("default"), 5)[0], "UNAVAILABLE")
        tls.channel.close()
        root = certificate.encode()
        # A client without a certificate is turned away, because of client_verify.
        tls.channel = grpc.secure_channel(tls.grpc, grpc.ssl_channel_credentials(root))
        same(tls.refusal("GetModelStatus", status_request("default"), 5)[0], "UNAVAILABLE")
        tls.channel.close()
        credentials = grpc.ssl_channel_credentials(root, key.encode(), certificate.encode())
        tls.channel = grpc.secure_channel(tls.grpc, credentials)
        same(tls.states("default"), {1: AVAILABLE})
