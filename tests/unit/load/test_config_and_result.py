"""Schedules, limits, counting: the parts of a load that need no server."""

import asyncio
import itertools
import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ChopstickError
from serving.load import LoadConfig, LoadResult
from serving.load import recorder as recorder_module
from serving.load.recorder import Recorder
from serving.load.timer import Timer


def config(**settings):
    return LoadConfig("h:1", **{"rate": 100.0, "duration": 2.0, **settings})


def test_a_constant_rate_has_equal_gaps_and_ends():
    due = list(config(rate=4, duration=1).schedule())
    assert due == [0.0, 0.25, 0.5, 0.75]
    assert len(list(config(rate=1000, duration=None, count=7).schedule())) == 7
    assert len(list(config(rate=1000, duration=0.005, count=7).schedule())) == 5
    assert len(list(config(rate=1000, duration=1, count=7).schedule())) == 7


@given(rate=st.floats(0.5, 5000), duration=st.floats(0.01, 3))
def test_a_constant_rate_is_kept_over_the_whole_load(rate, duration):
    due = list(LoadConfig("h:1", rate=rate, duration=duration).schedule())
    assert len(due) == pytest.approx(rate * duration, abs=1)
    assert due == sorted(due)
    assert all(0 <= moment < duration for moment in due)


def test_poisson_keeps_the_rate_on_average_and_repeats_by_seed():
    settings = {"rate": 1000, "duration": 20, "poisson": True}
    due = list(config(**settings).schedule())
    assert len(due) == pytest.approx(20_000, rel=0.05)
    gaps = [b - a for a, b in itertools.pairwise(due)]
    # An exponential distribution's spread is its mean; equal gaps have none.
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert spread == pytest.approx(mean, rel=0.1)
    assert due == list(config(**settings).schedule())
    assert due != list(config(**settings, seed=1).schedule())


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 0},
        {"rate": -5},
        {"rate": math.nan},
        {"rate": math.inf},
        {"rate": 1e9},
        {"duration": 0},
        {"duration": 1e9},
        {"duration": None},
        {"count": 0},
        {"connections": 0},
        {"connections": 100_000},
        {"timeout": 0},
        {"timeout": math.nan},
        {"rows": 0},
        {"rows": 10**9},
        {"max_in_flight": 0},
    ],
)
def test_absurd_loads_are_refused(settings):
    (name,) = settings
    with pytest.raises(ChopstickError, match=name) as caught:
        config(**settings)
    assert caught.value.remedy


def test_rest_has_no_retries():
    with pytest.raises(ChopstickError, match="REST has no retry policy"):
        config(rest=True, retries=True)


def test_counting():
    recorder = Recorder(config())
    for number in range(100):
        due = number / 100
        recorder.sent(due, due + (0.02 if number == 50 else 0.001))
        recorder.answered(due, due + (number + 1) / 1000, f"replica-{number % 2}", 3)
    recorder.sent(1.0, 1.0)
    recorder.failed(1.0, 1.5, "UNAVAILABLE", "gone", "replica-0")
    recorder.overrun()
    result = recorder.result
    assert (result.due, result.sent, result.ok, result.failed, result.overrun) == (
        102,
        101,
        100,
        1,
        1,
    )
    assert (result.late, result.lost) == (1, 2)
    assert result.latest == pytest.approx(0.02)
    assert result.share == {"replica-0": 50, "replica-1": 50}
    assert result.max_over_mean == 1.0
    assert result.versions == {3: 100}
    latency = recorder.summary()
    assert latency is not None
    assert latency.p50 == pytest.approx(0.050, rel=2e-3)
    assert latency.p90 == pytest.approx(0.090, rel=2e-3)
    assert latency.p99 == pytest.approx(0.099, rel=2e-3)
    assert latency.max == pytest.approx(0.100, rel=2e-3)
    assert latency.mean == pytest.approx(0.0505, rel=1e-6)
    assert sum(second.ok for second in result.seconds) == 100
    assert result.seconds[1].failed == 1


def test_failures_are_kept_up_to_a_limit_and_counted_beyond(monkeypatch):
    monkeypatch.setattr(recorder_module, "KEPT_FAILURES", 10)
    recorder = Recorder(config())
    for number in range(25):
        recorder.sent(number, number)
        recorder.failed(number, number, "UNAVAILABLE" if number % 5 else "INTERNAL", "x" * 9999, "")
    result = recorder.result
    assert len(result.failures) == 10
    assert len(result.failures[0].message) <= 500
    assert result.codes == {"UNAVAILABLE": 20, "INTERNAL": 5}
    assert result.failed == 25


def test_names_of_replicas_are_bounded():
    recorder = Recorder(config())
    for number in range(3000):
        recorder.answered(0, 0.001, str(number), None)
    assert len(recorder.result.share) == recorder_module.MAX_REPLICAS


def test_failures_around_a_mark():
    recorder = Recorder(config())
    for at in (0.5, 1.0, 1.5, 2.0):
        recorder.failed(at, at, "UNAVAILABLE", "", "")
    result = recorder.result
    result.marks["kill"] = 1.0
    assert [f.at for f in result.failures_between(1.0, 2.0)] == [1.0, 1.5]
    assert [f.at for f in result.around("kill", before=0.6, after=0.1)] == [0.5, 1.0]


def test_a_result_without_answers_has_no_percentiles():
    result = LoadResult("h:1", 1.0, 1)
    assert result.latency is None
    assert result.max_over_mean is None
    assert result.achieved_rate == 0


def test_json_holds_everything():
    recorder = Recorder(config())
    recorder.sent(0, 0)
    recorder.answered(0, 0.001, "a", 1)
    recorder.failed(0, 1.0, "INTERNAL", "x", "a")
    recorder.result.latency = recorder.summary()
    plain = json.loads(json.dumps(recorder.result.to_json()))
    assert plain["latency"]["p50"] == pytest.approx(0.001, rel=2e-3)
    assert plain["failures"][0]["code"] == "INTERNAL"
    assert plain["versions"] == {"1": 1}
    assert plain["max_over_mean"] == 1.0


async def test_the_timer_wakes_on_time_and_never_early():
    timer = Timer()
    behind = []
    for _ in range(40):
        moment = time.monotonic() + 0.0037
        await timer.until(moment)
        behind.append(time.monotonic() - moment)
    assert min(behind) >= 0
    # A busy machine delays some; the loop's own timers would be 0.5 ms late at the median.
    assert sorted(behind)[10] < 0.002
    await timer.until(time.monotonic() - 1)
    timer.close()
    timer.close()


async def test_the_timer_gives_way_when_cancelled():
    timer = Timer()
    waiting = asyncio.create_task(timer.until(time.monotonic() + 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    timer.close()
