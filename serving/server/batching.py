"""Batching of runs across requests, as TFS does it, on one event loop.

The queue's rules are those of TensorFlow's shared_batch_scheduler.h, what happens to a batch is
tensorflow_serving/batching/batching_session.cc, texts of errors included. Where this differs from
TFS on purpose:

- A task whose caller has left, or whose deadline passed in the queue, is taken out of its batch;
  TFS 2.21 runs it as long as one task of the batch is still wanted.
- Tasks of different dtypes never share a batch; in TFS one client with a wrong dtype fails the
  batch for everybody in it.
- A task without rows is run; in TFS it waits until another one comes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import messages
from serving.protocol.status import (
    Code,
    ServingError,
    failed_precondition,
    internal,
    invalid_argument,
    unavailable,
)
from serving.server.metrics import ServerMetrics

Array = NDArray[Any]
Runner = Callable[[list[Array]], Sequence[Array]]

# SharedBatchScheduler<TaskType>::QueueOptions.
MAX_BATCH_SIZE = 1000
MAX_ENQUEUED_BATCHES = 10


class _Parameters:
    """BatchingParameters with TFS's defaults filled in."""

    def __init__(self, parameters: messages.BatchingParameters) -> None:
        def value(field: str, default: int) -> int:
            holder = getattr(parameters, field)
            return int(holder.value) if parameters.HasField(field) else default

        self.max_batch_size = value("max_batch_size", MAX_BATCH_SIZE)
        self.timeout_micros = value("batch_timeout_micros", 0)
        self.max_enqueued_batches = value("max_enqueued_batches", MAX_ENQUEUED_BATCHES)
        self.threads = value("num_batch_threads", len(os.sched_getaffinity(0)))
        self.allowed_sizes = list(parameters.allowed_batch_sizes)
        self.pad_inputs = parameters.pad_variable_length_inputs
        self.split = parameters.enable_large_batch_splitting.value
        self.max_execution_size = (
            value("max_execution_batch_size", self.max_batch_size)
            if self.split
            else self.max_batch_size
        )


def validate(parameters: messages.BatchingParameters) -> None:
    """Raise ServingError (INVALID_ARGUMENT) for parameters that TFS refuses, in its words."""
    given = _Parameters(parameters)
    if given.threads < 1:
        raise invalid_argument(f"num_batch_threads must be positive; was {given.threads}")
    if given.allowed_sizes and given.allowed_sizes[-1] != given.max_batch_size:
        raise invalid_argument(
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
            f"{given.allowed_sizes[-1]}; expected {given.max_batch_size}"
        )
    if given.max_batch_size < 1:
        raise invalid_argument(
            f"input_batch_size_limit must be positive; was {given.max_batch_size}"
        )
    if given.timeout_micros < 0:
        raise invalid_argument(
            f"batch_timeout_micros must be non-negative; was {given.timeout_micros}"
        )
    if given.max_enqueued_batches < 1:
        raise invalid_argument(
            f"max_enqueued_batches must be positive; was {given.max_enqueued_batches}"
        )
    if given.split and given.max_batch_size < given.max_execution_size:
        # TFS forgets the blanks between its last words.
        raise invalid_argument(
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater "
            "than or equal to max_execution_batch_size."
            f"1{given.max_batch_size}{given.max_execution_size}"
        )


class BatchThreads:
    """How many batches may run at once; share one between schedulers as TFS shares its threads."""

    def __init__(self, count: int) -> None:
        self.free = count
        self._queues: deque[_Queue] = deque()
        self._pumping = False

    def add(self, queue: _Queue) -> None:
        """Put a queue into the round."""
        self._queues.append(queue)

    def remove(self, queue: _Queue) -> None:
        """Take a queue out of the round."""
        self._queues.remove(queue)

    def wake(self) -> None:
        """Look for work in this turn of the event loop, after what else is ready in it.

        Requests that are read in the same turn thereby meet in one batch.
        """
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        idle = 0
        while self.free and idle < len(self._queues):
            queue = self._queues[0]
            self._queues.rotate(-1)
            batch = queue.take()
            if batch is None:
                idle += 1
                continue
            idle = 0
            self.free -= 1
            queue.start(batch, self._done)

    def _done(self) -> None:
        self.free += 1
        self.wake()


