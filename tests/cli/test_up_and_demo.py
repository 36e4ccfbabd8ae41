"""`chopstick up` and `chopstick demo` as a user runs them: processes, ports, signals."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from serving.client import INPUT, OUTPUT, Client, RequestError
from tests.support.ports import free_port

# TensorFlow's import on two cores that another test worker keeps busy as well.
START_SECONDS = 60.0


def chopstick(*words):
    return [sys.executable, "-m", "serving.cli", *map(str, words)]


class Up:
    """A running `chopstick up --json`, its events, and the processes it spoke of."""

    def __init__(self, models, replicas, folder):
        self.grpc, self.rest = free_port(), free_port()
        words = ["up", "--json", "--replicas", replicas, "--model-dir", models]
        words += ["--port", self.grpc, "--rest-port", self.rest]
        self.process = subprocess.Popen(
            chopstick(*words),
            stdout=subprocess.PIPE,
            text=True,
            # Where logs stay after a kill.
            env={**os.environ, "TMPDIR": str(folder)},
        )
        self.pids = set()
        self._events = queue.Queue()
        self._seen = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def wait_for(self, kind, seconds=START_SECONDS, **details):
        """Return the next event of a kind, with these details."""
        limit = time.monotonic() + seconds
        while True:
            event = self._events.get(timeout=max(0.01, limit - time.monotonic()))
            assert event is not None, f"up ended without {kind!r}: {self._seen}"
            self._seen.append(event)
            if "pid" in event:
                self.pids.add(event["pid"])
            if event["event"] == kind and details.items() <= event.items():
                return event

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def start_up(chopstick_models, tmp_path):
    with contextlib.ExitStack() as stack:

        def start(replicas):
            up = Up(chopstick_models, replicas, tmp_path)
            stack.callback(up.close)
            return up

        yield start


def alive(pid):
    """True while a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids, seconds):
    limit = time.monotonic() + seconds
    while left := {pid for pid in pids if alive(pid)}:
        assert time.monotonic() < limit, f"still there after {seconds} s: {left}"
        time.sleep(0.05)


def test_up_serves_survives_a_kill_and_leaves_nothing_behind(start_up):
    up = start_up(2)
    ready = up.wait_for("up")
    replicas = {replica["grpc"]: replica for replica in ready["replicas"]}
    assert len(replicas) == 2
    assert ready["grpc"] == f"127.0.0.1:{up.grpc}"

    with Client(ready["grpc"], timeout=10, retries=False) as client:
        expected = client.predict({INPUT: [[240.0]]})[OUTPUT]
        url = f"http://{ready['rest']}/v1/models/chopstick:predict"
        # Balanced per request: two requests on one connection, two replicas.
        with httpx.Client(trust_env=False) as http:
            answers = [http.post(url, json={"instances": [[240.0]]}) for _ in range(2)]
        for answer in answers:
            assert answer.json()["predictions"][0] == pytest.approx(list(expected[0]), abs=1e-6)
        assert len({answer.headers["x-served-by"] for answer in answers}) == 2

        with pytest.raises(RequestError, match="one replica only"):
            client.reload('model_config_list { config { name: "other" } }')

        victim = ready["replicas"][0]
        os.kill(victim["pid"], signal.SIGKILL)
        for _ in range(50):
            client.predict({INPUT: [[240.0]]})
        died = up.wait_for("died", name=victim["name"])
        assert (died["pid"], died["exit_code"]) == (victim["pid"], -signal.SIGKILL)
        again = up.wait_for("ready", name=victim["name"])
        assert again["pid"] != victim["pid"]
        client.predict({INPUT: [[240.0]]})

    up.process.send_signal(signal.SIGTERM)
    assert up.process.wait(20) == 0
    up.wait_for("stopped")
    assert len(up.pids) == 4  # gateway, two replicas, and the one that was killed
    wait_until_gone(up.pids, 0.5)


def test_killing_up_takes_every_process_with_it(start_up):
    up = start_up(1)
    up.wait_for("up")
    assert len(up.pids) == 2
    assert all(alive(pid) for pid in up.pids)
    up.process.kill()
    up.process.wait()
    wait_until_gone(up.pids, 5)


def run(*words, folder=None):
    return subprocess.run(
        chopstick(*words),
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
        env={**os.environ, **({"TMPDIR": str(folder)} if folder else {})},
    )


def test_a_port_in_use_is_named_with_its_holder(chopstick_models):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = run(
            "up", "--port", free_port(), "--rest-port", port, "--model-dir", chopstick_models
        )
    assert done.returncode == 1
    assert f"port {port} (--rest-port) is in use by" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_model_directory_that_does_not_exist_says_train_first(command, tmp_path):
    words = ["--port", free_port(), "--rest-port", free_port()] if command == "up" else []
    done = run(command, *words, "--model-dir", tmp_path / "none")
    assert done.returncode == 1
    assert f"no directory {tmp_path / 'none'}" in done.stderr
    assert "chopstick train" in done.stderr


def test_a_model_that_cannot_load_shows_the_server_s_own_words(tmp_path):
    version = tmp_path / "models" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"not a SavedModel")
    ports = ["--port", free_port(), "--rest-port", free_port()]
    done = run("up", "--replicas", "1", *ports, "--model-dir", version.parent, folder=tmp_path)
    assert done.returncode == 1
    assert "replica-0" in done.stderr
    assert "before it was ready" in done.stderr
    assert "the whole log: " in done.stderr
    log = Path(done.stderr.rpartition("the whole log: ")[2].strip())
    assert log.is_file()


def test_demo_refuses_a_file_it_could_not_write_at_the_end(chopstick_models, tmp_path):
    target = tmp_path / "no" / "such" / "file.json"
    done = run("demo", "--model-dir", chopstick_models, "--json", target)
    assert done.returncode == 1
    assert f"cannot write {target}" in done.stderr


@pytest.mark.timeout(180)
def test_demo_holds_what_it_promises(chopstick_models, tmp_path):
    before = sorted(path.name for path in chopstick_models.iterdir())
    report = tmp_path / "demo.json"
    words = ["--quick", "--json", report, "--model-dir", chopstick_models]
    done = run("demo", *words, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(report.read_text())
    assert document["ok"] is True
    assert [result["step"] for result in document["results"]] == [1, 2, 3, 4, 5]
    assert all(result["held"] for result in document["results"])
    share, rolled, crashed = (result["figures"] for result in document["results"][2:])
    assert share["max_over_mean"]["L4"] == pytest.approx(2.0, abs=0.05)
    assert share["max_over_mean"]["L7"] <= 1.05
    assert rolled["failed"] == 0
    assert len(rolled["versions"]) == 2
    assert crashed["answered_share"] >= 0.999
    # The models are not touched, and nothing is left in the temporary directory.
    assert sorted(path.name for path in chopstick_models.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]
