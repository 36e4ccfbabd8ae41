"""The same SavedModel behind other Python servers, each in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.load.senders import lengths
from tests.bench import machine
from tests.bench.compare import Table, compare, ms, ratio
from tests.bench.machine import ROOT, free_port, model_server, process
from tests.bench.wire import GrpcLoad, LoadError, RestLoad

HERE = Path(__file__).parent
ENVIRONMENTS = ROOT / ".bench"
GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"
REST_PATH = "/v2/models/chopstick/infer"


@dataclass(frozen=True)
class Peer:
    """One other server: its name, package, and the folder with its model and pins."""

    name: str
    package: str

    @property
    def folder(self) -> Path:
        return HERE / self.package

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.package / "bin" / "python"


PEERS = (Peer("MLServer", "mlserver"), Peer("KServe", "kserve"))


def chopstick_model(folder: Path) -> Path:
    """A base path with a version of the chopstick model; trains one where there is none."""
    trained = ROOT / "models" / "chopstick"
    if any(v.name.isdecimal() for v in trained.glob("*")):
        return trained
    base = folder / "chopstick"
    subprocess.run(
        machine.python("-m", "serving.cli", "train", "--out", str(base)),
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    return base


def lock(peer: Peer) -> None:
    """Resolve the peer's requirements.txt again."""
    subprocess.run(
        [
            _uv(),
            "pip",
            "compile",
            "--python-version",
            "3.11",
            "--no-emit-index-url",
            "--no-header",
            "--no-annotate",
            "--quiet",
            "requirements.in",
            "--output-file",
            "requirements.txt",
        ],
        check=True,
        cwd=peer.folder,
        stdout=subprocess.DEVNULL,
    )