class _Task:
    """One caller's rows, or a part of them."""

    __slots__ = ("deadline", "enqueued", "future", "inputs", "runner", "size")

    def __init__(self, inputs: list[Array], runner: Runner, deadline: float | None) -> None:
        self.inputs = inputs
        self.size = inputs[0].shape[0]
        self.runner = runner
        self.enqueued = time.monotonic()
        self.deadline = deadline
        self.future: asyncio.Future[list[Array]] = asyncio.get_running_loop().create_future()


class _Batch:
    __slots__ = ("size", "tasks")

    def __init__(self) -> None:
        self.tasks: list[_Task] = []
        self.size = 0


class _Queue:
    """Batches of one key: closed ones that wait, then the open one."""

    def __init__(self, scheduler: BatchScheduler, names: Sequence[str]) -> None:
        self._scheduler = scheduler
        self._limits = scheduler.parameters
        self._names = names
        self._batches: deque[_Batch] = deque((_Batch(),))
        self._open_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.running = 0

    @property
    def is_empty(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self.running and len(self._batches) == 1 and not self._batches[0].tasks

    def schedule(self, task: _Task) -> list[_Task]:
        """Enqueue; the parts that the task was split into. Raises ServingError."""
        limits, batches = self._limits, self._batches
        if task.size > limits.max_batch_size:
            raise invalid_argument(
                f"Task size {task.size} is larger than maximum input batch size "
                f"{limits.max_batch_size}"
            )
        room = limits.max_execution_size - batches[-1].size
        if limits.split:
            capacity = (
                limits.max_enqueued_batches - len(batches)
            ) * limits.max_execution_size + room
            if task.size > capacity:
                raise unavailable(
                    "The batch scheduling queue to which this task was submitted is full; task "
                    f"size is {task.size} but scheduling capacity is only {capacity} "
                    f"(num_enqueued_batches={len(batches)}, "
                    f"max_enqueued_batches={limits.max_enqueued_batches}, "
                    f"open_batch_size={batches[-1].size}, "
                    f"max_execution_batch_size={limits.max_execution_size})"
                )
        if (
            batches[-1].size + task.size > limits.max_batch_size
            and len(batches) >= limits.max_enqueued_batches
        ):
            raise unavailable(
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{len(batches)} batches enqueued and max_enqueued_batches is "
                f"{limits.max_enqueued_batches}"
            )
        parts = [task]
        if limits.split and task.size > room:
            parts = _split(task, room, limits.max_execution_size)
        for part in parts:
            if batches[-1].size + part.size > limits.max_execution_size:
                batches.append(_Batch())
            tail = batches[-1]
            if not tail.tasks:
                self._open_since = time.monotonic()
            tail.tasks.append(part)
            tail.size += part.size
        return parts

    def take(self) -> _Batch | None:
        """The next batch that is due, without tasks that nobody wants; None when none is."""
        batches = self._batches
        while True:
            if len(batches) == 1:
                tail = batches[0]
                if not tail.tasks:
                    return None
                due = self._open_since + self._limits.timeout_micros / 1e6
                if tail.size < self._limits.max_execution_size and time.monotonic() < due:
                    self._wake_at(due)
                    return None
                batches.append(_Batch())
            batch = batches.popleft()
            self._drop_unwanted(batch)
            if batch.tasks:
                return batch

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # The loop's clock may tick in milliseconds; a wake-up too early only waits again.
        delay = max(0.0, due - time.monotonic())
        threads = self._scheduler.threads
        self._timer = asyncio.get_running_loop().call_later(delay, threads.wake)

    def _drop_unwanted(self, batch: _Batch) -> None:
        now = time.monotonic()
        wanted: list[_Task] = []
        for task in batch.tasks:
            if task.future.done():
                continue
            waited = (now - task.enqueued) * 1e6
            self._scheduler.metrics.queuing_latency.observe(("",), waited)
            if task.deadline is not None and now >= task.deadline:
                task.future.set_exception(
                    ServingError(
                        Code.RESOURCE_EXHAUSTED,
                        "Run() timeout exceeded while waiting in batching queue",
                    )
                )
                continue
            wanted.append(task)
        batch.tasks = wanted
        batch.size = sum(task.size for task in wanted)

    def start(self, batch: _Batch, done: Callable[[], None]) -> None:
        """Run the batch in a thread and give every task its share; then call `done`."""
        self.running += 1
        scheduler = self._scheduler

        def finish(work: asyncio.Future[list[list[Array]]]) -> None:
            self.running -= 1
            done()
            error: BaseException | None
            if work.cancelled():
                error = unavailable("The server is shutting down")
            else:
                error = work.exception()
            for index, task in enumerate(batch.tasks):
                if task.future.done():
                    continue
                if error is not None:
                    task.future.set_exception(error)
                else:
                    task.future.set_result(work.result()[index])
            scheduler.forget_if_empty(self)

        try:
            work = asyncio.get_running_loop().run_in_executor(
                scheduler.executor, self._process, batch
            )
        except RuntimeError:
            # The executor is shut down.
            work = asyncio.get_running_loop().create_future()
            work.cancel()
        work.add_done_callback(finish)

    def _process(self, batch: _Batch) -> list[list[Array]]:
        """Merge, run, split; in a thread. Raises ServingError or what the runner raises."""
        metrics, limits = self._scheduler.metrics, self._limits
        tasks = batch.tasks
        target = _round_up(limits.allowed_sizes, batch.size)
        padding = target - batch.size
        metrics.padding_size.observe((str(target),), padding)
        metrics.processed_batch_size.observe((), target)
        merged = [
            self._merge(position, [task.inputs[position] for task in tasks], padding)
            for position in range(len(tasks[0].inputs))
        ]
        try:
            outputs = tasks[0].runner(merged)
        finally:
            metrics.wrapped_run_count.add()
        for output in outputs:
            if np.ndim(output) == 0:
                raise failed_precondition("Batched output tensor has 0 dimensions")
            if output.shape[0] != target:
                raise failed_precondition(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    "dimension sizes of the input tensors"
                )
        shares: list[list[Array]] = []
        at = 0
        for task in tasks:
            shares.append([output[at : at + task.size] for output in outputs])
            at += task.size
        return shares

    def _merge(self, position: int, arrays: list[Array], padding: int) -> Array:
        """One input of all tasks on top of each other. Raises ServingError."""
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            if not self._limits.pad_inputs or len({array.ndim for array in arrays}) > 1:
                name = self._names[position] if position < len(self._names) else str(position)
                raise failed_precondition(
                    f"Tensors with name '{name}' from different tasks have different shapes and "
                    "padding is turned off. Set pad_variable_length_inputs to true, or ensure "
                    "that all tensors with the same name have equal dimensions starting with the "
                    "first dim."
                )
            arrays = _pad(arrays)
        if padding > 0:
            # TFS takes the last task's first row, which is known to be a valid input.
            rows = next((array for array in reversed(arrays) if len(array)), None)
            if rows is None:
                raise internal("Tensor concat operation failed: no row to pad with")
            arrays = [*arrays, np.repeat(rows[:1], padding, axis=0)]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class BatchScheduler:
    """The queues of one model version (or of several), filled from the event loop.

    `executor` runs batches; by default threads of its own. `threads` limits how many run at once;
    share it between schedulers to share `num_batch_threads`. Raises ServingError
    (INVALID_ARGUMENT) for parameters that TFS refuses. May be made in any thread.
    """

    def __init__(
        self,
        parameters: messages.BatchingParameters,
        metrics: ServerMetrics,
        *,
        executor: Executor | None = None,
        threads: BatchThreads | None = None,
    ) -> None:
        validate(parameters)
        self.parameters = _Parameters(parameters)
        self.metrics = metrics
        self._own_executor = executor is None
        self.executor = executor or ThreadPoolExecutor(
            self.parameters.threads, thread_name_prefix="batch"
        )
        self.threads = threads or BatchThreads(self.parameters.threads)
        self._queues: dict[Hashable, _Queue] = {}

    async def run(
        self,
        key: Hashable,
        runner: Runner,
        inputs: Sequence[Array],
        timeout: float | None,
        names: Sequence[str] = (),
    ) -> list[Array]:
        """Run `inputs` in a batch with others of the same key; this caller's rows of the outputs.

        `runner` takes the merged inputs, in a worker thread; of a batch, any one task's is used.
        `timeout` (seconds) is looked at when the task's turn comes, as in TFS: a caller that wants
        to leave earlier cancels this coroutine, which takes its rows out of the batch unless they
        run already. `names`: the tensors' names, for errors.

        Raises ServingError: INVALID_ARGUMENT for inputs that can't be batched or are too large,
        UNAVAILABLE when the queue is full, RESOURCE_EXHAUSTED when the timeout passed in it, and
        whatever the runner raises, for every caller in the batch.
        """
        arrays = list(inputs)
        _check(arrays)
        for array in arrays:
            self.metrics.input_batch_size.observe((), array.shape[0])
        full_key = (key, tuple(array.dtype.str for array in arrays))
        queue = self._queues.get(full_key)
        if queue is None:
            queue = self._queues[full_key] = _Queue(self, names)
            self.threads.add(queue)
        deadline = time.monotonic() + timeout if timeout is not None and timeout > 0 else None
        task = _Task(arrays, runner, deadline)
        parts = queue.schedule(task)
        self.threads.wake()
        if len(parts) == 1:
            return await parts[0].future
        futures = [part.future for part in parts]
        try:
            shares = await asyncio.gather(*futures, return_exceptions=True)
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
            raise
        results: list[list[Array]] = []
        for share in shares:
            if isinstance(share, BaseException):
                raise share
            results.append(share)
        return [np.concatenate(pieces) for pieces in zip(*results, strict=True)]

    def forget_if_empty(self, queue: _Queue) -> None:
        """Drop an idle queue once there are many: a key is partly the caller's choice."""
        if len(self._queues) <= 64 or not queue.is_empty:
            return
        for key, known in self._queues.items():
            if known is queue:
                del self._queues[key]
                self.threads.remove(queue)
                return

    def close(self) -> None:
        """Forget all queues; call when nothing is in them. Ends the scheduler's own threads."""
        for queue in self._queues.values():
            self.threads.remove(queue)
        self._queues.clear()
        if self._own_executor:
            self.executor.shutdown(wait=False, cancel_futures=True)


def _check(arrays: list[Array]) -> None:
    if not arrays:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    for array in arrays:
        if array.ndim == 0:
            raise invalid_argument("Batching Run() input tensors must have at least one dimension")
        if array.shape[0] != arrays[0].shape[0]:
            raise invalid_argument(
                "Batching Run() input tensors must have equal 0th-dimension size"
            )


def _split(task: _Task, room: int, limit: int) -> list[_Task]:
    """The task in parts: what fits into the open batch, then full batches, then the rest."""
    ends = [room] if room else []
    while (ends[-1] if ends else 0) < task.size:
        ends.append(min((ends[-1] if ends else 0) + limit, task.size))
    parts = []
    start = 0
    for end in ends:
        inputs = [array[start:end] for array in task.inputs]
        part = _Task(inputs, task.runner, task.deadline)
        part.enqueued = task.enqueued
        parts.append(part)
        start = end
    return parts


def _round_up(allowed: Sequence[int], size: int) -> int:
    return next((entry for entry in allowed if entry >= size), size)


def _pad(arrays: list[Array]) -> list[Array]:
    """The arrays with all dimensions but the first brought to the largest, by their first value.

    Raises ServingError (INVALID_ARGUMENT).
    """
    shape = np.max([array.shape for array in arrays], axis=0).tolist()
    if not 1 <= len(shape) <= 6:
        raise invalid_argument("Only tensors with rank from 1 to 6 can be padded.")
    padded = []
    for array in arrays:
        target = (array.shape[0], *shape[1:])
        if array.shape == target or (array.size == 0 and array.shape[0] == 0):
            padded.append(array.reshape(target))
            continue
        if array.size == 0:
            raise invalid_argument("Got empty tensor in batch of non-empty tensors.")
        grown = np.full(target, array.flat[0], dtype=array.dtype)
        grown[tuple(slice(size) for size in array.shape)] = array
        padded.append(grown)
    return padded
