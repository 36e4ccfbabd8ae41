"""The comparisons of `make bench`, each a table of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np

from serving.client import Client, wire
from serving.client.channel import channel_options
from serving.gateway import bootstrap, envoy
from serving.load.senders import lengths
from serving.protocol import messages
from serving.protocol.services import ModelServiceStub, PredictionServiceStub
from tests.bench import machine
from tests.bench.compare import Result, Table, compare, ms, ratio
from tests.bench.machine import CLIENT_CPU, CPUS, SERVER_CPU, free_port, model_server, on, process
from tests.bench.wire import GrpcLoad, LoadError, RestLoad, Sample, quantile, sample
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for

CONCURRENCY = (1, 8, 64)
ROWS = (1, 64, 4096)
METHOD = "/tensorflow.serving.PredictionService/Predict"
PATH = "/v1/models/chopstick:predict"
MODEL = "chopstick"
INPUT = "chopstick_length"


def predict_message(rows: int, model: str = MODEL, name: str = INPUT) -> bytes:
    """A serialised PredictRequest with so many lengths, as the client library sends it."""
    values = lengths(rows, 1) if name == INPUT else np.arange(rows, dtype=np.float32)
    request = wire.predict_request(model, {name: values}, None, None, None, outputs=())
    return request.SerializeToString()


def predict_body(rows: int) -> bytes:
    """The same lengths as a REST body."""
    return json.dumps({"instances": lengths(rows, 1).tolist()}).encode()


@contextmanager
def echo(kind: str, answer: bytes, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The echo that answers with these bytes: its address and its process."""
    port = free_port()
    file = folder / f"echo-{port}"
    file.write_bytes(answer)
    log = folder / f"echo-{port}.log"
    command = machine.python("-m", "tests.bench.echo", kind, str(port), str(file))
    target = f"127.0.0.1:{port}"
    with process(command, log) as running:

        def connect() -> None:
            load = (
                GrpcLoad(target, METHOD, predict_message(1))
                if kind == "grpc"
                else RestLoad(target, "/", b"{}")
            )
            with closing(load):
                load.call()

        machine.until_up(connect, running, log)
        yield target, running


def against_echo(kind: str, server: ModelServer, folder: Path) -> Table:
    """Cases 1 and 2: the server against an echo that does nothing but parse and answer."""
    title = "Predict over gRPC" if kind == "grpc" else "Predict over REST"
    table = Table(
        kind,
        f"{title} against an echo",
        [
            "rows",
            "in flight",
            "server req/s",
            "spread",
            "p50 ms",
            "p99 ms",
            "echo req/s",
            "spread",
            "p50 ms",
            "p99 ms",
            "of the echo's rate",
        ],
        target="at least 0.5 of the echo's requests a second with 64 in flight and 1 row",
    )
    if kind == "rest":
        table.header += ["Starlette echo req/s", "of its rate"]
        table.notes.append(
            "The echo is the server's own HTTP server (`serving/server/http.py`: uvicorn's protocol "
            "with our limits, on uvloop) with a plain ASGI application, as our REST API is one, that "
            "does `json.loads` of the body and `json.dumps` of a ready answer of the same numbers; "
            "the other one is the same in Starlette (`tests/bench/echo.py`)."
        )
    for rows in ROWS:
        message, body = predict_message(rows), predict_body(rows)

        def load(target: str, message: bytes = message, body: bytes = body) -> Any:
            if kind == "grpc":
                return GrpcLoad(target, METHOD, message)
            return RestLoad(target, PATH, body)

        with closing(load(server.grpc if kind == "grpc" else server.rest)) as mine:
            answer = mine.call()
            with ExitStack() as stack:
                subjects = {"server": mine}
                for name in [kind, "starlette"] if kind == "rest" else [kind]:
                    target, _ = stack.enter_context(echo(name, answer, folder))
                    subjects[name] = stack.enter_context(closing(load(target)))
                for concurrency in CONCURRENCY:
                    results = compare(subjects, concurrency)
                    ours, theirs = results["server"], results[kind]
                    share = ratio(ours, theirs)
                    table.keep(results, rows=rows, concurrency=concurrency, ratio=share)
                    table.rows.append(
                        [
                            f"{rows:,}",
                            str(concurrency),
                            *_figures(ours),
                            *_figures(theirs),
                            f"{share:.2f}",
                        ]
                    )
                    if kind == "rest":
                        other = results["starlette"]
                        table.rows[-1] += [f"{other.rate:,.0f}", f"{ratio(ours, other):.2f}"]
                    if rows == 1 and concurrency == 64:
                        table.judge(share, at_least=0.5)
    return table


