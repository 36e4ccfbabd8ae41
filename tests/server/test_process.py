"""Life of the server process: start-up failures, signals, deadlines, TLS, long runs."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.protocol import messages, tensors
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for

LONG = 1500  # iterations, about a millisecond each: long enough to be caught in flight


def run_for(server: ModelServer, iterations: int, timeout: float = 60) -> float:
    request = messages.PredictRequest()
    request.model_spec.name = "busy"
    tensors.fill_proto(request.inputs["iterations"], np.array([iterations], np.int32))
    response = server.predictions.Predict(request, timeout=timeout)
    return float(tensors.to_array(response.outputs["value"])[0])


@pytest.fixture
def busy(busy_models: Path, tmp_path: Path) -> Iterator[ModelServer]:
    with ModelServer(tmp_path, busy_models, model="busy", rest=False) as server:
        yield server


def in_flight(server: ModelServer) -> bool:
    """True once the server works on something long: its CPU time grows by itself."""
    before = cpu_seconds(server.process.pid)
    time.sleep(0.05)
    return cpu_seconds(server.process.pid) - before > 0.02


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_long_run_stalls_nobody_and_sigterm_lets_it_finish(busy: ModelServer) -> None:
    stub = health_pb2_grpc.HealthStub(busy.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(run_for, busy, LONG)
        wait_for(lambda: in_flight(busy), "the long request to be worked on")
        started = time.perf_counter()
        run_for(busy, 1)
        assert not long.done(), "the long run ended before the short one was sent"
        assert time.perf_counter() - started < 1.0
        busy.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert long.result(60) == LONG
    assert busy.process.wait(20) == 0


def test_a_second_sigterm_ends_at_once(busy: ModelServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(run_for, busy, 20 * LONG)
        wait_for(lambda: in_flight(busy), "the long request to be worked on")
        busy.terminate()
        wait_for(lambda: "Draining" in busy.output(), "the drain to begin")
        busy.terminate()
        assert busy.process.wait(5) == 128 + signal.SIGTERM
        with pytest.raises(grpc.RpcError):
            long.result(10)


def test_a_deadline_in_the_middle_of_a_run(busy: ModelServer) -> None:
    started = time.perf_counter()
    with pytest.raises(grpc.RpcError) as refused:
        run_for(busy, LONG, timeout=0.3)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.perf_counter() - started < 2
    assert run_for(busy, 1) == 1


def test_sigterm_is_ignored_when_tfs_is_to_be_imitated(
    chopstick_models: Path, tmp_path: Path
) -> None:
    with ModelServer(
        tmp_path, chopstick_models, environment={"CHOPSTICK_SIGTERM": "ignore"}, rest=False
    ) as server:
        server.terminate()
        request = messages.GetModelStatusRequest()
        request.model_spec.name = "chopstick"
        for _ in range(20):
            server.models.GetModelStatus(request, timeout=5)
        assert server.process.poll() is None
        server.process.kill()


def start_and_fail(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving.server.main", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        check=False,
    )


def test_a_model_that_cannot_load_at_start_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    ended = start_and_fail(
        tmp_path,
        "--port=0",
        "--grpc_socket_path=unused.sock",
        "--model_name=m",
        f"--model_base_path={tmp_path / 'm'}",
        "--max_num_load_retries=0",
    )
    assert ended.returncode == 255
    assert ended.stdout.startswith(
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: m version: 1} due to error: NOT_FOUND: Could not find SavedModel"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port=eight"], "Couldn't interpret value eight for flag port."),
        (["--help"], "usage: tensorflow_model_server"),
        (["--model_name=m"], "server_options.model_config_file are empty!"),
        (["--model_base_path=m"], "to have an absolute path or URI; got base_path()=m"),
        (["--model_config_file=none"], "NOT_FOUND: none; No such file or directory"),
        (["--model_config_file=bad"], "Invalid protobuf file: 'bad': 1:1"),
        (["--batching_parameters_file=x"], "is set without setting"),
        (
            [
                "--tensorflow_session_parallelism=1",
                "--tensorflow_intra_op_parallelism=1",
                "--tensorflow_inter_op_parallelism=1",
            ],
            "Either configure",
        ),
    ],
)
def test_bad_flags_and_files_end_the_process_with_255(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "bad").write_text("nonsense here")
    ended = start_and_fail(tmp_path, *arguments)
    assert ended.returncode == 255
    assert message in ended.stdout


def test_a_port_in_use_is_named(chopstick_models: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = start_and_fail(
            tmp_path,
            f"--port={port}",
            "--model_name=chopstick",
            f"--model_base_path={chopstick_models}",
        )
    assert ended.returncode == 255
    assert f":{port} for gRPC" in ended.stdout


def test_version(tmp_path: Path) -> None:
    ended = start_and_fail(tmp_path, "--version")
    assert ended.returncode == 0
    assert ended.stdout.startswith("TensorFlow ModelServer: 2.21.0")


def test_unknown_flags_are_printed_and_passed_over_and_idle_ones_named_once(
    chopstick_models: Path, tmp_path: Path
) -> None:
    flags = ("--not_a_flag=1", "--enable_profiler=false", "--flush_filesystem_caches")
    with ModelServer(tmp_path, chopstick_models, *flags, rest=False) as server:
        output = server.output()
    assert "unknown argument: --not_a_flag=1\nusage:" in output
    assert output.count("--enable_profiler has no meaning in this server") == 1


def test_tls_and_a_unix_socket(chopstick_models: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -keyout key.pem -out cert.pem "
        "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1".split(),
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    config = tmp_path / "ssl.config"
    pem = {"server_key": key.read_text(), "server_cert": certificate.read_text()}
    config.write_text(
        "".join(f"{k}: {v.encode()!r}\n".replace("b'", "'", 1) for k, v in pem.items())
    )
    unix = tmp_path / "s.sock"
    flags = (f"--ssl_config_file={config}", f"--grpc_socket_path={unix}")
    with ModelServer(tmp_path, chopstick_models, *flags, rest=False, wait=False) as server:
        request = messages.GetModelStatusRequest()
        request.model_spec.name = "chopstick"
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        for channel in (
            grpc.secure_channel(server.grpc, credentials),
            grpc.insecure_channel(f"unix:{unix}"),
        ):
            with channel:
                server.channel = channel
                wait_for(server._is_up, "an answer", 60)
        server.channel = grpc.insecure_channel(server.grpc)
        with pytest.raises(grpc.RpcError) as refused:
            server.models.GetModelStatus(request, timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
