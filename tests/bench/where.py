"""Where a Predict's processor time goes: the whole of it beside its stages and beside the echo.

Processor time per request hardly depends on what else the machine does, unlike requests a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench import machine
from tests.bench.cases import METHOD, PATH, ROWS, echo, predict_body, predict_message
from tests.bench.compare import Table
from tests.bench.machine import SERVER_CPU, on
from tests.bench.wire import GrpcLoad, RestLoad

CONCURRENCY = 64
ROUNDS = 5
SECONDS = 1.5
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has had, its own and the kernel's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _stages(base_path: Path, rows: int) -> dict[str, float]:
    with on(SERVER_CPU):
        done = subprocess.run(
            machine.python("-m", "tests.bench.stages", str(base_path), str(rows)),
            check=True,
            cwd=machine.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    return json.loads(done.stdout.splitlines()[-1])


def _per_request(loads: dict[int, Any]) -> dict[int, list[float]]:
    """Microseconds of processor time per request, a figure a round, by the server's pid."""
    figures: dict[int, list[float]] = {pid: [] for pid in loads}
    for load in loads.values():
        load.measure(CONCURRENCY, 0.5)
    for _ in range(ROUNDS):
        for pid, load in loads.items():
            before = cpu_seconds(pid)
            taken = load.measure(CONCURRENCY, SECONDS)
            figures[pid].append((cpu_seconds(pid) - before) / taken.count * 1e6)
    return figures


def _table(kind: str, base_path: Path, stages: dict[int, dict[str, float]], folder: Path) -> Table:
    protocol = "REST" if kind == "rest" else "gRPC"
    table = Table(
        f"where-{kind}",
        f"Where a Predict's time goes, {protocol}",
        [
            "rows",
            "whole us",
            "spread",
            "read",
            "run",
            "write",
            "all the rest",
            "echo's whole us",
            "spread",
            "echo of ours",
        ],
        notes=[
            f"Microseconds of processor time per request with {CONCURRENCY} in flight, from "
            "/proc/PID/stat: median, lowest and highest of the rounds, in turns with the echo. "
            "Read, run and write are the least that each takes alone with warm caches "
            "(`tests/bench/stages.py`); all the rest is the difference: HTTP, event loop, system "
            "calls, looking up, timing, counting, and caches that are not warm."
        ],
    )
    with machine.model_server(folder, base_path) as server:
        for rows in ROWS:
            message, body = predict_message(rows), predict_body(rows)

            def load(target: str, message: bytes = message, body: bytes = body) -> Any:
                if kind == "grpc":
                    return GrpcLoad(target, METHOD, message)
                return RestLoad(target, PATH, body)

            with ExitStack() as stack:
                mine = stack.enter_context(
                    closing(load(server.grpc if kind == "grpc" else server.rest))
                )
                target, process = stack.enter_context(echo(kind, mine.call(), folder))
                theirs = stack.enter_context(closing(load(target)))
                figures = _per_request({server.process.pid: mine, process.pid: theirs})
            ours, echoes = figures[server.process.pid], figures[process.pid]
            parts = [stages[rows][f"{kind} read"], stages[rows]["run"]]
            parts.append(stages[rows][f"{kind} write"])
            share = median(a / b for a, b in zip(echoes, ours, strict=True))
            whole = median(ours)
            table.rows.append(
                [f"{rows:,}", f"{whole:,.0f}", f"{min(ours):,.0f} to {max(ours):,.0f}"]
                + [f"{part:,.0f}" for part in (*parts, whole - sum(parts))]
                + [f"{median(echoes):,.0f}", f"{min(echoes):,.0f} to {max(echoes):,.0f}"]
                + [f"{share:.2f}"]
            )
            table.raw.append({"rows": rows, "server": ours, "echo": echoes, "stages": stages[rows]})
    return table


def _exact_table(stages: dict[int, dict[str, float]]) -> Table:
    table = Table(
        "where-json",
        "The fast lane beside the exact way",
        ["rows", "fast read us", "exact read us", "by row us", "by column us"],
        notes=[
            "To read a body into an array, and to write the reply by row and by column. What the "
            "fast lane does not take costs the exact way."
        ],
    )
    names = ("rest read", "rest read exactly", "rest write", "rest write columns")
    table.rows = [
        [f"{rows:,}", *(f"{measured[name]:,.0f}" for name in names)]
        for rows, measured in stages.items()
    ]
    return table


def run() -> Iterator[Table]:
    """The tables of `python -m tests.bench where`."""
    from tests.bench.peers import chopstick_model

    with tempfile.TemporaryDirectory(prefix="chopstick-where-") as name:
        folder = Path(name)
        base_path = chopstick_model(folder)
        stages = {rows: _stages(base_path, rows) for rows in ROWS}
        yield _exact_table(stages)
        for kind in ("rest", "grpc"):
            yield _table(kind, base_path, stages, folder)
