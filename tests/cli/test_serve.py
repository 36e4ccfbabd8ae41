"""`chopstick serve` with what people get wrong, and once right."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.waiting import wait_for


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving.cli", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--prt", "1"], 2, ["No such option '--prt'", "--port"]),
        (["--port", "eight"], 2, ["'eight' is not a valid integer"]),
        (["--model_base_path", "nowhere"], 1, ["nowhere does not exist", "chopstick train"]),
        (["--model-config-file", "nowhere"], 1, ["nowhere does not exist"]),
    ],
)
def test_a_slip_of_the_hand_is_named(arguments: list[str], code: int, words: list[str]) -> None:
    ended = serve(*arguments)
    assert ended.returncode == code
    for word in words:
        assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_base_path_without_a_version(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    ended = serve("--model_base_path", str(tmp_path))
    assert ended.returncode == 1
    assert "holds no version (a directory whose name is a number)" in ended.stderr


@pytest.mark.parametrize("kind", ["missing", "truncated", "garbage"])
def test_a_damaged_model_is_named(kind: str, chopstick_models: Path, tmp_path: Path) -> None:
    version = tmp_path / "1"
    shutil.copytree(chopstick_models / "1", version)
    graph = version / "saved_model.pb"
    content = graph.read_bytes()
    graph.unlink()
    if kind == "truncated":
        graph.write_bytes(content[: len(content) // 2])
    if kind == "garbage":
        graph.write_bytes(os.urandom(1000))
    ports = ("--port", str(free_port()), "--rest-api-port", str(free_port()))
    ended = serve("--model_base_path", str(tmp_path), *ports)
    assert ended.returncode == 1
    assert str(version) in ended.stdout
    assert "chopstick verify" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_rest_port_in_use(chopstick_models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        base = str(chopstick_models)
        ended = serve(
            "--model_base_path", base, "--port", str(free_port()), "--rest-api-port", port
        )
    assert ended.returncode == 1
    assert port in ended.stdout


def test_it_serves_on_loopback_with_health_and_metrics_and_ends_on_interrupt(
    chopstick_models: Path, tmp_path: Path
) -> None:
    grpc_port, rest_port = free_port(), free_port()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "serving.cli", "serve"],
                *["--model-base-path", str(chopstick_models)],
                *["--port", str(grpc_port), "--rest-api-port", str(rest_port)],
            ],
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{rest_port}"

    def up() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return httpx.get(f"{url}/v1/models/chopstick").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(up, "the server", 60)
        body = {"instances": [[240.0]]}
        answer = httpx.post(f"{url}/v1/models/chopstick:predict", json=body).json()
        assert len(answer["predictions"][0]) == 3
        page = httpx.get(f"{url}/monitoring/prometheus/metrics").text
        assert ':tensorflow:serving:request_count{model_name="chopstick",status="OK"}' in page
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
