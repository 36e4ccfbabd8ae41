"""Loads against the real server: rate, failures, latency from the due time, share."""

import asyncio
import itertools
import os
import signal
import time

import grpc
import numpy as np
import pytest

from serving.errors import ChopstickError
from serving.load import InThread, Load, LoadConfig, run_load
from serving.load.senders import lengths
from serving.protocol import messages, tensors
from tests.support.ports import free_port
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for
from tests.unit.client.sockets import listener, predictor


async def test_the_rate_is_kept(model_server):
    result = await run_load(LoadConfig(model_server.grpc, rate=200, duration=1.5, connections=3))
    assert (result.due, result.sent, result.ok, result.failed) == (300, 300, 300, 0)
    assert result.achieved_rate == pytest.approx(200)
    assert 1.5 <= result.elapsed < 3
    assert result.seconds[0].sent == pytest.approx(200, rel=0.2)
    assert result.versions == {1: 300}
    assert result.latency is not None
    assert 0 < result.latency.p50 <= result.latency.p99 <= result.latency.max
    assert not result.stopped
    # Nobody says which replica answered, so nobody is named.
    assert result.share == {}


async def test_a_load_by_count(model_server):
    result = await run_load(LoadConfig(model_server.grpc, rate=1000, count=50, rows=100))
    assert (result.due, result.ok) == (50, 50)


async def test_poisson(model_server):
    config = LoadConfig(model_server.grpc, rate=200, count=100, poisson=True)
    assert (await run_load(config)).ok == 100


async def test_rest(model_server):
    config = LoadConfig(model_server.rest, rate=100, count=60, connections=4, rest=True, rows=3)
    result = await run_load(config)
    assert (result.ok, result.failed) == (60, 0)
    unknown = LoadConfig(model_server.rest, rate=100, count=5, rest=True, model="nope")
    result = await run_load(unknown)
    assert result.codes == {"NOT_FOUND": 5}
    assert "nope" in result.failures[0].message


def test_latency_counts_from_the_due_time(model_server):
    """A server that stops for half a second delays every request of that time, not one."""
    with InThread(LoadConfig(model_server.grpc, rate=100, duration=2, timeout=10)) as load:
        wait_for(lambda: load.so_far.ok > 30, "answers")
        os.kill(model_server.process.pid, signal.SIGSTOP)
        try:
            time.sleep(0.5)
        finally:
            os.kill(model_server.process.pid, signal.SIGCONT)
    result = load.result
    assert (result.ok, result.failed) == (200, 0)
    assert result.latency is not None
    assert result.latency.p99 > 0.4
    # 50 of the 200 were due while it stood: a tenth of all waited longer than 0.25 s. A closed
    # loop would have sent one and seen a p90 of a millisecond.
    assert result.latency.p90 > 0.2
    assert max(second.slowest for second in result.seconds) > 0.4


async def test_a_generator_that_stalls_counts_it_as_latency_and_says_so(model_server):
    """Requests that leave late, because the generator had no time, are not forgiven either."""
    asyncio.get_running_loop().call_later(0.3, time.sleep, 0.3)
    result = await run_load(LoadConfig(model_server.grpc, rate=100, duration=1))
    assert result.ok == result.due == 100
    assert result.late >= 20
    assert result.latest > 0.2
    assert result.latency is not None
    assert result.latency.p90 > 0.1


def test_a_killed_server_is_told_request_by_request(chopstick_models, tmp_path):
    config = {"rate": 100, "duration": 60, "connections": 2, "timeout": 2}
    with ModelServer(tmp_path, chopstick_models, rest=False) as server:
        with InThread(LoadConfig(server.grpc, **config)) as load:
            wait_for(lambda: load.so_far.ok > 20, "answers")
            killed = load.mark("kill")
            server.process.kill()
            wait_for(lambda: load.so_far.failed > 20, "failures")
            load.stop()
        result = load.result
    assert result.stopped
    assert result.ok + result.failed == result.sent == result.due
    assert result.failed == result.codes.total() == len(result.failures) > 20
    assert set(result.codes) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    for failure in result.failures:
        assert killed <= failure.at <= result.elapsed
        assert failure.due <= failure.at
        assert failure.message
        assert failure.peer == server.grpc
    assert result.around("kill", after=60) == result.failures
    assert result.failures_between(0, killed) == []


async def test_typed_failures(model_server):
    result = await run_load(LoadConfig(model_server.grpc, rate=200, count=4, version=7))
    assert result.codes == {"NOT_FOUND": 4}
    assert "Specific(chopstick, 7)" in result.failures[0].message
    assert result.latency is None


