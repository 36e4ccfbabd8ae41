"""The sidecar as a process of its own, and a server that says what it is told to."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc

from serving.protocol import messages
from serving.protocol.services import (
    ModelService_METHODS,
    ModelService_NAME,
    PredictionService_METHODS,
    PredictionService_NAME,
)
from tests.support.ports import free_port
from tests.support.waiting import wait_for

# Fast polls for fast tests; the defaults are a second each.
POLL, TIMEOUT = 0.1, 0.25


class Page(NamedTuple):
    status: int
    body: dict[str, Any]


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Status and body; raises OSError when nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Sidecar:
    """`python -m serving.health` for a server; a context manager that leaves nothing behind."""

    def __init__(self, folder: Path, server: str, *flags: str, poll: float = POLL) -> None:
        self.probe, self.scrape, self.grpc_port = free_port(), free_port(), free_port()
        self.log = folder / f"sidecar-{self.probe}.log"
        self.arguments = [
            *(sys.executable, "-m", "serving.health", "--server", server, "--host", "127.0.0.1"),
            *("--probe-port", str(self.probe), "--metrics-port", str(self.scrape)),
            *("--grpc-port", str(self.grpc_port), "--poll", str(poll)),
            *("--timeout", str(TIMEOUT), *flags),
        ]
        self.process: subprocess.Popen[bytes]

    def start(self) -> Self:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self.arguments, stdout=output, stderr=output)
        wait_for(self._listens, f"the sidecar to listen; see {self.log}")
        return self

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return get(self.probe, "/healthz")[0] == 200
        except OSError:
            return False

    def page(self, path: str = "/readyz") -> Page:
        status, text = get(self.probe, path)
        return Page(status, json.loads(text))

    def wait(self, status: int, seconds: float = 15.0) -> Page:
        """The first /readyz with that status."""

        def asked() -> Page | None:
            page = self.page()
            return page if page.status == status else None

        return wait_for(asked, f"/readyz {status}, it is {self.page()}", seconds)

    def metric(self, name: str) -> float:
        """A sample by its name and labels as the page has them."""
        for line in get(self.scrape, "/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.rsplit(" ", 1)[1])
        raise AssertionError(f"no {name}")

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def signature(dtype: int = 1, dims: tuple[int, ...] = (-1, 1)) -> messages.SignatureDef:
    """One input `x`."""
    found = messages.SignatureDef()
    found.inputs["x"].dtype = dtype
    for size in dims:
        found.inputs["x"].tensor_shape.dim.add().size = size
    return found


def metadata(**signatures: messages.SignatureDef) -> messages.GetModelMetadataResponse:
    packed = messages.SignatureDefMap(signature_def=signatures)
    answer = messages.GetModelMetadataResponse()
    answer.metadata["signature_def"].value = packed.SerializeToString()
    return answer


class Scripted:
    """A gRPC server for what a real one can't be made to say at will.

    `predict` and `delay` may be changed at any time: the codes that Predict answers in turn, the
    last one for ever, and the seconds that GetModelStatus takes.
    """

    def __init__(self, predict: list[grpc.StatusCode]) -> None:
        self.predict = predict
        self.delay = 0.0
        self.predicts = 0
        self._server = grpc.server(ThreadPoolExecutor(4))
        for name, methods in (
            (ModelService_NAME, ModelService_METHODS),
            (PredictionService_NAME, PredictionService_METHODS),
        ):
            self._server.add_registered_method_handlers(
                name,
                {m: _handler(getattr(self, m), *methods[m]) for m in methods if hasattr(self, m)},
            )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        time.sleep(self.delay)
        answer = messages.GetModelStatusResponse()
        answer.model_version_status.add(version=1, state=30)
        return answer

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return metadata(serving_default=signature())

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.predicts += 1
        code = self.predict.pop(0) if len(self.predict) > 1 else self.predict[0]
        if code is not grpc.StatusCode.OK:
            context.abort(code, "as scripted")
        return messages.PredictResponse()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(None).wait()


def _handler(function: Callable[..., Any], request: Any, response: Any) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        function, request.FromString, response.SerializeToString
    )
