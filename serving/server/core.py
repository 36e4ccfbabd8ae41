"""What gRPC and REST both call: requests in, responses or ServingError out."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import text_format
from numpy.typing import NDArray

from serving.protocol import messages
from serving.protocol.status import (
    ServingError,
    deadline_exceeded,
    failed_precondition,
    invalid_argument,
    not_found,
)
from serving.server import config, inference, memory, source, warmup
from serving.server.bundle import Arrays, SavedModelBundle
from serving.server.inference import Call
from serving.server.logs import log
from serving.server.manager import LoadPolicy, Servable, ServableManager
from serving.server.metrics import ServerMetrics
from serving.server.options import ServerOptions, schedulable_cpus
from serving.server.tensorflow import config_pb2

if TYPE_CHECKING:
    from serving.server.batching import BatchScheduler, BatchThreads

R = TypeVar("R")
# A request or reply above this is taken apart or put together in a worker thread: a megabyte
# takes about a millisecond.
LARGE_BYTES = 256 << 10
# How long short runs may keep the event loop before it looks at its connections again.
MAX_TURN_SECONDS = 0.005

PER_MODEL_BATCHING_FILE = "batching_params.pbtxt"


class ServerCore:
    """Models, their configuration, and the answering of requests, on one event loop."""

    def __init__(self, options: ServerOptions, metrics: ServerMetrics | None = None) -> None:
        """Read the files that the flags name; raises ServingError for one that is invalid."""
        self.options = options
        self.metrics = metrics or ServerMetrics()
        self._short: list[tuple[asyncio.Future[Arrays], Servable, Call[Any]]] = []
        self._tags = options.saved_model_tags.split(",")
        self._session_config = session_config(options)
        # TFS keeps a new configuration from before it has checked all of it: what the next one is
        # compared with need not be what is served.
        self._config: messages.ModelServerConfig | None = None
        self._watched: list[messages.ModelConfig] = []
        self._config_lock = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._batching = config.batching_parameters(options)
        self._batch_lock = threading.Lock()
        self._batch_threads: BatchThreads | None = None
        self._batch_workers: ThreadPoolExecutor | None = None
        # Runs wait on TensorFlow with the GIL released; more threads than this only queue inside
        # TensorFlow. TFS has as many for gRPC.
        self._workers = ThreadPoolExecutor(4 * schedulable_cpus(), thread_name_prefix="run")
        self.manager = ServableManager(
            self._load,
            LoadPolicy(
                max_retries=options.max_num_load_retries,
                retry_seconds=options.load_retry_interval_micros / 1e6,
                threads=options.num_load_threads,
                initial_threads=4 * schedulable_cpus(),
            ),
        )

    # Life.

    async def start(self) -> None:
        """Load the configured models; returns when each is AVAILABLE and warm.

        Raises ServingError when one of them can't be loaded. Waits for ever for one that is not
        there, as TFS does, with a line in the log every second.
        """
        initial = config.model_server_config(self.options)
        self.manager.set_labels(
            initial.model_config_list.config,
            allow_unavailable=self.options.allow_version_labels_for_unavailable_models,
        )
        self._configure(initial)
        self._watched = list(initial.model_config_list.config)
        seconds = self.options.file_system_poll_wait_seconds
        if seconds >= 0:
            await self._poll_files()
        if seconds > 0:
            self._spawn(self._poll_files_for_ever(seconds))
        await self.manager.wait_until_available(
            [model.name for model in initial.model_config_list.config], "servable"
        )
        self.manager.finish_initial_load()
        if self.options.model_config_file and self.options.model_config_file_poll_wait_seconds > 0:
            self._spawn(self._poll_config_for_ever())

    async def close(self) -> None:
        """Stop polling and unload everything; call when no request is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.manager.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
        if self._batch_workers is not None:
            self._batch_workers.shutdown(wait=False, cancel_futures=True)

    def _configure(self, new: messages.ModelServerConfig) -> None:
        self._config = new
        # In place: every metric holds the same set.
        known = self.metrics.registry.known
        known.clear()
        known.update(model.name for model in new.model_config_list.config)

    def _spawn(self, coroutine: Any) -> None:
        self._tasks.append(asyncio.ensure_future(coroutine))

    # Inference.

    async def predict(
        self, request: messages.PredictRequest, *, timeout: float | None, size: int = 0
    ) -> messages.PredictResponse:
        """Answer a Predict within `timeout` seconds; raises ServingError.

        `size`: the request's bytes, where they are known.
        """
        make = functools.partial(
            inference.predict_call,
            as_content=self.options.enable_serialization_as_tensor_content,
        )
        return await self._infer(make, request, "Predict", timeout, size)

    async def predict_plain(
        self,
        spec: messages.ModelSpec,
        fill: Callable[[int], NDArray[Any] | None],
        *,
        timeout: float | None,
    ) -> NDArray[Any] | None:
        """`predict` by the default signature from one array to one float32 array.

        None, and nothing was run, where the model is not of that kind or `fill` gives no array
        for the input's dtype number; then `predict` is what answers.
        """
        servable = self.manager.lookup(spec)
        call = inference.plain_call(_loaded(servable), fill, check_method=self._check_method)
        if call is None:
            return None
        return await self._answer(servable, call, "Predict", timeout)

    async def classify(
        self, request: messages.ClassificationRequest, *, timeout: float | None, size: int = 0
    ) -> messages.ClassificationResponse:
        """Answer a Classify within `timeout` seconds; raises ServingError.

        `size`: as for `predict`.
        """
        return await self._infer(inference.classify_call, request, "Classify", timeout, size)

    async def regress(
        self, request: messages.RegressionRequest, *, timeout: float | None, size: int = 0
    ) -> messages.RegressionResponse:
        """Answer a Regress within `timeout` seconds; raises ServingError.

        `size`: as for `predict`.
        """
        return await self._infer(inference.regress_call, request, "Regress", timeout, size)

    async def _infer(
        self, make: Callable[..., Call[R]], request: Any, api: str, timeout: float | None, size: int
    ) -> R:
        """Answer a request for one model; `make` is what prepares its call."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        servable = self.manager.lookup(request.model_spec)
        bundle, version, check = _loaded(servable), servable.version, self._check_method
        if size > LARGE_BYTES:
            call = await _aside(
                servable, lambda: make(bundle, request, version, check_method=check)
            )
        else:
            call = make(bundle, request, version, check_method=check)
        return await self._answer(servable, call, api, timeout)

    async def multi_inference(
        self, request: messages.MultiInferenceRequest, *, timeout: float | None
    ) -> messages.MultiInferenceResponse:
        """Answer a MultiInference within `timeout` seconds; raises ServingError."""
        if not request.tasks or not request.tasks[0].HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        servable = self.manager.lookup(request.tasks[0].model_spec)
        call = inference.multi_inference_call(
            _loaded(servable), request, servable.version, check_method=self._check_method
        )
        return await self._answer(servable, call, "MultiInference", timeout)

    @property
    def _check_method(self) -> bool:
        return self.options.enable_signature_method_name_check

    async def _answer(
        self, servable: Servable, call: Call[R], api: str, timeout: float | None
    ) -> R:
        started = time.perf_counter()
        outputs = await self._run(servable, call, timeout)
        micros = (time.perf_counter() - started) * 1e6
        name = servable.name
        if api != "MultiInference":
            self.metrics.runtime_latency.observe((name, api, "TF1"), micros)
        if call.examples:
            self.metrics.request_example_counts.observe((name,), call.examples)
            self.metrics.request_example_count_total.add((name,), call.examples)
        made = sum([array.nbytes for array in outputs])
        if made <= LARGE_BYTES:
            return call.finish(outputs)
        if made > memory.LARGE_BYTES:
            memory.release_soon()
        return await _aside(servable, lambda: call.finish(outputs))

    def _run(self, servable: Servable, call: Call[Any], timeout: float | None) -> Awaitable[Arrays]:
        """Run the call where its length says: here, in a worker, or in a batch."""
        scheduler = _loaded(servable).batching
        if scheduler is None and call.signature.times.is_short(call.rows):
            return self._soon(servable, call)
        return self._run_elsewhere(servable, call, scheduler, timeout)

    async def _run_elsewhere(
        self,
        servable: Servable,
        call: Call[Any],
        scheduler: BatchScheduler | None,
        timeout: float | None,
    ) -> Arrays:
        servable.in_flight += 1
        work: asyncio.Future[Arrays]
        queued: Future[Arrays] | None = None
        if scheduler is not None:
            work = asyncio.ensure_future(
                scheduler.run(
                    (call.signature.name, call.feeds, call.fetches),
                    lambda arrays: self._timed(call, arrays),
                    call.arrays,
                    timeout,
                    names=call.feeds,
                )
            )
        else:
            queued = self._workers.submit(self._timed, call)
            work = asyncio.wrap_future(queued)
        # The session is in use until the run ends, however early its caller gives up.
        work.add_done_callback(lambda done: _release(servable, done))
        try:
            return await asyncio.wait_for(asyncio.shield(work), timeout)
        except TimeoutError:
            raise deadline_exceeded("Timed out waiting for notification") from None
        finally:
            # A run whose caller has left before it began is not made; else callers who give up
            # and ask again would fill the queue with work for nobody.
            if queued is not None:
                queued.cancel()

    def _soon(self, servable: Servable, call: Call[Any]) -> asyncio.Future[Arrays]:
        """Run in the loop's thread, in its next turn, together with what else is short in it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Arrays] = loop.create_future()
        if not self._short:
            loop.call_soon(self._run_short)
        servable.in_flight += 1
        self._short.append((future, servable, call))
        return future

    def _run_short(self) -> None:
        # One after the other, TensorFlow's code stays in the processor's caches; between two
        # requests' parsing and answering, a run of 12 us takes 50 to 100.
        short, self._short = self._short, []
        began = time.perf_counter()
        for number, (future, servable, call) in enumerate(short, 1):
            # A caller who has left gets no run.
            if not future.done():
                try:
                    outputs = self._timed(call)
                except Exception as error:
                    future.set_exception(error)
                else:
                    future.set_result(outputs)
            servable.release()
            if number < len(short) and time.perf_counter() - began > MAX_TURN_SECONDS:
                self._short = short[number:]
                asyncio.get_running_loop().call_soon(self._run_short)
                return

    def _timed(self, call: Call[Any], arrays: Arrays | None = None) -> Arrays:
        """Run now, in this thread; a batch brings arrays of its own."""
        started = time.perf_counter()
        outputs = call.runner(*(call.arrays if arrays is None else arrays))
        seconds = time.perf_counter() - started
        call.signature.times.add(call.rows, seconds)
        self.metrics.graph_runs.add()
        self.metrics.direct_session_runs.add()
        self.metrics.graph_run_time_usecs.add((), int(seconds * 1e6))
        return outputs

    # Metadata and status.

    def signatures(self, spec: messages.ModelSpec) -> Mapping[str, messages.SignatureDef]:
        """The SignatureDefs of the servable that the spec asks for; raises ServingError."""
        return _loaded(self.manager.lookup(spec)).definitions

    def get_model_metadata(
        self, request: messages.GetModelMetadataRequest
    ) -> messages.GetModelMetadataResponse:
        """Answer GetModelMetadata; raises ServingError."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid_argument(f"Metadata field {name} is not supported")
        servable = self.manager.lookup(request.model_spec)
        response = messages.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        definitions = messages.SignatureDefMap()
        for name, definition in _loaded(servable).definitions.items():
            definitions.signature_def[name].CopyFrom(definition)
        response.metadata["signature_def"].Pack(definitions)
        return response

    def get_model_status(
        self, request: messages.GetModelStatusRequest
    ) -> messages.GetModelStatusResponse:
        """Answer GetModelStatus, newest version first; raises ServingError.

        A version label is ignored, as in TFS.
        """
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = request.model_spec
        servables = self.manager.states(spec.name)
        if spec.HasField("version"):
            version = spec.version.value
            servables = [s for s in servables if s.version == version]
            if not servables:
                raise not_found(f"Could not find version {version} of model {spec.name}")
        elif not servables:
            raise not_found(f"Could not find any versions of model {spec.name}")
        response = messages.GetModelStatusResponse()
        for servable in servables:
            status = response.model_version_status.add(
                version=servable.version, state=servable.state
            )
            # Set even when empty: TFS always sends a status.
            status.status.SetInParent()
            if servable.error is not None:
                status.status.error_code = servable.error.code
                status.status.error_message = servable.error.message
        return response

    # Configuration.

    async def reload(self, new: messages.ModelServerConfig) -> None:
        """Replace the whole configuration; returns when every new model is AVAILABLE.

        Raises ServingError and leaves the old configuration serving when the new one is invalid.
        Waits for ever for a new model that is not there, and later reloads wait behind it (TFS).
        """
        async with self._config_lock:
            if new.WhichOneof("config") is None:
                log.info("Taking no action for empty config.")
                return
            old = self._config
            if new.WhichOneof("config") != "model_config_list":
                raise failed_precondition(
                    "Cannot transition to requested config. It is only legal to transition from "
                    "one ModelConfigList to another."
                )
            config.validate(new, old)
            models = list(new.model_config_list.config)
            self._configure(new)
            self.manager.set_labels(
                models,
                allow_unavailable=self.options.allow_version_labels_for_unavailable_models,
            )
            log.info("Adding/updating models.", models=[model.name for model in models])
            config.validate_platforms(new)
            known = {model.name for model in self._watched}
            self._watched = models
            for name in known - {model.name for model in models}:
                self.manager.aspire(name, {})
            await self._poll_files()
            await self.manager.wait_until_available(
                model.name for model in models if model.name not in known
            )
            log.info("Finished adding/updating models")

    async def _poll_files(self) -> None:
        """Look at every model's base path once; one that is missing ends this look for all."""
        models = self._watched
        loop = asyncio.get_running_loop()
        found: dict[str, dict[int, str]] = {}
        try:
            for model in models:
                # In a worker: a network file system may take its time.
                found[model.name] = await loop.run_in_executor(None, source.aspired_versions, model)
        except ServingError as error:
            log.error(
                "FileSystemStoragePathSource encountered a filesystem access error: "
                f"{error.message}"
            )
            return
        current = {model.name for model in self._watched}
        for name, versions in found.items():
            if name not in current:
                continue
            if not versions:
                path = next(model.base_path for model in models if model.name == name)
                log.warning(
                    f"No versions of servable {name} found under base path {path}. Did you forget "
                    "to name your leaf directory as a number (eg. '/1/')?"
                )
            self.manager.aspire(name, versions)

    async def _poll_files_for_ever(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await self._poll_files()

    async def _poll_config_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.options.model_config_file_poll_wait_seconds)
            try:
                new = config.read_text_proto(
                    self.options.model_config_file, messages.ModelServerConfig
                )
            except ServingError as error:
                log.error(f"Failed to read ModelServerConfig file: {error.message}")
                continue
            try:
                await self.reload(new)
            except ServingError as error:
                log.error(
                    f"PollFilesystemAndReloadConfig failed to ReloadConfig: {error.message}",
                    file=self.options.model_config_file,
                )

    # Loading.

    def _load(self, servable: Servable) -> SavedModelBundle:
        """Load and warm up, in a worker thread; raises ServingError."""
        path = servable.path
        started = time.perf_counter()
        try:
            bundle = SavedModelBundle(path, self._tags, self._session_config)
            bundle.on_build = self._built
            bundle.batching = self._batch_scheduler(servable)
            if self.options.enable_model_warmup:
                try:
                    warmup.replay(
                        path,
                        lambda record: self._answer_record(bundle, servable, record),
                        self.metrics,
                        iterations=self.options.num_request_iterations_for_warmup,
                    )
                except BaseException:
                    bundle.close()
                    raise
        except BaseException:
            self.metrics.load_attempt_count.add((path, "fail"))
            raise
        self.metrics.load_attempt_count.add((path, "success"))
        elapsed = time.perf_counter() - started
        self.metrics.load_latency.add((path,), int(elapsed * 1e6))
        restore = bundle.seconds_to_restore
        self.metrics.load_latency_by_stage.observe((path, "restore_graph"), restore * 1e6)
        self.metrics.load_latency_by_stage.observe((path, "init_graph"), (elapsed - restore) * 1e6)
        return bundle

    def _built(self, seconds: float) -> None:
        self.metrics.graph_build_calls.add()
        self.metrics.graph_build_time_usecs.add((), int(seconds * 1e6))

    def _answer_record(
        self, bundle: SavedModelBundle, servable: Servable, record: messages.PredictionLog
    ) -> None:
        check, version = self._check_method, servable.version
        call: Call[Any]
        kind = record.WhichOneof("log_type")
        if kind == "predict_log":
            call = inference.predict_call(
                bundle, record.predict_log.request, version, as_content=False, check_method=check
            )
        elif kind == "classify_log":
            call = inference.classify_call(
                bundle, record.classify_log.request, version, check_method=check
            )
        elif kind == "regress_log":
            call = inference.regress_call(
                bundle, record.regress_log.request, version, check_method=check
            )
        else:
            call = inference.multi_inference_call(
                bundle, record.multi_inference_log.request, version, check_method=check
            )
        # The first run of a graph builds its executor and is many times slower than the rest;
        # only the second is noted as the time that a run takes.
        call.runner(*call.arrays)
        call.finish(self._timed(call))

    def _batch_scheduler(self, servable: Servable) -> BatchScheduler | None:
        """What gathers this version's requests, or None when they are not to be gathered."""
        if self._batching is None:
            return None
        from serving.server.batching import BatchScheduler

        parameters = self._batching
        if self.options.enable_per_model_batching_parameters:
            try:
                own = config.read_text_proto(
                    f"{servable.path}/{PER_MODEL_BATCHING_FILE}", messages.BatchingParameters
                )
            except ServingError as error:
                log.warning(f"No batching for {servable}: {error.message}")
                return None
            # The threads are shared by all models, so only the global file may size them.
            for shared in ("num_batch_threads", "thread_pool_name"):
                own.ClearField(shared)
                if parameters.HasField(shared):
                    getattr(own, shared).CopyFrom(getattr(parameters, shared))
            parameters = own
        return BatchScheduler(
            parameters,
            self.metrics,
            executor=self._batch_executor(),
            threads=self._batch_threads,
        )

    def _batch_executor(self) -> ThreadPoolExecutor:
        """The threads that run batches, `num_batch_threads` for all models together."""
        from serving.server.batching import BatchThreads

        with self._batch_lock:
            if self._batch_workers is None:
                given = self._batching and self._batching.num_batch_threads.value
                count = given or schedulable_cpus()
                self._batch_threads = BatchThreads(count)
                self._batch_workers = ThreadPoolExecutor(count, thread_name_prefix="batch")
            return self._batch_workers


