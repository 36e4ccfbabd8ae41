"""The sidecar beside the real model server: every reason, and what ends it."""

import base64
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.protocol import messages
from tests.health.processes import Scripted, Sidecar
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, chopstick_models: Path) -> Path:
    base = tmp_path_factory.mktemp("models") / "chopstick"
    shutil.copytree(chopstick_models, base)
    return base


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[ModelServer]:
    with ModelServer(
        base.parent, base, "--max_num_load_retries=0", rest=False, wait=False
    ) as server:
        yield server


def test_loading_until_the_first_predict_and_at_once_after_a_restart(
    server: ModelServer, tmp_path: Path
) -> None:
    with Sidecar(tmp_path, server.grpc) as sidecar:
        # Only the first test of this worker finds the server without a port yet.
        loading = sidecar.page()
        if loading.status != 200:
            assert loading.status == 503
            assert loading.body["reason"] == "loading"
            assert sidecar.page("/livez").status == 200
            assert sidecar.page("/startupz").status == 503
        ready = sidecar.wait(200, 60)
        assert ready.body["status"] == "ready"
        assert ready.body["model"] == "chopstick"
        assert ready.body["version"] in {1, 2}
        assert sidecar.page("/startupz").status == 200
        assert sidecar.page("/livez").status == 200
        assert sidecar.metric("chopstick_health_ready") == 1
        assert sidecar.metric('chopstick_health_state{reason="ready"}') == 1
        assert sidecar.metric('chopstick_health_state{reason="loading"}') == 0
        labels = '{model="chopstick",state="AVAILABLE",version="1"}'
        assert sidecar.metric(f"chopstick_health_model_version_state{labels}") == 1
        assert sidecar.metric('chopstick_health_probe_seconds_count{call="predict"}') >= 1
        assert sidecar.metric('chopstick_health_build_info{version="0.1.0"}') == 1
        sidecar.process.kill()
        sidecar.process.wait()
        began = time.monotonic()
        sidecar.start()
        sidecar.wait(200)
        # Its start included; the kubelet gives it 6 s.
        assert time.monotonic() - began < 4


def up(sidecar: Sidecar) -> None:
    sidecar.wait(200, 60)


def test_only_state_changes_are_logged(server: ModelServer, tmp_path: Path) -> None:
    with Sidecar(tmp_path, server.grpc) as sidecar:
        up(sidecar)
        before = sidecar.log.read_text()
        polls = 'chopstick_health_polls_total{result="answered"}'
        seen = sidecar.metric(polls)
        wait_for(lambda: sidecar.metric(polls) > seen + 5, "five polls")
        assert sidecar.log.read_text() == before
        assert sidecar.logged("state")[-1]["reason"] == "ready"
        began = time.monotonic()
        assert sidecar.stop() == 0
        assert time.monotonic() - began < 1.5


def test_no_such_model(server: ModelServer, tmp_path: Path) -> None:
    with Sidecar(tmp_path, server.grpc, "--model", "other") as sidecar:
        page = sidecar.wait(404, 60)
    assert page.body["message"] == "Could not find any versions of model other"


def test_another_version_than_required(server: ModelServer, tmp_path: Path) -> None:
    with Sidecar(tmp_path, server.grpc, "--version", "7") as sidecar:
        page = sidecar.wait(412, 60)
    assert page.body["reason"] == "wrong_version"
    assert "version 7 of model chopstick is required, version 1 is" in page.body["message"]


def test_a_required_version_that_fails_to_load(
    server: ModelServer, base: Path, tmp_path: Path
) -> None:
    with (
        Sidecar(tmp_path, server.grpc, "--version", "2") as required,
        Sidecar(tmp_path, server.grpc) as newest,
    ):
        up(newest)
        (base / "2").mkdir()
        page = required.wait(500)
        assert "version 2: Could not find SavedModel .pb or .pbtxt" in page.body["message"]
        assert newest.page().status == 200
        assert newest.page().body["version"] == 1
    (base / "2").rmdir()


def test_a_model_whose_predict_fails_and_inputs_that_it_can_answer(
    server: ModelServer, tmp_path: Path
) -> None:
    # `classify` parses a tf.Example, which no bytes are not.
    flags = ("--signature", "classify")
    with Sidecar(tmp_path, server.grpc, *flags) as sidecar:
        page = sidecar.wait(422, 60)
        assert page.body["reason"] == "predict_failed"
        assert "INVALID_ARGUMENT" in page.body["message"]
        assert sidecar.page("/livez").status == 200
    example = messages.Example()
    example.features.feature["chopstick_length"].float_list.value.append(240.0)
    inputs = tmp_path / "inputs.json"
    text = base64.b64encode(example.SerializeToString()).decode()
    inputs.write_text(json.dumps({"inputs": [{"b64": text}]}))
    with Sidecar(tmp_path, server.grpc, *flags, "--inputs", str(inputs)) as sidecar:
        sidecar.wait(200)
    with Sidecar(tmp_path, server.grpc, "--signature", "none") as sidecar:
        page = sidecar.wait(422)
        assert "has no signature 'none', only ['classify', '" in page.body["message"]