def _figures(result: Result) -> list[str]:
    return [f"{result.rate:,.0f}", result.spread, ms(result.p50), ms(result.p99)]


# The client library.


class _Calls:
    """One call after another by a function, as a load."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def measure(self, concurrency: int, seconds: float) -> Sample:
        assert concurrency == 1
        clock = time.perf_counter
        took = []
        started = clock()
        while (now := clock()) - started < seconds:
            self._call()
            took.append(clock() - now)
        return sample(took, clock() - started)


def client_library(server: ModelServer) -> Table:
    """Case 4: the library's predict against a stub that sends a finished message."""
    table = Table(
        "client",
        "Client library against the bare generated stub",
        ["call", "calls/s", "spread", "p50 ms", "p99 ms", "p50 over the stub's"],
        target="at most 10 % above the bare stub's p50",
        notes=[
            "One call at a time. The bare stub sends a message that was made beforehand and does "
            "not look at the answer; the library makes the message from an array and an array "
            "from the answer in every call. Same channel options.",
        ],
    )
    array = lengths(1, 1)
    request = messages.PredictRequest.FromString(predict_message(1))
    options = channel_options(
        retries=True, extra=[("grpc.use_local_subchannel_pool", 1), ("grpc.lb", "stub")]
    )
    with (
        grpc.insecure_channel(server.grpc, options=options) as channel,
        Client(server.grpc, timeout=5, options=[("grpc.use_local_subchannel_pool", 1)]) as client,
    ):
        stub = PredictionServiceStub(channel)
        subjects = {
            "bare stub": _Calls(lambda: stub.Predict(request, timeout=5)),
            "serving.client.Client": _Calls(lambda: client.predict({INPUT: array})),
        }
        results = compare(subjects, 1, rounds=7, seconds=0.8)
    bare = results["bare stub"]
    table.keep(results)
    for name, result in results.items():
        over = median(a.p50 / b.p50 - 1 for a, b in zip(result.samples, bare.samples, strict=True))
        table.rows.append([name, *_figures(result), "" if result is bare else f"{over:+.1%}"])
        if result is not bare:
            table.judge(over, at_most=0.10)
    return table


