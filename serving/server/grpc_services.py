"""The gRPC port: PredictionService, ModelService, health and reflection over a ServerCore."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from serving.protocol import messages
from serving.protocol.services import (
    ModelService_METHODS,
    ModelService_NAME,
    PredictionService_METHODS,
    PredictionService_NAME,
)
from serving.protocol.status import Code, ServingError, invalid_argument
from serving.server import inflate, memory
from serving.server.core import ServerCore
from serving.server.logs import log
from serving.server.options import ServerOptions
from serving.server.turns import GRPC_PATIENCE, Turns

# TFS's names: not package-qualified, and the empty one for the whole server.
HEALTH_SERVICES = ("", "ModelService", "PredictionService")

MAX_STREAMS = 900
"""Calls at once on one connection; a client keeps more than these waiting by itself."""

# grpc_status_util.cc
MAX_MESSAGE_BYTES = 1024
TRUNCATED = "...TRUNCATED"

_STATUS = {code: grpc_code for grpc_code in grpc.StatusCode for code in [grpc_code.value[0]]}

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context, int], Awaitable[Message]]
"""Answers a request of that many bytes."""


def build_server(
    core: ServerCore, options: ServerOptions, channel_options: Sequence[tuple[str, int | str]]
) -> tuple[grpc.aio.Server, Health | None]:
    """A server with every service on it, not started; the health servicer if there is one."""
    limits = _given_limit(options)
    # One value for each name: of two, gRPC takes the first.
    given: dict[str, int | str] = {
        # TFS: INT_MAX both ways; a large tensor is nothing unusual.
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
        # Done by `_read`, to a limit.
        "grpc.per_message_decompression": 0,
        # gRPC drops calls that wait to be taken at random, everybody's, from 1,000 on. Clients that
        # open and reset streams as fast as they can must not get there so easily.
        "grpc.max_concurrent_streams": MAX_STREAMS,
        "grpc.server.max_pending_requests": 10 * MAX_STREAMS,
        "grpc.server.max_pending_requests_hard_limit": 20 * MAX_STREAMS,
        # Two servers on one port would each get half of the connections in silence.
        "grpc.so_reuseport": 0,
        **dict(channel_options),
    }
    server = grpc.aio.server(options=list(given.items()), maximum_concurrent_rpcs=limits)
    turns = Turns(GRPC_PATIENCE)
    server.add_generic_rpc_handlers(
        (
            _handlers(PredictionService_NAME, PredictionService_METHODS, _prediction(core), turns),
            _handlers(ModelService_NAME, ModelService_METHODS, _model(core), turns),
        )
    )
    inflating: Any = _InflatingServer(server)
    services = [PredictionService_NAME, ModelService_NAME, reflection.SERVICE_NAME]
    servicer = None
    if options.enable_grpc_healthcheck_service:
        servicer = Health()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, inflating)
        services.append(health.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        reflection.aio.ReflectionServicer(services, pool=messages.POOL), inflating
    )
    return server, servicer


class Health(health.aio.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1 under TFS's names: SERVING from the first moment, until `drain`."""

    def __init__(self) -> None:
        super().__init__()
        self._server_status = dict.fromkeys(HEALTH_SERVICES, health_pb2.HealthCheckResponse.SERVING)
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Say NOT_SERVING, also to every watcher, and end the watches.

        A watch has no end of its own; left open it would hold the server for its whole grace
        period.
        """
        for name in HEALTH_SERVICES:
            self._server_status[name] = health_pb2.HealthCheckResponse.NOT_SERVING
        self._draining.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Stream the health of a service until the client leaves or the server drains."""
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        for change in (None, self._draining):
            if change is not None:
                await change.wait()
            status = self._server_status.get(request.service, unknown)
            await context.write(health_pb2.HealthCheckResponse(status=status))


def _given_limit(options: ServerOptions) -> int | None:
    # TFS's default limit is on threads, which wait for TensorFlow; a coroutine costs next to
    # nothing, so that only a limit that was asked for is kept.
    default = ServerOptions().grpc_max_threads
    return options.grpc_max_threads if options.grpc_max_threads != default else None


def _handlers(
    service: str,
    methods: dict[str, tuple[Any, Any]],
    functions: dict[str, Handler],
    turns: Turns,
) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        service,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _reading(functions[name], request, response, turns),
                response_serializer=response.SerializeToString,
            )
            for name, (request, response) in methods.items()
        },
    )


def _reading(
    function: Handler, kind: Any, answer: Any, turns: Turns
) -> Callable[[bytes, Context], Any]:
    """The handler for the message as it came; one that is none gets gRPC's own codes."""

    async def handle(data: bytes, context: Context) -> Message:
        turn = turns.join()
        if turn is not None:
            await turn
        size = len(data)
        try:
            if inflate.is_compressed(data):
                memory.release_soon()
                request = await asyncio.to_thread(_inflated, kind, data)
            else:
                request = kind.FromString(data)
        except inflate.TooLargeError as error:
            text = f"The compressed message {error}"
            return _fail(context, ServingError(Code.RESOURCE_EXHAUSTED, text), answer())
        except (DecodeError, ValueError) as error:
            # What gRPC's C++ server says before TFS sees the call, which is not counted either.
            return _fail(context, ServingError(Code.INTERNAL, str(error)), answer())
        finally:
            if size > memory.LARGE_BYTES:
                memory.release_soon()
        del data
        return await function(request, context, size)

    return handle


