"""What a case is made of: an endpoint to ask, and a register of cases by row of the sheet."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf import text_format

from serving.protocol import messages, tensors
from serving.protocol.services import ModelServiceStub, PredictionServiceStub
from tests.conformance import models
from tests.support.ports import free_port
from tests.support.servers import server_environment
from tests.support.waiting import wait_for

TIMEOUT = 20.0
START_SECONDS = 90.0
AVAILABLE, END = 30, 50


class NotApplicable(Exception):  # noqa: N818
    """The case needs something that this endpoint does not give; its words say what."""


# Matching texts.


@dataclass(frozen=True)
class Text:
    """An expected text: the whole of it, its beginning, a part, or a pattern."""

    kind: str
    text: str

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        if self.kind == "starts":
            return other.startswith(self.text)
        if self.kind == "has":
            return self.text in other
        return re.fullmatch(self.text, other, re.DOTALL) is not None

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self.kind} {self.text!r}>"


def starts(text: str) -> Text:
    return Text("starts", text)


def has(text: str) -> Text:
    return Text("has", text)


def like(pattern: str) -> Text:
    return Text("like", pattern)


def same(actual: object, expected: object, what: str = "") -> None:
    """Fail with both sides, in full, when they differ."""
    # The matcher's own __eq__ has to be asked.
    if not expected == actual:
        raise AssertionError(f"{what + ': ' if what else ''}got {actual!r}, expected {expected!r}")


# Requests.

Values = Mapping[str, Any]


def spec(
    target: Any, model: str, version: int | None = None, label: str = "", signature: str = ""
) -> None:
    """Fill a ModelSpec."""
    target.name = model
    if version is not None:
        target.version.value = version
    if label:
        target.version_label = label
    if signature:
        target.signature_name = signature


def array(value: Any) -> np.ndarray:
    """float32, int32 and strings of plain Python values; arrays as they are."""
    if isinstance(value, np.ndarray):
        return value
    plain = np.array(value)
    if plain.dtype.kind in "SUO":
        flat = [v.encode() if isinstance(v, str) else v for v in np.array(value, object).ravel()]
        result = np.empty(len(flat), object)
        result[:] = flat
        return result.reshape(plain.shape)
    return plain.astype({"f": np.float32, "i": np.int32}.get(plain.dtype.kind, plain.dtype))


def predict_request(
    model: str, inputs: Values, outputs: Sequence[str] = (), **choice: Any
) -> messages.PredictRequest:
    request = messages.PredictRequest(output_filter=outputs)
    spec(request.model_spec, model, **choice)
    for name, value in inputs.items():
        if isinstance(value, messages.TensorProto):
            request.inputs[name].CopyFrom(value)
        else:
            tensors.fill_proto(request.inputs[name], array(value))
    return request


def fill_examples(examples: Any, rows: Sequence[Values]) -> None:
    for row in rows:
        example = examples.add()
        for name, value in row.items():
            feature = example.features.feature[name]
            kind = {int: "int64_list", str: "bytes_list"}.get(type(value), "float_list")
            getattr(feature, kind).value.append(value.encode() if isinstance(value, str) else value)


def example_request(kind: Any, model: str, rows: Sequence[Values], **choice: Any) -> Any:
    """A ClassificationRequest or RegressionRequest of float features."""
    request = kind()
    spec(request.model_spec, model, **choice)
    fill_examples(request.input.example_list.examples, rows)
    return request


def classify_request(model: str, *rows: Values, **choice: Any) -> messages.ClassificationRequest:
    return example_request(messages.ClassificationRequest, model, rows, **choice)


def regress_request(model: str, *rows: Values, **choice: Any) -> messages.RegressionRequest:
    return example_request(messages.RegressionRequest, model, rows, **choice)


def status_request(model: str, **choice: Any) -> messages.GetModelStatusRequest:
    request = messages.GetModelStatusRequest()
    spec(request.model_spec, model, **choice)
    return request


def metadata_request(model: str, *fields: str, **choice: Any) -> messages.GetModelMetadataRequest:
    request = messages.GetModelMetadataRequest(metadata_field=fields)
    spec(request.model_spec, model, **choice)
    return request


def parsed(kind: Any, text: str) -> Any:
    """A message from text format."""
    return text_format.Parse(text, kind(), descriptor_pool=messages.POOL)


# The server.


@dataclass
class Reply:
    """What REST answered."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