def command_cost(server: ModelServer) -> Table:
    """Case 4: what one `chopstick predict` costs beside imports alone."""
    table = Table(
        "command",
        "One `chopstick predict`",
        ["process", "wall s", "spread", "most memory MB"],
        notes=[
            "Seven runs each, in turns; median. No TensorFlow is imported on the client's side."
        ],
    )
    chopstick = str(Path(sys.executable).parent / "chopstick")
    commands = {
        "python -c pass": machine.python("-c", "pass"),
        "python -c 'import grpc'": machine.python("-c", "import grpc"),
        "python -c 'import serving.client'": machine.python("-c", "import serving.client"),
        "chopstick --version": [chopstick, "--version"],
        "chopstick predict HOST:PORT 240": [chopstick, "predict", server.grpc, "240"],
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(7):
        for name, command in commands.items():
            runs[name].append(_run(command))
    for name, measured in runs.items():
        seconds = [wall for wall, _ in measured]
        memory = median(peak for _, peak in measured)
        table.rows.append(
            [
                f"`{name}`",
                f"{median(seconds):.2f}",
                f"{min(seconds):.2f} to {max(seconds):.2f}",
                f"{memory:.0f}",
            ]
        )
        table.raw.append({"subject": name, "seconds": seconds, "megabytes": memory})
    return table


# A process's peak memory starts at its parent's, so that the parent has to be a small one.
_RUN = """
import os, sys, time
started = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - started, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _run(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of one run of a command."""
    done = subprocess.run(
        machine.python("-S", "-c", _RUN, *command), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LoadError(f"{command!r} ended with {done.returncode}: {done.stderr}")
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak) * 1024 / 1e6


# The gateway.


def gateway(server: ModelServer, folder: Path) -> Table:
    """Case 5: what Envoy at the desk adds to a call."""
    table = Table(
        "gateway",
        "What the gateway adds",
        [
            "protocol",
            "in flight",
            "direct p50 ms",
            "p99 ms",
            "gateway p50 ms",
            "p99 ms",
            "added p50 ms",
            "added p99 ms",
        ],
        notes=["Envoy with one replica behind it, on the client's core; access log off."],
    )
    ports = free_port(), free_port()
    config = folder / "envoy.yaml"
    replica = bootstrap.Replica(server.grpc_port, server.rest_port)
    config.write_text(bootstrap.render(bootstrap.Gateway(*ports, access_log=False), [replica]))
    log = folder / "envoy.log"
    command = envoy.command(config, folder / "envoy.admin")
    with process(command, log, cpus=[CLIENT_CPU]) as running:
        message, body = predict_message(1), predict_body(1)

        def grpc_load(target: str) -> GrpcLoad:
            return GrpcLoad(target, METHOD, message)

        def rest_load(target: str) -> RestLoad:
            return RestLoad(target, PATH, body)

        makers: tuple[tuple[str, Callable[[str], Any], str, int], ...] = (
            ("gRPC", grpc_load, server.grpc, ports[0]),
            ("REST", rest_load, server.rest, ports[1]),
        )
        for protocol, make, direct, port in makers:
            through = f"127.0.0.1:{port}"

            def connect(make: Callable[[str], Any] = make, through: str = through) -> Any:
                load = make(through)
                load.call()
                return load

            with (
                closing(machine.until_up(connect, running, log)) as proxied,
                closing(make(direct)) as plain,
            ):
                for concurrency in (1, 8):
                    results = compare({"direct": plain, "gateway": proxied}, concurrency)
                    table.keep(results, protocol=protocol, concurrency=concurrency)
                    a, b = results["direct"], results["gateway"]
                    table.rows.append(
                        [
                            protocol,
                            str(concurrency),
                            ms(a.p50),
                            ms(a.p99),
                            ms(b.p50),
                            ms(b.p99),
                            ms(b.p50 - a.p50),
                            ms(b.p99 - a.p99),
                        ]
                    )
    return table


# A switch of versions.

BEFORE_SECONDS = 2.0
AFTER_SECONDS = 1.0
SWITCHES = 3


def switch(model: Path, folder: Path) -> Table:
    """Case 5: latency while a version is loaded and the one before it unloaded."""
    table = Table(
        "switch",
        "Loading a version while serving",
        [
            "in flight",
            "calls",
            "before p50 ms",
            "p99 ms",
            "slowest",
            "during p50 ms",
            "p99 ms",
            "slowest",
            "s from appearing to unloaded",
            "failed",
        ],
        notes=[
            "The server's one core loads, warms up and unloads beside the calls. 'During' is from "
            "the moment the new version appears in the base path to the moment the old one is "
            "unloaded; the poll interval of 1 s is within it. The calls of three switches "
            "together.",
        ],
    )
    base = folder / "switching"
    base.mkdir()
    newest = max((v for v in model.iterdir() if v.name.isdecimal()), key=lambda v: int(v.name))
    shutil.copytree(newest, base / "1")
    versions = 1
    with model_server(folder, base) as server:
        for concurrency in (1, 8):
            before: list[float] = []
            during: list[float] = []
            spans: list[float] = []
            for _ in range(SWITCHES):
                versions += 1
                staged = folder / "staged"
                shutil.copytree(newest, staged)
                calls, appeared, settled = _switch_once(
                    server, staged, base / str(versions), concurrency
                )
                before += [took for at, took in calls if at < appeared]
                during += [took for at, took in calls if appeared <= at and at - took <= settled]
                spans.append(settled - appeared)
            rows = []
            for took in (before, during):
                ordered = sorted(took)
                rows += [ms(quantile(ordered, q) * 1e3) for q in (0.5, 0.99, 1)]
            table.rows.append(
                [
                    str(concurrency),
                    f"{len(before) + len(during):,}",
                    *rows,
                    f"{median(spans):.2f}",
                    "0",
                ]
            )
            table.raw.append(
                {"concurrency": concurrency, "before": rows[:3], "during": rows[3:]}
                | {"seconds": spans, "calls": [len(before), len(during)]}
            )
    return table


def _switch_once(
    server: ModelServer, staged: Path, final: Path, concurrency: int
) -> tuple[list[tuple[float, float]], float, float]:
    """(calls as (end, seconds), when the version appeared, when the old one was gone)."""
    times: list[float] = []
    failures: list[BaseException] = []

    def replace() -> None:
        try:
            time.sleep(BEFORE_SECONDS)
            times.append(time.perf_counter())
            staged.rename(final)
            with grpc.insecure_channel(server.grpc) as channel:
                request = messages.GetModelStatusRequest()
                request.model_spec.name = MODEL

                def gone() -> bool:
                    status = ModelServiceStub(channel).GetModelStatus(request, timeout=30)
                    states = {v.version: v.state for v in status.model_version_status}
                    time.sleep(0.05)
                    return (
                        states.get(int(final.name)) == 30
                        and 30
                        not in [
                            state for version, state in states.items() if version != int(final.name)
                        ]
                        and 40 not in states.values()
                    )

                wait_for(gone, "the switch of versions", 60)
            times.append(time.perf_counter())
        except BaseException as error:
            failures.append(error)

    with closing(GrpcLoad(server.grpc, METHOD, predict_message(1))) as load:
        load.measure(concurrency, 0.5)
        watcher = threading.Thread(target=replace)
        watcher.start()
        calls: list[tuple[float, float]] = []
        while watcher.is_alive():
            calls += load.latencies(concurrency, 0.25)
        calls += load.latencies(concurrency, AFTER_SECONDS)
        watcher.join()
    if failures:
        raise failures[0]
    return calls, times[0], times[1]


# Several processes on one port.


def workers(model: Path, folder: Path) -> Table:
    """Case 6: one process against two that share the port, both on all cores."""
    table = Table(
        "workers",
        "Two processes on one port (SO_REUSEPORT), a prototype",
        ["processes", "connections", "req/s", "spread", "busier process's share", "memory MB"],
        notes=[
            "Server and client on all cores; 64 calls in flight, spread over the connections, from "
            "two client processes. The kernel gives each connection to one process, by a hash. "
            "[ADR 0003](adr/0003-no-workers-flag.md) is what follows from it.",
        ],
    )
    flag = "--grpc_channel_arguments=grpc.so_reuseport=1"
    for count in (1, 2):
        with ExitStack() as stack:
            servers = []
            for _ in range(count):
                server = ModelServer(folder, model, flag)
                if servers:
                    server.grpc_port, server.grpc = servers[0].grpc_port, servers[0].grpc
                    server.arguments[3] = servers[0].arguments[3]
                with on(*CPUS):
                    stack.enter_context(server)
                server.channel.close()
                servers.append(server)
            for connections in (2, 16):
                rates, shares = [], []
                for _ in range(4):
                    began = [_requests(server) for server in servers]
                    rates.append(_clients(servers[0].grpc, connections))
                    served = [_requests(s) - b for s, b in zip(servers, began, strict=True)]
                    shares.append(max(served) / sum(served))
                memory = sum(machine.memory_mb(s.process.pid) for s in servers)
                table.rows.append(
                    [
                        str(count),
                        str(connections),
                        f"{median(rates):,.0f}",
                        f"{min(rates):,.0f} to {max(rates):,.0f}",
                        ", ".join(f"{share:.0%}" for share in shares),
                        f"{memory:,.0f}",
                    ]
                )
                table.raw.append(
                    {"processes": count, "connections": connections, "rates": rates}
                    | {"shares": shares, "megabytes": memory}
                )
    return table


def _requests(server: ModelServer) -> int:
    import httpx

    page = httpx.get(
        f"http://{server.rest}/monitoring/prometheus/metrics", trust_env=False, timeout=30
    ).text
    prefix = ':tensorflow:serving:request_count{model_name="chopstick",status="OK"} '
    return sum(int(line.removeprefix(prefix)) for line in page.splitlines() if prefix in line)


def _clients(target: str, connections: int) -> float:
    """Calls a second that two client processes together get."""
    code = (
        "import sys; from tests.bench.cases import many; "
        "print(many(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))"
    )
    with on(*CPUS):
        clients = [
            subprocess.Popen(
                machine.python("-c", code, target, str(connections // 2), str(64 // connections)),
                stdout=subprocess.PIPE,
                cwd=machine.ROOT,
            )
            for _ in range(2)
        ]
    return sum(float(client.communicate(timeout=60)[0]) for client in clients)


def many(target: str, connections: int, in_flight: int, seconds: float = 2.0) -> float:
    """Calls a second over several connections, a thread each."""
    machine.pin(CPUS)
    loads = [GrpcLoad(target, METHOD, predict_message(1)) for _ in range(connections)]
    rates: list[float] = []
    threads = [
        threading.Thread(
            target=lambda load=load: rates.append(load.measure(in_flight, seconds).rate)
        )
        for load in loads
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


# Batching.

COST_MS = 5.0


def batching(folder: Path) -> Table:
    """Case 7: batching on against off for a model that costs 5 ms a run."""
    table = Table(
        "batching",
        f"Batching for a model of {COST_MS:g} ms a run",
        ["in flight", "off req/s", "p50 ms", "p99 ms", "on req/s", "p50 ms", "p99 ms", "times"],
        notes=[
            "A run costs the same whether 1 row or 128 are in it. One row a request; "
            "`max_batch_size` 128, `batch_timeout_micros` 0, one batch thread, as the server has "
            "one core. The chopstick model itself runs in microseconds: batching has nothing to "
            "give there.",
        ],
    )
    base = folder / "fixed-cost"
    with on(SERVER_CPU):
        subprocess.run(
            machine.python("-m", "tests.bench.models", str(base / "1"), str(COST_MS)),
            check=True,
            cwd=machine.ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    parameters = folder / "batching.txt"
    parameters.write_text(
        "max_batch_size { value: 128 }\nbatch_timeout_micros { value: 0 }\n"
        "num_batch_threads { value: 1 }\nmax_enqueued_batches { value: 100 }\n"
    )
    flags = ("--enable_batching", f"--batching_parameters_file={parameters}")
    message = predict_message(1, "fixed", "x")
    with (
        model_server(folder, base, model="fixed") as plain,
        model_server(folder, base, *flags, model="fixed") as batched,
        closing(GrpcLoad(plain.grpc, METHOD, message)) as off,
        closing(GrpcLoad(batched.grpc, METHOD, message)) as on_,
    ):
        for concurrency in CONCURRENCY:
            results = compare({"off": off, "on": on_}, concurrency, seconds=1.5)
            a, b = results["off"], results["on"]
            table.keep(results, concurrency=concurrency)
            table.rows.append(
                [
                    str(concurrency),
                    f"{a.rate:,.0f}",
                    ms(a.p50),
                    ms(a.p99),
                    f"{b.rate:,.0f}",
                    ms(b.p50),
                    ms(b.p99),
                    f"{ratio(b, a):.1f}",
                ]
            )
    return table


def run(names: Sequence[str]) -> Iterator[Table]:
    """Run the named cases, all without a name."""
    from tests.bench.peers import chopstick_model

    with tempfile.TemporaryDirectory(prefix="chopstick-bench-") as name:
        folder = Path(name)
        model = chopstick_model(folder)
        wanted = [case for case in CASES if not names or case in names]
        shared = [case for case in wanted if case not in ("switch", "workers", "batching")]
        if shared:
            with model_server(folder, model) as server:
                for case in shared:
                    yield {
                        "grpc": lambda: against_echo("grpc", server, folder),
                        "rest": lambda: against_echo("rest", server, folder),
                        "client": lambda: client_library(server),
                        "command": lambda: command_cost(server),
                        "gateway": lambda: gateway(server, folder),
                    }[case]()
        for case in wanted:
            if case == "switch":
                yield switch(model, folder)
            elif case == "workers":
                yield workers(model, folder)
            elif case == "batching":
                yield batching(folder)


CASES = ("grpc", "rest", "client", "command", "gateway", "switch", "workers", "batching")
