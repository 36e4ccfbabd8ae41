"""The client commands through a gateway with TLS and keys, as somebody outside uses them."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.certificates import Authority
from tests.support.ingress import DOMAIN, KEY, Ingress


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ingress(authority, model_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ingress")
    with Ingress(folder, authority, model_server.grpc, model_server.rest) as ingress:
        yield ingress


def chopstick(*words, key=None):
    """Run a command as a process of its own, since gRPC's core writes past Python's streams."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CHOPSTICK_API_KEY", "GRPC_VERBOSITY")}  # fmt: skip
    if key is not None:
        environment["CHOPSTICK_API_KEY"] = key
    return subprocess.run(
        [sys.executable, "-m", "serving.cli", *map(str, words)],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


COMMANDS = {
    "predict": ["240"],
    "classify": ["240"],
    "models": [],
    "load": ["--rate", "50", "--count", "5", "--json", "-"],
}


@pytest.mark.parametrize("rest", [False, True], ids=["gRPC", "REST"])
@pytest.mark.parametrize("name", COMMANDS)
def test_from_outside(ingress, authority, name, rest):
    target = [f"api.{DOMAIN}:443", "--rest"] if rest else [f"grpc.{DOMAIN}:443"]
    words = [name, *target, *COMMANDS[name], "--ca", authority.ca, "--connect-to", ingress.address]
    done = chopstick(*words, key=KEY)
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    if name == "load":
        assert json.loads(done.stdout)["ok"] == 5
    refused = chopstick(*words)
    assert refused.returncode == 1
    assert "--api-key" in refused.stderr


def test_the_ways_to_give_a_key_and_a_ca(ingress, authority):
    words = ["predict", f"grpc.{DOMAIN}:443", "240", "--connect-to", ingress.address]
    # The flag wins over the variable, and the older name of --ca still holds.
    done = chopstick(*words, "--tls-ca", authority.ca, "--tls", "--api-key", KEY, key="wrong")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("length\tclass")


def test_a_wrong_authority_is_one_error_and_no_log(ingress, tmp_path):
    for name, words in COMMANDS.items():
        done = chopstick(
            name, f"grpc.{DOMAIN}:443", *words, "--ca", Authority(tmp_path).ca,
            "--connect-to", ingress.address, key=KEY,
        )  # fmt: skip
        lines = [line for line in done.stderr.splitlines() if " sent, " not in line]
        assert done.returncode == 1
        assert len(lines) == 2, done.stderr
        assert lines[0].startswith("error: ")
        assert "--ca FILE" in lines[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_key_is_not_sent_in_plain_text(name):
    done = chopstick(name, "192.0.2.1:8500", *COMMANDS[name], key=KEY)
    assert done.returncode == 1
    assert "without TLS" in done.stderr
    assert "unset CHOPSTICK_API_KEY" in done.stderr
    assert KEY not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_that_a_key_on_the_command_line_is_seen(name):
    told = " ".join(chopstick(name, "--help").stdout.split())
    assert "CHOPSTICK_API_KEY" in told
    assert "everybody on this machine can read it" in told