async def test_nobody_there_fails_every_request_and_ends():
    target = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    result = await run_load(LoadConfig(target, rate=50, count=10, timeout=0.5))
    assert time.monotonic() - started < 5
    assert (result.sent, result.failed) == (10, 10)
    assert set(result.codes) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert result.failures[0].peer == target


async def test_connections_are_truly_distinct():
    for connections in (1, 3):
        accepted = []
        with listener(lambda _: None, accepted) as target:
            config = LoadConfig(target, rate=100, count=6, timeout=0.3, connections=connections)
            result = await run_load(config)
        assert len(accepted) == connections
        assert result.codes == {"DEADLINE_EXCEEDED": 6}


async def test_requests_under_way_are_bounded():
    with listener(lambda _: None) as target:
        config = LoadConfig(target, rate=200, count=60, timeout=1, max_in_flight=7)
        result = await run_load(config)
    assert (result.due, result.sent, result.overrun) == (60, 7, 53)
    assert result.failed == 7
    assert result.lost == 60


def answer():
    response = messages.PredictResponse()
    response.model_spec.version.value = 2
    return response


async def test_the_share_per_replica_is_what_the_gateway_says():
    turns = itertools.cycle(("10.0.0.1:8500", "10.0.0.2:8500", "10.0.0.2:8500"))

    def predict(_, context):
        context.send_initial_metadata((("x-served-by", next(turns)),))
        return answer()

    with predictor(predict) as target:
        result = await run_load(LoadConfig(target, rate=500, count=30))
    assert result.share == {"10.0.0.1:8500": 10, "10.0.0.2:8500": 20}
    assert result.max_over_mean == pytest.approx(20 / 15)
    assert result.versions == {2: 30}


async def test_the_share_may_come_in_trailers_and_under_another_name():
    def predict(_, context):
        context.set_trailing_metadata((("x-replica", "b"),))
        return answer()

    with predictor(predict) as target:
        result = await run_load(LoadConfig(target, rate=500, count=5, share_key="X-Replica"))
    assert result.share == {"b": 5}


async def test_a_failure_names_the_replica():
    def predict(_, context):
        context.send_initial_metadata((("x-served-by", "10.0.0.3:8500"),))
        context.abort(grpc.StatusCode.INTERNAL, "broken")

    with predictor(predict) as target:
        result = await run_load(LoadConfig(target, rate=500, count=3))
    assert {f.peer for f in result.failures} == {"10.0.0.3:8500"}
    assert result.codes == {"INTERNAL": 3}


async def test_no_attempt_is_hidden_by_a_retry():
    calls = 0

    def predict(_, context):
        nonlocal calls
        calls += 1
        context.abort(grpc.StatusCode.UNAVAILABLE, "no")

    with predictor(predict) as target:
        result = await run_load(LoadConfig(target, rate=100, count=5))
    assert calls == result.failed == 5


async def test_retries_are_the_clients_when_asked_for():
    calls = 0

    def predict(_, context):
        nonlocal calls
        calls += 1
        if calls % 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        return answer()

    before = time.time()
    with predictor(predict) as target:
        result = await run_load(LoadConfig(target, rate=5, count=3, retries=True))
    assert (result.ok, result.failed, result.retries, calls) == (3, 0, True, 6)
    assert before < result.started_at < time.time()


async def test_rows_are_lengths_within_what_was_measured():
    seen = []

    def predict(request, _):
        seen.append(tensors.to_array(request.inputs["chopstick_length"]))
        return answer()

    with predictor(predict) as target:
        await run_load(LoadConfig(target, rate=100, count=2, rows=17))
    assert seen[0].shape == (17, 1)
    assert seen[0].dtype == np.float32
    assert seen[0].min() >= 180
    assert seen[0].max() <= 330
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(lengths(17, 0), seen[0])


async def test_a_stop_event_ends_a_load(model_server):
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    config = LoadConfig(model_server.grpc, rate=100, duration=600)
    result = await asyncio.wait_for(run_load(config, stop), 20)
    assert result.stopped
    assert result.ok == result.sent
    assert result.achieved_rate == pytest.approx(100, rel=0.7)


async def test_a_load_runs_once(model_server):
    load = Load(LoadConfig(model_server.grpc, rate=100, count=1))
    await load.run()
    with pytest.raises(ChopstickError, match="has run"):
        await load.run()


def test_in_thread_raises_what_went_wrong():
    load = InThread(LoadConfig("nowhere", rate=1, count=1))
    with pytest.raises(ChopstickError, match="not HOST:PORT"), load:
        pass


def test_in_thread_stops_when_its_block_fails(model_server):
    started = time.monotonic()
    load = InThread(LoadConfig(model_server.grpc, rate=50, duration=600))
    with pytest.raises(ZeroDivisionError), load:
        raise ZeroDivisionError
    assert time.monotonic() - started < 20
    assert load.result.stopped
