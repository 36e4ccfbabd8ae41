"""One replica of the model server: its command line, its versions, its own request count."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import httpx

from serving.gateway.bootstrap import METRICS_PATH, Replica
from serving.protocol import messages
from serving.protocol.services import ModelServiceAsyncStub

# How long calls under way may take after SIGTERM, in seconds.
GRACE_SECONDS = 10.0
# What TensorFlow Serving has no flag for. It listens on every address; the gateway, the only
# caller, is on this machine.
ENVIRONMENT = {"CHOPSTICK_HOST": "127.0.0.1", "CHOPSTICK_GRACE_SECONDS": str(GRACE_SECONDS)}

_REQUEST_COUNT = re.compile(
    r'^:tensorflow:serving:request_count\{model_name="(?P<model>[^"]*)",'
    r'status="(?P<status>[^"]*)"\} (?P<value>\S+)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Servable:
    """What the replicas serve."""

    name: str
    base_path: Path


def command(
    replica: Replica,
    servable: Servable,
    monitoring_config: Path,
    replicas: int,
    extra_flags: Sequence[str] = (),
) -> list[str]:
    """Return the command line of one of `replicas` servers, in TensorFlow Serving's flags."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        sys.executable,
        # -P: a file of the working directory must not stand in for a module of the server.
        "-P",
        "-m",
        "serving.server.main",
        f"--port={replica.grpc_port}",
        f"--rest_api_port={replica.rest_port}",
        f"--model_name={servable.name}",
        f"--model_base_path={servable.base_path.resolve()}",
        f"--monitoring_config_file={monitoring_config}",
        "--enable_grpc_healthcheck_service",
        # The default retries a version that can't load for five minutes; at the desk its error
        # is wanted now, and a repaired version is a new directory.
        "--max_num_load_retries=0",
        # They share one machine: every replica with a thread per core would only queue.
        f"--tensorflow_intra_op_parallelism={max(1, (cpus or 1) // replicas)}",
        *extra_flags,
    ]


def parse_request_counts(page: str, model: str) -> dict[str, int]:
    """Return requests by status ("OK", "NOT_FOUND", …) from a metrics page, for one model."""
    return {
        match["status"]: int(float(match["value"]))
        for match in _REQUEST_COUNT.finditer(page)
        if match["model"] == model
    }


class ReplicaProbe:
    """Asks one replica itself, past the gateway."""

    def __init__(self, replica: Replica, model: str) -> None:
        self._replica = replica
        self._model = model
        self._channel = grpc.aio.insecure_channel(
            replica.grpc,
            options=[
                # gRPC waits up to two minutes before it tries a dead address again; we watch it
                # come back.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._models = ModelServiceAsyncStub(self._channel)
        self._http = httpx.AsyncClient(base_url=f"http://{replica.rest}", trust_env=False)

    async def close(self) -> None:
        """Close both connections."""
        await self._channel.close()
        await self._http.aclose()

    async def versions(self, timeout: float = 1.0) -> dict[int, str] | None:
        """Return the state name ("AVAILABLE", …) by version; None where nobody answers.

        GetModelStatus, because TensorFlow Serving does not count it as a request.
        """
        request = messages.GetModelStatusRequest()
        request.model_spec.name = self._model
        try:
            answer = await self._models.GetModelStatus(request, timeout=timeout)
        except grpc.aio.AioRpcError:
            return None
        states = messages.ModelVersionStatus.State
        return {item.version: states.Name(item.state) for item in answer.model_version_status}

    async def available(self) -> list[int]:
        """Return the versions that answer requests now, newest first."""
        versions = await self.versions() or {}
        return sorted((v for v, state in versions.items() if state == "AVAILABLE"), reverse=True)

    async def request_counts(self) -> dict[str, int]:
        """Return this replica's own count of requests by status; httpx.HTTPError if it is down."""
        page = (await self._http.get(METRICS_PATH)).raise_for_status().text
        return parse_request_counts(page, self._model)
