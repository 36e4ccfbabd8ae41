"""Flags and environment: what wins, and what a wrong one is told."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import ChopstickError
from serving.health.config import parse
from tests.support.ports import free_port


def test_a_flag_wins_over_its_variable_and_an_empty_variable_is_none() -> None:
    environment = {
        "MODEL_NAME": "half-plus-two",
        "MODEL_VERSION": "7",
        "HEALTH_SERVER": "[::1]:9",
        "HEALTH_POLL_SECONDS": "",
        "HEALTH_HOST": "",
    }
    command, config = parse(["--version", "2"], environment)
    assert command == "serve"
    assert (config.model, config.required, config.poll) == ("half-plus-two", 2, 1.0)
    assert (config.host, config.port, config.server) == ("::1", 9, "[::1]:9")
    ports = (config.probe_port, config.metrics_port, config.grpc_port)
    assert ports == (8502, 8503, 8504)
    assert (config.listen, config.models, config.volume) == ("0.0.0.0", Path("/models"), None)
    assert parse([], {})[1].required is None


WRONG = [
    ("--server", "localhost", "'localhost' is not HOST:PORT", "HEALTH_SERVER"),
    ("--server", "::1:8500", "'::1:8500' is not HOST:PORT", "HEALTH_SERVER"),
    ("--server", "http://a:1", "is not HOST:PORT", "HEALTH_SERVER"),
    ("--server", "a:99999", "'99999' is not a port", "HEALTH_SERVER"),
    ("--server", "a:0", "port 0", "HEALTH_SERVER"),
    ("--model", "a/b", "'a/b' is not the name of a model", "MODEL_NAME"),
    ("--model", "..", "is not the name of a model", "MODEL_NAME"),
    ("--version", "v1", "'v1' is not a version", "MODEL_VERSION"),
    ("--version", "-1", "'-1' is not a version", "MODEL_VERSION"),
    ("--version", "²", "is not a version", "MODEL_VERSION"),
    ("--version", "9223372036854775808", "is not a version", "MODEL_VERSION"),
    ("--poll", "0", "'0' is not a number of seconds", "HEALTH_POLL_SECONDS"),
    ("--poll", "nan", "'nan' is not a number of seconds", "HEALTH_POLL_SECONDS"),
    ("--timeout", "1s", "'1s' is not a number of seconds", "HEALTH_TIMEOUT_SECONDS"),
    ("--probe-port", "a", "'a' is not a port", "HEALTH_PROBE_PORT"),
    ("--metrics-port", "70000", "'70000' is not a port", "HEALTH_METRICS_PORT"),
    ("--grpc-port", "-1", "'-1' is not a port", "HEALTH_GRPC_PORT"),
    ("--inputs", "/nonexistent.json", "cannot read '/nonexistent.json'", "HEALTH_INPUTS"),
    ("--volume", "/nonexistent", "'/nonexistent' is not a directory", "MODEL_VOLUME"),
]


@pytest.mark.parametrize(("flag", "value", "said", "variable"), WRONG)
def test_a_wrong_value_is_told_with_flag_variable_and_remedy(
    flag: str, value: str, said: str, variable: str
) -> None:
    for arguments, environment in (([f"{flag}={value}"], {}), ([], {variable: value})):
        with pytest.raises(ChopstickError) as caught:
            parse(arguments, environment)
        assert caught.value.exit_code == 2
        assert f"{flag} ({variable}): " in caught.value.message
        assert said in caught.value.message
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prot", "1"], "--prot"),
        (["watch"], "'watch'"),
        (["--probe-port", "8503"], "two of the ports 8503, 8503, 8504 are the same"),
        (["publish"], "publish needs --volume"),
        (["--version"], "--version"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    with pytest.raises(ChopstickError) as caught:
        parse(arguments, {})
    assert caught.value.exit_code == 2
    assert said in caught.value.message
    assert caught.value.remedy


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.health", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_the_program_tells_it_in_two_lines_and_exits_2() -> None:
    ended = run("--version", "one")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "error: --version (MODEL_VERSION): 'one' is not a version",
        "  Give a whole number, as the version's directory is named, or nothing.",
    ]
    assert run("--help").returncode == 0


@pytest.mark.parametrize("taken", ["--probe-port", "--metrics-port", "--grpc-port"])
def test_a_port_that_is_taken_is_named(taken: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = str(other.getsockname()[1])
        given = {"--probe-port": "0", "--metrics-port": "0", "--grpc-port": "0", taken: port}
        words = [word for pair in given.items() for word in pair]
        ended = run("--host", "127.0.0.1", *words)
    assert ended.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}" in ended.stderr
    assert taken in ended.stderr
