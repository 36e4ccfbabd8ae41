"""Batches as TFS makes them: sizes, limits, padding, splitting, errors, and callers that leave."""

import asyncio
import threading

import numpy as np
import pytest

from serving.protocol import messages
from serving.protocol.status import Code, ServingError
from serving.server.batching import BatchScheduler, BatchThreads, validate
from serving.server.metrics import ServerMetrics


def parameters(*allowed, pad=False, **values):
    result = messages.BatchingParameters(
        allowed_batch_sizes=allowed, pad_variable_length_inputs=pad
    )
    for name, value in values.items():
        getattr(result, name).value = value
    return result


def rows(*values):
    return [np.array(values, np.float32)]


class Model:
    """Doubles its first input, notes the batches, and waits in each while `gate` is clear."""

    def __init__(self) -> None:
        self.batches: list[list[list[float]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.error: BaseException | None = None

    def __call__(self, inputs):
        self.batches.append([array.tolist() for array in inputs])
        self.entered.release()
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return [inputs[0] * 2, inputs[-1]]

    async def is_in(self):
        """Returns when one more batch has been entered."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=20)


@pytest.fixture
def model():
    model = Model()
    yield model
    model.gate.set()


@pytest.fixture
def metrics():
    return ServerMetrics()


@pytest.fixture
def make(metrics):
    made = []

    def make(*allowed, **values):
        values.setdefault("num_batch_threads", 1)
        made.append(BatchScheduler(parameters(*allowed, **values), metrics))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.close()


async def fails(work):
    with pytest.raises(ServingError) as caught:
        await work
    return caught.value.code, caught.value.message


async def in_queue(scheduler, model, *tasks, key="k", timeout=None):
    """Start a batch that blocks the only thread, then enqueue the tasks; their futures."""
    model.gate.clear()
    first = asyncio.ensure_future(scheduler.run("first", model, rows(0), None))
    await model.is_in()
    waiting = []
    for task in tasks:
        waiting.append(asyncio.ensure_future(scheduler.run(key, model, task, timeout)))
        # The coroutine must reach the queue.
        await asyncio.sleep(0)
    return first, waiting


async def test_one_task_runs_alone_and_at_once(make, model, metrics):
    outputs = await make().run("k", model, rows(1, 2), None)
    assert [array.tolist() for array in outputs] == [[2, 4], [1, 2]]
    assert metrics.wrapped_run_count.value() == 1
    assert metrics.input_batch_size.sum() == 2
    assert metrics.processed_batch_size.sum() == 2
    assert metrics.padding_size.sum(("2",)) == 0
    assert metrics.queuing_latency.count(("",)) == 1


async def test_tasks_of_one_turn_share_a_batch(make, model):
    scheduler = make()
    outputs = await asyncio.gather(
        *(scheduler.run("k", model, rows(value), None) for value in range(5))
    )
    assert model.batches == [[[0, 1, 2, 3, 4]]]
    assert [output[0].tolist() for output in outputs] == [[0], [2], [4], [6], [8]]


async def test_what_waits_while_the_threads_are_busy_shares_a_batch(make, model, metrics):
    scheduler = make(max_batch_size=4)
    first, waiting = await in_queue(scheduler, model, *[rows(value) for value in range(1, 7)])
    model.gate.set()
    assert [(await work)[0].tolist() for work in waiting] == [[2], [4], [6], [8], [10], [12]]
    await first
    assert model.batches[1:] == [[[1, 2, 3, 4]], [[5, 6]]]
    assert metrics.wrapped_run_count.value() == 3


async def test_keys_and_dtypes_do_not_mix(make, model):
    scheduler = make()
    await asyncio.gather(
        scheduler.run("a", model, rows(1), None),
        scheduler.run("b", model, rows(2), None),
        scheduler.run("b", model, [np.array([3], np.int64)], None),
    )
    assert sorted(batch[0][0] for batch in model.batches) == [1, 2, 3]


async def test_timeout_micros_waits_for_more(make, model):
    scheduler = make(batch_timeout_micros=50_000, max_batch_size=3)
    started = asyncio.get_running_loop().time()
    first = asyncio.ensure_future(scheduler.run("k", model, rows(1), None))
    await asyncio.sleep(0.005)
    second = asyncio.ensure_future(scheduler.run("k", model, rows(2), None))
    await asyncio.gather(first, second)
    assert model.batches == [[[1, 2]]]
    assert asyncio.get_running_loop().time() - started >= 0.05


async def test_full_batch_does_not_wait(make, model):
    scheduler = make(batch_timeout_micros=60_000_000, max_batch_size=2)
    async with asyncio.timeout(10):
        await asyncio.gather(
            scheduler.run("k", model, rows(1), None), scheduler.run("k", model, rows(2), None)
        )
    assert model.batches == [[[1, 2]]]


async def test_task_that_does_not_fit_closes_the_batch(make, model):
    scheduler = make(max_batch_size=3)
    first, waiting = await in_queue(scheduler, model, rows(1, 2), rows(3, 4), rows(5))
    model.gate.set()
    await asyncio.gather(first, *waiting)
    assert model.batches[1:] == [[[1, 2]], [[3, 4, 5]]]


async def test_task_too_large(make, model):
    error = await fails(make(max_batch_size=2).run("k", model, rows(1, 2, 3), None))
    assert error == (
        Code.INVALID_ARGUMENT,
        "Task size 3 is larger than maximum input batch size 2",
    )


async def test_queue_full(make, model):
    scheduler = make(max_batch_size=1, max_enqueued_batches=2)
    first, waiting = await in_queue(scheduler, model, rows(1), rows(2))
    error = await fails(scheduler.run("k", model, rows(3), None))
    assert error == (
        Code.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; currently 2 batches "
        "enqueued and max_enqueued_batches is 2",
    )
    model.gate.set()
    await asyncio.gather(first, *waiting)
    await scheduler.run("k", model, rows(3), None)


async def test_padding_to_an_allowed_size(make, model, metrics):
    scheduler = make(2, 4, 8, max_batch_size=8)
    first, waiting = await in_queue(scheduler, model, rows(1, 2), rows(7))
    model.gate.set()
    await asyncio.gather(first, *waiting)
    # The first row of the last task.
    assert model.batches == [[[0, 0]], [[1, 2, 7, 7]]]
    assert waiting[1].result()[0].tolist() == [14]
    assert metrics.padding_size.sum(("4",)) == 1
    assert metrics.processed_batch_size.sum() == 2 + 4
    assert metrics.input_batch_size.sum() == 1 + 2 + 1


async def test_splitting_a_large_task(make, model):
    scheduler = make(
        enable_large_batch_splitting=True, max_batch_size=10, max_execution_batch_size=4
    )
    first, waiting = await in_queue(scheduler, model, rows(1), rows(2, 3, 4, 5, 6, 7, 8, 9))
    model.gate.set()
    assert (await waiting[1])[0].tolist() == [4, 6, 8, 10, 12, 14, 16, 18]
    assert (await waiting[0])[0].tolist() == [2]
    await first
    assert model.batches[1:] == [[[1, 2, 3, 4]], [[5, 6, 7, 8]], [[9]]]


async def test_splitting_has_its_own_text_for_a_full_queue(make, model):
    scheduler = make(
        enable_large_batch_splitting=True,
        max_batch_size=9,
        max_execution_batch_size=3,
        max_enqueued_batches=2,
    )
    first, waiting = await in_queue(scheduler, model, rows(1, 2))
    error = await fails(scheduler.run("k", model, rows(1, 2, 3, 4, 5), None))
    assert error == (
        Code.UNAVAILABLE,
        "The batch scheduling queue to which this task was submitted is full; task size is 5 but "
        "scheduling capacity is only 4 (num_enqueued_batches=1, max_enqueued_batches=2, "
        "open_batch_size=2, max_execution_batch_size=3)",
    )
    model.gate.set()
    await asyncio.gather(first, *waiting)


async def test_inputs_that_can_not_be_batched(make, model):
    scheduler = make()
    cases = {
        "Batching Run() must have at least one input tensor": [],
        "Batching Run() input tensors must have at least one dimension": [np.float32(1)],
        "Batching Run() input tensors must have equal 0th-dimension size": [*rows(1), *rows(1, 2)],
    }
    for message, inputs in cases.items():
        arrays = [np.asarray(array) for array in inputs]
        error = await fails(scheduler.run("k", model, arrays, None))
        assert error == (Code.INVALID_ARGUMENT, message)
    assert not model.batches


async def test_shapes_that_differ_fail_without_padding(make, model):
    scheduler = make()
    short, long = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
    results = await asyncio.gather(
        scheduler.run("k", model, [short], None, ["Placeholder:0"]),
        scheduler.run("k", model, [long], None, ["Placeholder:0"]),
        return_exceptions=True,
    )
    for error in results:
        assert isinstance(error, ServingError)
        assert (error.code, error.message) == (
            Code.FAILED_PRECONDITION,
            "Tensors with name 'Placeholder:0' from different tasks have different shapes and "
            "padding is turned off. Set pad_variable_length_inputs to true, or ensure that all "
            "tensors with the same name have equal dimensions starting with the first dim.",
        )


async def test_shapes_that_differ_are_padded(make, model):
    scheduler = make(pad=True)
    short, long = np.array([[5, 6]], np.float32), np.array([[1, 2, 3]], np.float32)
    outputs = await asyncio.gather(
        scheduler.run("k", model, [short], None), scheduler.run("k", model, [long], None)
    )
    assert model.batches == [[[[5, 6, 5], [1, 2, 3]]]]
    assert outputs[0][0].tolist() == [[10, 12, 10]]
    texts = [np.array([[b"a"]], object), np.array([[b"b", b"c"]], object)]
    await asyncio.gather(*(scheduler.run("s", lambda x: x, [text], None) for text in texts))


async def test_empty_tensor_among_others_can_not_be_padded(make, model):
    scheduler = make(pad=True)
    empty, full = np.ones((1, 0), np.float32), np.ones((1, 3), np.float32)
    results = await asyncio.gather(
        scheduler.run("k", model, [empty], None),
        scheduler.run("k", model, [full], None),
        return_exceptions=True,
    )
    assert {str(error) for error in results} == {"Got empty tensor in batch of non-empty tensors."}


async def test_task_without_rows(make, model):
    outputs = await make().run("k", model, [np.zeros((0, 2), np.float32)], None)
    assert outputs[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.float32(1), "Batched output tensor has 0 dimensions"),
        (
            np.zeros(3),
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
            "sizes of the input tensors",
        ),
    ],
)
async def test_outputs_that_can_not_be_split(make, output, message):
    error = await fails(make().run("k", lambda _: [np.asarray(output)], rows(1), None))
    assert error == (Code.FAILED_PRECONDITION, message)


async def test_error_of_a_run_reaches_everybody_in_it_and_nobody_else(make, model):
    scheduler = make()
    model.error = ServingError(Code.INTERNAL, "model failed")
    results = await asyncio.gather(
        *(scheduler.run("k", model, rows(value), None) for value in range(3)),
        return_exceptions=True,
    )
    assert [str(error) for error in results] == ["model failed"] * 3
    model.error = None
    assert (await scheduler.run("k", model, rows(4), None))[0].tolist() == [8]


async def test_caller_that_leaves_takes_its_rows_along(make, model):
    scheduler = make()
    first, waiting = await in_queue(scheduler, model, rows(1), rows(2), rows(3))
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    model.gate.set()
    assert (await waiting[0])[0].tolist() == [2]
    assert (await waiting[2])[0].tolist() == [6]
    await first
    assert model.batches[1:] == [[[1, 3]]]


async def test_caller_that_leaves_a_running_batch(make, model):
    scheduler = make()
    model.gate.clear()
    tasks = [asyncio.ensure_future(scheduler.run("k", model, rows(v), None)) for v in (1, 2)]
    await model.is_in()
    tasks[0].cancel()
    model.gate.set()
    assert (await tasks[1])[0].tolist() == [4]
    assert tasks[0].cancelled()


async def test_split_task_whose_caller_leaves(make, model):
    scheduler = make(
        enable_large_batch_splitting=True, max_batch_size=6, max_execution_batch_size=2
    )
    first, waiting = await in_queue(scheduler, model, rows(1, 2, 3, 4, 5), rows(9))
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    model.gate.set()
    assert (await waiting[1])[0].tolist() == [18]
    await first
    assert model.batches[1:] == [[[9]]]


async def test_deadline_that_passes_in_the_queue(make, model):
    scheduler = make()
    first, late = await in_queue(scheduler, model, rows(1), timeout=0.001)
    patient = asyncio.ensure_future(scheduler.run("k", model, rows(2), 60))
    await asyncio.sleep(0.01)
    model.gate.set()
    assert await fails(late[0]) == (
        Code.RESOURCE_EXHAUSTED,
        "Run() timeout exceeded while waiting in batching queue",
    )
    assert (await patient)[0].tolist() == [4]
    await first
    assert model.batches[1:] == [[[2]]]


async def test_threads_are_shared_in_turns(metrics, model):
    """Two models on one thread: neither waits for the other's whole queue."""
    threads = BatchThreads(1)
    one, two = (
        BatchScheduler(parameters(max_batch_size=1), metrics, threads=threads) for _ in range(2)
    )
    first, waiting = await in_queue(one, model, rows(1), rows(2), rows(3))
    other = asyncio.ensure_future(two.run("k", model, rows(10), None))
    await asyncio.sleep(0)
    model.gate.set()
    await asyncio.gather(first, other, *waiting)
    assert [batch[0][0] for batch in model.batches].index(10) <= 2
    one.close()
    two.close()


async def test_as_many_batches_at_once_as_threads(make, model):
    scheduler = make(max_batch_size=1, num_batch_threads=2)
    model.gate.clear()
    tasks = [asyncio.ensure_future(scheduler.run("k", model, rows(v), None)) for v in range(4)]
    await model.is_in()
    await model.is_in()
    assert len(model.batches) == 2
    model.gate.set()
    await asyncio.gather(*tasks)


async def test_many_keys_are_not_kept(make, model):
    scheduler = make()
    for number in range(200):
        await scheduler.run(f"key {number}", model, rows(1), None)
    assert len(scheduler._queues) <= 65


async def test_end_of_the_threads_is_an_answer(make, model):
    scheduler = make()
    scheduler.executor.shutdown()
    error = await fails(scheduler.run("k", model, rows(1), None))
    assert error == (Code.UNAVAILABLE, "The server is shutting down")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            parameters(2, 4, max_batch_size=8),
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
        (
            parameters(2, 4),
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 1000",
        ),
        (parameters(num_batch_threads=0), "num_batch_threads must be positive; was 0"),
        (parameters(max_batch_size=0), "input_batch_size_limit must be positive; was 0"),
        (parameters(batch_timeout_micros=-1), "batch_timeout_micros must be non-negative; was -1"),
        (parameters(max_enqueued_batches=0), "max_enqueued_batches must be positive; was 0"),
        (
            parameters(
                enable_large_batch_splitting=True, max_batch_size=4, max_execution_batch_size=8
            ),
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater "
            "than or equal to max_execution_batch_size.148",
        ),
    ],
)
def test_parameters_that_tfs_refuses(given, message):
    with pytest.raises(ServingError) as caught:
        validate(given)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, message)


def test_defaults_are_tfs():
    validate(parameters())
    made = BatchScheduler(parameters(), ServerMetrics()).parameters
    assert (made.max_batch_size, made.timeout_micros, made.max_enqueued_batches) == (1000, 0, 10)
    assert made.max_execution_size == 1000
    assert not made.split