def test_drain_is_seen_by_everybody_and_stays(server: ModelServer, tmp_path: Path) -> None:
    with (
        Sidecar(tmp_path, server.grpc) as sidecar,
        grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
    ):
        up(sidecar)
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "chopstick"):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        with pytest.raises(grpc.RpcError) as refused:
            health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest(service="chopstick"), timeout=10)
        assert next(watch).status == SERVING
        assert sidecar.page("/drain").status == 200
        assert next(watch).status == NOT_SERVING
        assert sidecar.page().status == 410
        assert health.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING
        answered = 'chopstick_health_polls_total{result="answered"}'
        seen = sidecar.metric(answered)
        wait_for(lambda: sidecar.metric(answered) > seen + 2, "polls after the drain")
        assert sidecar.page().status == 410
        assert sidecar.page("/livez").status == 200
        # An open Watch does not hold the end up.
        assert sidecar.stop() == 0


def test_a_stopped_server_is_silent_after_three_polls_and_comes_back(
    server: ModelServer, tmp_path: Path
) -> None:
    with Sidecar(tmp_path, server.grpc) as sidecar:
        up(sidecar)
        server.process.send_signal(signal.SIGSTOP)
        try:
            page = sidecar.wait(504)
            assert sidecar.metric('chopstick_health_polls_total{result="unanswered"}') >= 3
            assert sidecar.page("/livez").status == 200
            assert sidecar.page("/startupz").status == 200
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert page.body["reason"] == "server_silent"
        sidecar.wait(200)


def test_a_killed_server_is_gone_and_starts_again(server: ModelServer, tmp_path: Path) -> None:
    with Sidecar(tmp_path, server.grpc) as sidecar:
        up(sidecar)
        server.process.kill()
        server.process.wait()
        page = sidecar.wait(502)
        assert page.body["reason"] == "server_gone"
        assert "Connection refused" in page.body["message"]
        # The kubelet restarts the server, and must give it time to load.
        assert sidecar.page("/startupz").status == 502
        server.channel.close()
        server.start()
        sidecar.wait(200, 60)
        assert sidecar.page("/startupz").status == 200


def test_slow_answers_are_a_metric_and_no_reason(tmp_path: Path) -> None:
    with (
        Scripted([grpc.StatusCode.OK]) as server,
        Sidecar(tmp_path, server.address) as sidecar,
    ):
        sidecar.wait(200)
        fast = 'chopstick_health_probe_seconds_bucket{call="status",le="0.1"}'
        all_ = 'chopstick_health_probe_seconds_count{call="status"}'
        server.delay = 0.15
        wait_for(lambda: sidecar.metric(all_) - sidecar.metric(fast) >= 4, "slow polls")
        assert sidecar.page().status == 200
        # Later than the deadline, but never three times in a row.
        answered = 'chopstick_health_polls_total{result="answered"}'
        late = 'chopstick_health_polls_total{result="unanswered"}'
        for wanted in (1, 2):
            server.delay = 0.4
            wait_for(lambda n=wanted: sidecar.metric(late) >= n, "a late poll")
            server.delay = 0.0
            seen = sidecar.metric(answered)
            wait_for(lambda n=seen: sidecar.metric(answered) > n, "an answer")
            assert sidecar.page().status == 200
        assert {line["reason"] for line in sidecar.logged("state")[1:]} <= {"ready", "loading"}
        assert sidecar.logged("state")[-1]["reason"] == "ready"


def test_a_busy_first_predict_is_asked_again(tmp_path: Path) -> None:
    busy = [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE] * 2
    with (
        Scripted([*busy, grpc.StatusCode.OK]) as server,
        Sidecar(tmp_path, server.address, poll=1.0) as sidecar,
    ):
        # Sooner than at the next poll.
        sidecar.wait(200, 3)
        assert server.predicts == 5
        assert {line["reason"] for line in sidecar.logged("state")} == {"loading", "ready"}


def test_a_predict_that_fails_is_told_and_may_heal(tmp_path: Path) -> None:
    with (
        Scripted([grpc.StatusCode.INTERNAL]) as server,
        Sidecar(tmp_path, server.address) as sidecar,
    ):
        assert sidecar.wait(422).body["message"] == "INTERNAL: as scripted"
        server.predict = [grpc.StatusCode.OK]
        sidecar.wait(200)
