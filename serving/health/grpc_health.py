"""grpc.health.v1 of the pod, for clients and meshes that look after their endpoints themselves."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.errors import ChopstickError
from serving.health.state import State

# A Watch holds one for as long as its client likes.
_CALLS = 256

Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """SERVING when the pod is ready, under '' and the model's name.

    The library's servicer holds a lock while it writes to a watcher, so that one who does not read
    could keep the news from all others.
    """

    def __init__(self, state: State) -> None:
        self._names = {"", state.model}
        self._ready = state.ready
        self._changed = asyncio.Event()

    def tell(self, state: State) -> None:
        """Let every watcher know."""
        if state.ready != self._ready:
            self._ready = state.ready
            self._changed.set()
            self._changed = asyncio.Event()

    def _status(self) -> health_pb2.HealthCheckResponse:
        serving = health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse(
            status=serving if self._ready else health_pb2.HealthCheckResponse.NOT_SERVING
        )

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for another name."""
        if request.service not in self._names:
            known = ", ".join(f"'{name}'" for name in sorted(self._names))
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no service '{request.service}', only {known}"
            )
        return self._status()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """The status now and at every change; SERVICE_UNKNOWN for another name."""
        known = request.service in self._names
        while True:
            changed = self._changed
            if known:
                await context.write(self._status())
            else:
                unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                await context.write(health_pb2.HealthCheckResponse(status=unknown))
                changed = asyncio.Event()
            await changed.wait()


async def serve(servicer: Health, host: str, port: int) -> tuple[grpc.aio.Server, int]:
    """Start a server and return it with its port; raises ChopstickError when it is taken."""
    options = [("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_CALLS)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    # gRPC listens on IPv6 and IPv4 for either.
    everywhere = host in {"", "::", "0.0.0.0"}  # noqa: S104
    name = "[::]" if everywhere else f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{name}:{port}")
    except RuntimeError:
        raise ChopstickError(
            f"cannot listen on {host}:{port}",
            "Another process may have the port; choose another with --grpc-port.",
        ) from None
    await server.start()
    return server, bound
