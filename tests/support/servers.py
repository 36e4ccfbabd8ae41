"""The real model server as a process of its own, on free loopback ports."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from serving.protocol import messages
from serving.protocol.services import ModelServiceStub, PredictionServiceStub
from tests.support.ports import free_port
from tests.support.waiting import wait_for

# TensorFlow's import takes 3 to 5 s alone, and several at once share two cores.
START_SECONDS = 60.0


def server_environment() -> dict[str, str]:
    """The environment of a server: this one's, less what training set for its own process."""
    # oneDNN's kernels word some errors differently; a test process that trained has it off.
    return {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}


class ModelServer:
    """`tensorflow_model_server` with given flags; a context manager that leaves nothing behind.

    `grpc` and `rest` are "127.0.0.1:port"; `log` is the file with its output.
    """

    def __init__(
        self,
        folder: Path,
        base_path: Path | None = None,
        *flags: str,
        model: str = "chopstick",
        rest: bool = True,
        environment: dict[str, str] | None = None,
        wait: bool = True,
    ) -> None:
        self.model = model
        self.grpc_port = free_port()
        self.rest_port = free_port() if rest else 0
        self.grpc = f"127.0.0.1:{self.grpc_port}"
        self.rest = f"127.0.0.1:{self.rest_port}"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"server-{self.grpc_port}.log"
        monitoring = folder / "monitoring.txt"
        monitoring.write_text("prometheus_config { enable: true }\n")
        self.arguments = [
            sys.executable,
            "-m",
            "serving.server.main",
            f"--port={self.grpc_port}",
            f"--rest_api_port={self.rest_port}",
            "--enable_grpc_healthcheck_service",
            f"--monitoring_config_file={monitoring}",
            *([f"--model_name={model}", f"--model_base_path={base_path}"] if base_path else []),
            *flags,
        ]
        self.environment = {
            **server_environment(),
            "CHOPSTICK_HOST": "127.0.0.1",
            **(environment or {}),
        }
        self._wait = wait
        self.process: subprocess.Popen[bytes]
        self.channel: grpc.Channel

    def start(self) -> Self:
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.arguments, stdout=output, stderr=output, env=self.environment
            )
        self.channel = grpc.insecure_channel(
            self.grpc, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        if self._wait:
            wait_for(self._is_up, f"{self.grpc} to answer; see {self.log}", START_SECONDS)
        return self

    def _is_up(self) -> bool:
        assert self.process.poll() is None, f"server ended:\n{self.output()}"
        request = messages.GetModelStatusRequest()
        request.model_spec.name = self.model
        try:
            answer = self.models.GetModelStatus(request, timeout=2)
        except grpc.RpcError:
            return False
        if not any(v.state == 30 for v in answer.model_version_status):
            return False
        return not self.rest_port or "Exporting HTTP/REST API" in self.output()

    @property
    def predictions(self) -> PredictionServiceStub:
        return PredictionServiceStub(self.channel)

    @property
    def models(self) -> ModelServiceStub:
        return ModelServiceStub(self.channel)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """End it, politely first; its exit code."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
