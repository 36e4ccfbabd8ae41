"""Section 6: batching."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.conformance.harness import (
    Reply,
    Server,
    case,
    has,
    predict_request,
    profile,
    same,
    starts,
)
from tests.support.waiting import wait_for

FLAGS = ("--enable_batching", "--monitoring_config_file={folder}/monitoring.config")
BATCHED = profile(
    "batched",
    *FLAGS,
    "--batching_parameters_file={folder}/batching.config",
    only=("half_plus_three", "several", "slow", "padded"),
    files={
        "batching.config": (
            "max_batch_size { value: 4 } batch_timeout_micros { value: 300000 } "
            "max_enqueued_batches { value: 1 } num_batch_threads { value: 1 } "
            'thread_pool_name { value: "mine" } allowed_batch_sizes: 2 allowed_batch_sizes: 4'
        )
    },
)
SPLIT = profile(
    "split",
    *FLAGS,
    "--batching_parameters_file={folder}/batching.config",
    only=("half_plus_three", "padded"),
    files={
        "batching.config": (
            "max_batch_size { value: 8 } max_execution_batch_size { value: 2 } "
            "batch_timeout_micros { value: 200000 } enable_large_batch_splitting { value: true } "
            "num_batch_threads { value: 2 } pad_variable_length_inputs: true"
        )
    },
)
SESSION = ":tensorflow:serving:batching_session:"


def ask(server: Server, rows: int, model: str = "half_plus_three") -> list[float]:
    return server.outputs(model, {"x": [2.0 * row for row in range(rows)]})["y"]


def together(*calls) -> list:
    """Results of calls made at the same time; an exception is a result."""

    def attempt(call):
        try:
            return call()
        except AssertionError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(attempt, calls))


@case("batching.gathers", "metrics.batch-sizes", profile=BATCHED)
def requests_are_gathered_and_each_gets_its_own_rows(server: Server) -> None:
    def four() -> None:
        began = time.monotonic()
        same(together(*[lambda: ask(server, 1)] * 4), [[3.0]] * 4)
        assert time.monotonic() - began < 5

    grown = server.growth(four)
    same(grown.get(f"{SESSION}input_batch_size_count{{}}"), 4)
    same(grown.get(f"{SESSION}input_batch_size_sum{{}}"), 4)
    same(grown.get(f"{SESSION}processed_batch_size_sum{{}}"), 4)
    # One batch of four; where the four came too late for each other, two.
    assert grown.get(f"{SESSION}processed_batch_size_count{{}}") in (1, 2), grown


@case("batching.padding", "metrics.padding-size", profile=BATCHED)
def a_batch_is_padded_to_an_allowed_size(server: Server) -> None:
    grown = server.growth(lambda: same(ask(server, 3), [3.0, 4.0, 5.0]))
    same(grown.get(f"{SESSION}processed_batch_size_sum{{}}"), 4)
    same(grown.get(f'{SESSION}padding_size_sum{{execution_batch_size="4"}}'), 1)


@case("batching.timeout", "metrics.queuing-latency", profile=BATCHED)
def a_lone_request_waits_for_the_timeout(server: Server) -> None:
    began = time.monotonic()
    grown = server.growth(lambda: ask(server, 1))
    assert time.monotonic() - began > 0.25
    same(grown.get(f'{SESSION}queuing_latency_count{{thread_pool_name=""}}'), 1)
    assert grown[f'{SESSION}queuing_latency_sum{{thread_pool_name=""}}'] > 200_000


@case("metrics.wrapped-run-count", profile=BATCHED)
def every_batch_is_one_run_of_the_session_below(server: Server) -> None:
    grown = server.growth(lambda: [ask(server, 4), ask(server, 4)])
    same(grown.get(f"{SESSION}wrapped_run_count{{}}"), 2)


@case("batching.task-too-large", profile=BATCHED)
def a_task_larger_than_a_batch_is_refused(server: Server) -> None:
    request = predict_request("half_plus_three", {"x": [1.0] * 5})
    code, text = server.refusal("Predict", request)
    same(code, "INVALID_ARGUMENT")
    same(text, starts("Task size 5 is larger than maximum input batch size 4"))


@case("batching.unequal-inputs", profile=BATCHED)
def inputs_of_unequal_size_are_refused(server: Server) -> None:
    request = predict_request("several", {"a": [1.0, 2.0], "b": [1.0]})
    code, text = server.refusal("Predict", request)
    same(code, "INVALID_ARGUMENT")
    same(text, has("must have equal 0th-dimension size"))


@case("batching.rank-0", profile=BATCHED)
def an_input_without_dimensions_is_refused(server: Server) -> None:
    request = predict_request("half_plus_three", {"x": np.float32(1.0) * np.ones(())})
    request.inputs["x"].dtype = 1
    request.inputs["x"].ClearField("double_val")
    request.inputs["x"].float_val[:] = [1.0]
    code, text = server.refusal("Predict", request)
    same(code, "INVALID_ARGUMENT")
    same(text, has("Batching Run() input tensors must have at least one dimension"))


@case("batching.queue-full", "rest.http-codes", profile=BATCHED, alone=True)
def a_full_queue_is_unavailable(server: Server) -> None:
    # One batch runs, one is in the queue, and what comes then has no place.
    iterations = [300] * 4
    request = predict_request("slow", {"iterations": iterations})
    results: set[str] = set()
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            try:
                server.call("Predict", request, 60)
                results.add("OK")
            except AssertionError as error:
                results.add(str(error))
                time.sleep(0.02)

    def refused_over_rest() -> Reply | None:
        reply = server.post("/v1/models/slow:predict", {"instances": iterations})
        return None if reply.status == 200 else reply

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(results) > 1, "a refusal and an answer", 20)
        reply = wait_for(refused_over_rest, "a refusal over REST", 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    full = "The batch scheduling queue to which this task was submitted is full"
    for text in results - {"OK"}:
        same(text, starts(f"Predict: UNAVAILABLE: {full}"))
    assert reply is not None
    same((reply.status, reply.error), (503, starts(full)))


@case("batching.splitting", profile=SPLIT)
def with_splitting_a_large_task_is_cut_into_executions(server: Server) -> None:
    grown = server.growth(lambda: same(ask(server, 5), [3.0, 4.0, 5.0, 6.0, 7.0]))
    same(grown.get(f"{SESSION}processed_batch_size_count{{}}"), 3)
    same(grown.get(f"{SESSION}processed_batch_size_sum{{}}"), 5)


@case("batching.pads-variable-length", profile=SPLIT)
def rows_of_unequal_length_are_padded_and_share_a_batch(server: Server) -> None:
    def one(tokens):
        return lambda: server.outputs("padded", {"tokens": np.array([tokens])})

    results = together(one([1, 2, 3]), one([4]))
    # Padding repeats the first value of a row's tensor when there is one (TFS: of the tensor).
    same(results[0], {"sum": [6], "used": [3]})
    same(results[1]["sum"][0] % 4, 0)