def install(peer: Peer) -> str:
    """Make the peer's environment what its pins say; "" or why that failed."""
    pins = (peer.folder / "requirements.txt").read_text()
    stamp = ENVIRONMENTS / peer.package / "installed"
    if stamp.is_file() and stamp.read_text() == pins:
        return ""
    print(f"installing {peer.name} into .bench/{peer.package}", file=sys.stderr)
    home = ENVIRONMENTS / peer.package
    for command in (
        [_uv(), "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
        [
            _uv(),
            "pip",
            "install",
            "--quiet",
            "--python",
            str(peer.python),
            "--no-deps",
            "--only-binary",
            ":all:",
            "-r",
            str(peer.folder / "requirements.txt"),
        ],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    stamp.write_text(pins)
    return ""


def _uv() -> str:
    return str(Path(sys.executable).parent / "uv")


def infer_message(rows: np.ndarray[Any, Any]) -> bytes:
    """A ModelInferRequest of the open inference protocol, with raw contents.

    Written by hand (field numbers: grpc_predict_v2.proto), as no peer's package is installed here.
    """

    def field(number: int, data: bytes) -> bytes:
        return _varint(number << 3 | 2) + _varint(len(data)) + data

    shape = b"".join(_varint(size) for size in rows.shape)
    tensor = field(1, b"chopstick_length") + field(2, b"FP32") + field(3, shape)
    return field(1, b"chopstick") + field(5, tensor) + field(7, rows.tobytes())


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def infer_body(rows: np.ndarray[Any, Any]) -> bytes:
    """The same over REST."""
    tensor = {
        "name": "chopstick_length",
        "shape": list(rows.shape),
        "datatype": "FP32",
        "data": rows.ravel().tolist(),
    }
    return json.dumps({"inputs": [tensor]}).encode()


@contextmanager
def running(peer: Peer, model: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """The peer with the model; its (gRPC, REST) addresses."""
    newest = max((v for v in model.iterdir() if v.name.isdecimal()), key=lambda v: int(v.name))
    grpc_port, rest_port = free_port(), free_port()
    work = folder / peer.package
    work.mkdir()
    log = folder / f"{peer.package}.log"
    command = [str(peer.python), str(peer.folder / "serve.py")]
    command += [str(newest), str(grpc_port), str(rest_port)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": ""}
    grpc, rest = f"127.0.0.1:{grpc_port}", f"127.0.0.1:{rest_port}"
    with process(command, log, environment=quiet, folder=work) as started:
        row = lengths(1, 1)

        def connect() -> None:
            RestLoad(rest, REST_PATH, infer_body(row)).call()
            with closing(GrpcLoad(grpc, GRPC_METHOD, infer_message(row))) as load:
                load.call()

        machine.until_up(connect, started, log)
        yield grpc, rest


def run() -> Iterator[Table]:
    """Our server and the peers, REST against REST and gRPC against gRPC."""
    from tests.bench.cases import CONCURRENCY, METHOD, PATH, ROWS, predict_body, predict_message

    reasons = {peer: install(peer) for peer in PEERS}
    present = [peer for peer in PEERS if not reasons[peer]]
    with tempfile.TemporaryDirectory(prefix="chopstick-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        model = chopstick_model(folder)
        server = stack.enter_context(model_server(folder, model))
        addresses = {p: stack.enter_context(running(p, model, folder)) for p in present}
        for protocol in ("gRPC", "REST"):
            table = Table(
                f"peers-{protocol.lower()}",
                f"Other Python servers, {protocol}",
                [
                    "rows",
                    "in flight",
                    "server",
                    "req/s",
                    "spread",
                    "p50 ms",
                    "p99 ms",
                    "ours is times as fast",
                ],
                target="at least 2 times the better one's requests a second, and a lower p99",
            )
            reached: list[bool] = []
            for rows in ROWS:
                values = lengths(rows, 1)
                subjects: dict[str, Any] = {}
                if protocol == "gRPC":
                    load = GrpcLoad(server.grpc, METHOD, predict_message(rows))
                    subjects["ours"] = stack.enter_context(closing(load))
                    for peer in present:
                        load = GrpcLoad(addresses[peer][0], GRPC_METHOD, infer_message(values))
                        subjects[peer.name] = stack.enter_context(closing(load))
                else:
                    subjects["ours"] = RestLoad(server.rest, PATH, predict_body(rows))
                    for peer in present:
                        rest = addresses[peer][1]
                        subjects[peer.name] = RestLoad(rest, REST_PATH, infer_body(values))
                    _same_answers(subjects)
                for concurrency in CONCURRENCY:
                    results = compare(subjects, concurrency)
                    table.keep(results, rows=rows, concurrency=concurrency)
                    for subject, result in results.items():
                        times = ratio(results["ours"], result)
                        table.rows.append(
                            [
                                f"{rows:,}",
                                str(concurrency),
                                subject,
                                f"{result.rate:,.0f}",
                                result.spread,
                                ms(result.p50),
                                ms(result.p99),
                                "" if subject == "ours" else f"{times:.1f}",
                            ]
                        )
                    ours = results["ours"]
                    rivals = [results[peer.name] for peer in present]
                    if rivals:
                        best = max(rivals, key=lambda result: result.rate)
                        reached.append(ratio(ours, best) >= 2 and ours.p99 < best.p99)
            table.met = all(reached) if reached else None
            table.outcome = f"met in {sum(reached)} of {len(reached)} combinations"
            table.notes = _notes(reasons)
            yield table


def _same_answers(subjects: dict[str, Any]) -> None:
    """All answer with the same numbers; LoadError otherwise."""
    ours = np.array(json.loads(subjects["ours"].call())["predictions"]).ravel()
    for name, load in subjects.items():
        if name == "ours":
            continue
        theirs = json.loads(load.call())["outputs"][0]["data"]
        if not np.allclose(ours, theirs, atol=1e-6):
            raise LoadError(f"{name} answers {theirs[:3]}, ours {ours[:3]}")


def _notes(reasons: dict[Peer, str]) -> list[str]:
    notes = [
        "Each peer on the server's core, one at a time under load; the shortest wrapping their "
        "documentation shows (`tests/bench/peers/*/serve.py`), with settings in their favour: "
        "access and latency logs off, no second process for inference. Each is spoken to in its "
        "own protocol (open inference protocol), raw tensor contents over gRPC.",
    ]
    for peer, reason in reasons.items():
        if reason:
            notes.append(f"Skipped: {peer.name} could not be installed: {reason}")
        else:
            pins = (peer.folder / "requirements.txt").read_text().splitlines()
            wanted = (peer.package, "tensorflow-cpu", "grpcio", "protobuf", "numpy", "uvicorn")
            versions = [p.replace("==", " ") for p in pins if p.split("==")[0] in wanted]
            notes.append(f"{peer.name}: {', '.join(versions)}.")
    return notes