def _loaded(servable: Servable) -> SavedModelBundle:
    if servable.bundle is None:
        raise not_found(f"Servable not found for request: Latest({servable.name})")
    return servable.bundle


async def _aside(servable: Servable, work: Callable[[], R]) -> R:
    """Do the work in a worker thread, while the servable stays loaded."""
    servable.in_flight += 1
    try:
        return await asyncio.to_thread(work)
    finally:
        servable.release()


def _release(servable: Servable, work: asyncio.Future[Arrays]) -> None:
    servable.release()
    # The caller may have left; an error nobody waits for is no reason for a warning.
    if not work.cancelled():
        work.exception()


def session_config(options: ServerOptions) -> Any:
    """ConfigProto for every session, from the flags.

    Raises ServingError (INVALID_ARGUMENT) for a file that is not one.
    """
    session, intra, inter = (
        options.tensorflow_session_parallelism,
        options.tensorflow_intra_op_parallelism,
        options.tensorflow_inter_op_parallelism,
    )
    result = config_pb2.ConfigProto()
    if options.tensorflow_session_config_file:
        path = options.tensorflow_session_config_file
        try:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123
                text_format.Parse(file.read(), result)
        except (OSError, text_format.ParseError) as error:
            raise invalid_argument(f"Invalid protobuf file: '{path}': {error}") from None
    if session or intra:
        result.intra_op_parallelism_threads = session or intra
    # Negative: a run stays in the thread that calls it, which here is the event loop or a worker.
    # A hand-over to TensorFlow's pool costs more than the whole run of a small model.
    if session or inter or not result.inter_op_parallelism_threads:
        result.inter_op_parallelism_threads = session or inter or -1
    result.allow_soft_placement = True
    return result