Sample = dict[str, float]


class Server:
    """A server to ask: an address, and what of its surroundings we control."""

    def __init__(self, grpc_address: str, rest: str = "", folder: Path | None = None) -> None:
        self.grpc = grpc_address
        self.rest = rest
        self._folder = folder
        self.process: Process | None = None
        self.channel = grpc.insecure_channel(
            grpc_address,
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )

    @property
    def folder(self) -> Path:
        """The directory that holds the models; its files are the server's."""
        if self._folder is None:
            raise NotApplicable("needs the models' directory (MODELS=…)")
        return self._folder

    @property
    def owned(self) -> Process:
        """The server's process, when it is ours."""
        if self.process is None:
            raise NotApplicable("needs a server of its own (SERVER=…)")
        return self.process

    # gRPC.

    def stub(self, rpc: str) -> Any:
        service = PredictionServiceStub(self.channel)
        return getattr(service, rpc, None) or getattr(ModelServiceStub(self.channel), rpc)

    def call(self, rpc: str, request: Any, timeout: float = TIMEOUT) -> Any:
        """The response; a test of its own fails with the status that came instead."""
        try:
            return self.stub(rpc)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise AssertionError(f"{rpc}: {error.code().name}: {error.details()}") from None

    def refusal(self, rpc: str, request: Any, timeout: float = TIMEOUT) -> tuple[str, str]:
        """(code, message) of a call that has to fail."""
        try:
            response = self.stub(rpc)(request, timeout=timeout)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        raise AssertionError(f"{rpc} was answered: {str(response)[:300]}")

    def predict(self, model: str, inputs: Values, timeout: float = TIMEOUT, **choice: Any) -> Any:
        """PredictResponse."""
        return self.call("Predict", predict_request(model, inputs, **choice), timeout)

    def outputs(self, model: str, inputs: Values, **choice: Any) -> dict[str, Any]:
        """The outputs as lists."""
        response = self.predict(model, inputs, **choice)
        return {name: tensors.to_array(t).tolist() for name, t in response.outputs.items()}

    def states(self, model: str, **choice: Any) -> dict[int, int]:
        """{version: state}, in the order of the answer; {} for a model nobody knows."""
        try:
            answer = self.stub("GetModelStatus")(status_request(model, **choice), timeout=TIMEOUT)
        except grpc.RpcError as error:
            same(error.code().name, "NOT_FOUND")
            return {}
        return {v.version: v.state for v in answer.model_version_status}

    def error_of(self, model: str, version: int) -> tuple[int, str]:
        """(code, message) that a version ended with."""
        answer = self.call("GetModelStatus", status_request(model, version=version))
        status = answer.model_version_status[0].status
        return status.error_code, status.error_message

    def wait_states(self, model: str, expected: dict[int, int], seconds: float = 15) -> None:
        """Wait until the model's versions are in these states."""
        try:
            wait_for(lambda: self.states(model) == expected, f"{model} to be {expected}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; is {self.states(model)}") from None

    def reload(self, *entries: str, base: bool = True, timeout: float = TIMEOUT) -> Any:
        """Send the configuration of the base models and these; what `call` gives."""
        return self.call(
            "HandleReloadConfigRequest", self.reload_request(*entries, base=base), timeout
        )

    def reload_request(self, *entries: str, base: bool = True) -> messages.ReloadConfigRequest:
        text = self.base_config() if base else "model_config_list {\n}\n"
        text = text.rstrip().removesuffix("}") + "".join(entries) + "}\n"
        return messages.ReloadConfigRequest(config=parsed(messages.ModelServerConfig, text))

    def base_config(self) -> str:
        """The configuration that the server was started with."""
        return (self.folder / "models.config").read_text()

    # REST.

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = TIMEOUT,
    ) -> Reply:
        """One HTTP request; a body that is neither bytes nor text is sent as JSON."""
        if not self.rest:
            raise NotApplicable("needs REST (REST=host:port)")
        if body is not None and not isinstance(body, bytes):
            body = (body if isinstance(body, str) else json.dumps(body)).encode()
        host, _, port = self.rest.rpartition(":")
        host = host.strip("[]")
        connection = http.client.HTTPConnection(host, int(port), timeout=timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read().decode("utf-8", "replace")
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, content)
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        return self.request("POST", path, body, headers)

    # Metrics.

    def page(self, path: str = "/monitoring/prometheus/metrics") -> str:
        reply = self.get(path)
        if reply.status != 200:
            raise NotApplicable("needs --monitoring_config_file")
        return reply.body

    def samples(self) -> Sample:
        """{name{labels}: value} of the metrics page."""
        lines = [line for line in self.page().splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def growth(self, action: Callable[[], Any]) -> Sample:
        """How much each series grows through an action; those that don't are left out."""
        before = self.samples()
        action()
        grown = {name: value - before.get(name, 0) for name, value in self.samples().items()}
        return {name: value for name, value in grown.items() if value}

    def close(self) -> None:
        self.channel.close()


class Process(Server):
    """A server process of our own: the embedded server, or what SERVER= says."""

    command: Sequence[str] = (sys.executable, "-m", "serving.server.main")

    def __init__(
        self,
        folder: Path,
        *flags: str,
        rest: bool = True,
        port: bool = True,
        models_folder: Path | None = None,
        wait: bool = True,
    ) -> None:
        self.grpc_port = free_port() if port else 0
        self.rest_port = free_port() if rest else 0
        rest_address = f"127.0.0.1:{self.rest_port}" if rest else ""
        super().__init__(f"127.0.0.1:{self.grpc_port}", rest_address, models_folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"server-{self.grpc_port or 'none'}.log"
        self.flags = [
            f"--port={self.grpc_port}",
            *(flag.replace("{port}", str(self.grpc_port)) for flag in flags),
        ]
        if rest:
            self.flags.append(f"--rest_api_port={self.rest_port}")
        self._wait = wait
        self.process = self

    def __enter__(self) -> Self:
        # SIGTERM ignored: in its container TFS is process 1, which the kernel does for it.
        environment = {
            **server_environment(),
            "CHOPSTICK_HOST": "127.0.0.1",
            "CHOPSTICK_SIGTERM": "ignore",
        }
        with self.log.open("wb") as output:
            self.child = subprocess.Popen(
                [*self.command, *self.flags],
                stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip
        try:
            if self._wait:
                wait_for(self.is_up, f"a server to start; see {self.log}", START_SECONDS)
        except BaseException:
            self.kill()
            raise
        return self

    def is_up(self) -> bool:
        assert self.child.poll() is None, f"server ended: {self._last_words()}"
        text = self.output()
        return "Running gRPC ModelServer at" in text and (
            not self.rest_port or "Exporting HTTP/REST API at" in text
        )

    def _last_words(self) -> str:
        failed = [line for line in self.output().splitlines() if "Failed to start" in line]
        return "\n".join(failed) or self.output()[-800:]

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def run_to_end(folder: Path, *flags: str, seconds: float = 60) -> tuple[int, str]:
    """(exit code, standard output) of a server that must not stay."""
    ended = subprocess.run(
        [*Process.command, *flags],
        capture_output=True, text=True, cwd=folder, timeout=seconds, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout


# Profiles: ways to start a server.


@dataclass(frozen=True)
class Profile:
    """How the server of a group of cases is started, and what stands in for it elsewhere."""

    name: str
    flags: tuple[str, ...] = ()
    parts: tuple[str, ...] = ("models",)
    """Which of the models are copied and configured."""
    only: tuple[str, ...] = ()
    """Names among them; all when empty."""
    remote: str = "never"
    """"always": an endpoint is enough; "models": with the models' directory; "never"."""
    server: bool = True
    """False: its cases start what they need."""
    rest: bool = True
    single: str = ""
    """Serve this model by --model_name and --model_base_path, without a config file."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Text files to write into the folder, which is `{folder}` in flags; `{port}` is gRPC's."""
    threads: int = 1
    """How many of its cases may run at once."""
    full: bool = False
    """Also the large models, in a full run."""

    @contextlib.contextmanager
    def start(self, folder: Path, *, full: bool = False) -> Iterator[Server | None]:
        """A server of this profile, in a folder of its own."""
        staged = models.staged(folder / self.name, full=full and self.full)
        entries = {
            name: path for name, path in models.base_entries(staged).items()
            if path.parent.name in self.parts and (not self.only or name in self.only)
        }  # fmt: skip
        labels = "--allow_version_labels_for_unavailable_models" in self.flags
        (staged / "models.config").write_text(models.config(entries, labels=labels))
        for name, text in self.files.items():
            (staged / name).write_text(text)
        if not self.server:
            yield Server("127.0.0.1:1", folder=staged)
            return
        if self.single:
            chosen = (f"--model_name={self.single}", f"--model_base_path={entries[self.single]}")
        else:
            chosen = (f"--model_config_file={staged}/models.config",)
        flags = [flag.replace("{folder}", str(staged)) for flag in self.flags]
        with Process(staged, *chosen, *flags, rest=self.rest, models_folder=staged) as server:
            yield server


PROFILES: dict[str, Profile] = {}


def profile(name: str, *flags: str, **how: Any) -> str:
    PROFILES[name] = Profile(name, flags, **how)
    return name


# Cases.


@dataclass(frozen=True)
class Case:
    """One thing to be seen, the rows it belongs to, and the server it needs."""

    name: str
    rows: tuple[str, ...]
    profile: str
    run: Callable[[Any], None]
    alone: bool = False
    """True when no other case of the profile may run beside it; such cases come last."""
    last: bool = False
    """True when the server is of no use afterwards."""


CASES: dict[str, Case] = {}


def add(case: Case) -> None:
    if case.name in CASES:
        raise ValueError(f"two cases are called {case.name}")
    CASES[case.name] = case


def case(
    *rows: str, profile: str = "main", alone: bool = False, last: bool = False
) -> Callable[[Any], Any]:
    """Register a function as a case of these rows."""

    def register(function: Any) -> Any:
        name = f"{function.__module__.rpartition('.')[2]}: {function.__name__.replace('_', ' ')}"
        add(Case(name, rows, profile, function, alone or last, last))
        return function

    return register


def refusals(
    rpc: str, table: Sequence[tuple[str, str, Any, str, Any]], profile: str = "main"
) -> None:
    """Register (name, rows, request, code, message) as cases of one RPC."""
    for name, row, request, code, message in table:

        def run(server: Server, request=request, code=code, message=message) -> None:
            built = request() if callable(request) else request
            got, text = server.refusal(rpc, built)
            same(got, code, f"code, with message {text!r}")
            same(text, message, "message")

        add(Case(f"gRPC {rpc}: {name}", tuple(row.split()), profile, run))


def replies(
    table: Sequence[tuple[str, str, str, str, Any, int, Any]], profile: str = "main"
) -> None:
    """Register (name, rows, method, path, body, status, error) as cases of REST.

    The expected error is the text under "error", or the whole body when it is a tuple of one.
    """
    for name, row, method, path, body, status, expected in table:

        def run(
            server: Server, method=method, path=path, body=body, status=status, expected=expected
        ) -> None:
            reply = server.request(method, path, body)
            same(reply.status, status, f"status, with body {reply.body[:300]!r}")
            if isinstance(expected, tuple):
                same(reply.body, expected[0], "body")
            elif isinstance(expected, (dict, list)):
                same(reply.json, expected, "body")
            else:
                same(reply.error, expected, "error")

        add(Case(f"REST {method}: {name}", tuple(row.split()), profile, run))