def _inflated(kind: Any, data: bytes) -> Any:
    """The message; raises DecodeError or ValueError."""
    try:
        plain = inflate.inflate(data)
    except inflate.TooLargeError:
        raise
    except ValueError as error:
        if data[:2] == inflate.GZIP:
            raise ValueError(f"The compressed message is corrupt: {error}") from None
        plain = data
    return kind.FromString(plain)


class _InflatingServer:
    """Takes the handlers of services that are not ours, and has them read compressed messages."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers([_Inflating(handler) for handler in handlers])

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Nothing: without them the server asks the generic handlers."""


class _Inflating(grpc.GenericRpcHandler):
    def __init__(self, handler: grpc.GenericRpcHandler) -> None:
        self._handler = handler

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        found: Any = self._handler.service(details)
        if found is None:
            return None
        parse = found.request_deserializer

        def deserialize(data: bytes) -> Any:
            # A health check or a reflection request; nobody needs a large one.
            return parse(inflate.inflate(data, 1 << 20) if inflate.is_compressed(data) else data)

        return found._replace(request_deserializer=deserialize)


def _fail(context: Context, error: ServingError, empty: Message) -> Message:
    """Set the status on the call; cheaper than abort(), which raises through the whole stack."""
    message = error.message
    if len(message) > MAX_MESSAGE_BYTES // 4:
        raw = message.encode()
        if len(raw) > MAX_MESSAGE_BYTES:
            message = raw[:MAX_MESSAGE_BYTES].decode(errors="ignore") + TRUNCATED
    context.set_code(_STATUS[error.code])
    context.set_details(message)
    return empty


def _timeout(context: Context) -> float | None:
    remaining = context.time_remaining()
    # A deadline already past means no session timeout in TFS: the run goes to its end and the
    # transport reports DEADLINE_EXCEEDED.
    return remaining if remaining is not None and remaining > 0 else None


def _prediction(core: ServerCore) -> dict[str, Handler]:
    count, latency = core.metrics.request_count, core.metrics.request_latency

    def counted(
        api: str, method: Callable[..., Awaitable[Message]], empty: Callable[[], Message]
    ) -> Handler:
        async def handle(request: Any, context: Context, size: int) -> Message:
            started = time.perf_counter()
            name = request.model_spec.name
            try:
                response = await method(request, timeout=_timeout(context), size=size)
            except ServingError as error:
                count.add((name, error.code.name))
                return _fail(context, error, empty())
            except Exception as error:
                # A bug of ours must cost one request, not the connection, and be visible.
                log.exception(f"{api} failed", model=name)
                count.add((name, Code.INTERNAL.name))
                return _fail(context, ServingError(Code.INTERNAL, str(error)), empty())
            count.add((name, "OK"))
            latency.observe((name, api, "GRPC"), (time.perf_counter() - started) * 1e6)
            return response

        return handle

    async def multi_inference(
        request: messages.MultiInferenceRequest, context: Context, _: int
    ) -> Message:
        try:
            return await core.multi_inference(request, timeout=_timeout(context))
        except ServingError as error:
            return _fail(context, error, messages.MultiInferenceResponse())

    async def metadata(
        request: messages.GetModelMetadataRequest, context: Context, _: int
    ) -> Message:
        try:
            return core.get_model_metadata(request)
        except ServingError as error:
            return _fail(context, error, messages.GetModelMetadataResponse())

    return {
        "Predict": counted("Predict", core.predict, messages.PredictResponse),
        "Classify": counted("Classify", core.classify, messages.ClassificationResponse),
        "Regress": counted("Regress", core.regress, messages.RegressionResponse),
        "MultiInference": multi_inference,
        "GetModelMetadata": metadata,
    }


def _model(core: ServerCore) -> dict[str, Handler]:
    async def status(request: messages.GetModelStatusRequest, context: Context, _: int) -> Message:
        try:
            return core.get_model_status(request)
        except ServingError as error:
            return _fail(context, error, messages.GetModelStatusResponse())

    async def reload(request: messages.ReloadConfigRequest, context: Context, _: int) -> Message:
        response = messages.ReloadConfigResponse()
        response.status.SetInParent()
        before = {name: core.metrics.registry.first_value(name) for name in request.metric_names}
        failure: ServingError | None = None
        if request.config.WhichOneof("config") == "model_config_list":
            try:
                # Not ended with the call: TFS goes on waiting for the new models, and keeps
                # every later reload waiting, after the caller has gone.
                await asyncio.shield(core.reload(request.config))
            except ServingError as error:
                failure = error
        else:
            failure = invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest."
                " Only ModelConfigList is currently supported"
            )
        for name, value in before.items():
            increase = core.metrics.registry.first_value(name) - value
            response.metric.add(name=name, int64_value_increase=increase)
        if failure is None:
            return response
        log.error(f"ReloadConfig failed: {failure.message}")
        response.status.error_code = failure.code
        response.status.error_message = failure.message
        return _fail(context, failure, response)

    return {"GetModelStatus": status, "HandleReloadConfigRequest": reload}
