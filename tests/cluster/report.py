"""A suite's results: build/e2e.json, or another, and its tables in docs/benchmarks.md."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.machine import describe
from tests.bench.report import BUSY, insert
from tests.cluster.images import stand_in
from tests.cluster.stack import ROOT
from tests.cluster.suite import FAIL, SKIP, Outcome, Size

PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Results:
    """Where a suite's results go; `target` is make's, the JSON's name and the page's marker."""

    target: str

    @property
    def file(self) -> Path:
        """The JSON of the last run."""
        return ROOT / "build" / f"{self.target}.json"

    @property
    def kept(self) -> Path:
        """One folder for each case that failed."""
        return ROOT / "build" / self.target

    def machine(
        self, size: Size, version: str, nodes: int, versions: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """What the run is made on; to be called before it, as it tells how busy the machine is."""
        return {
            **describe(f"make {self.target}" + (" FULL=1" if size.name == "full" else "")),
            "kubernetes": version,
            "nodes": nodes,
            "versions": dict(versions or {}),
        }

    def write(
        self, size: Size, on: dict[str, Any], outcomes: Sequence[Outcome], seconds: float
    ) -> None:
        """Write `document` to `file`."""
        self.file.parent.mkdir(exist_ok=True)
        found = document(size, on, outcomes, seconds)
        self.file.write_text(json.dumps(found, indent=1) + "\n")

    def publish(self) -> None:
        """Put the tables of `file` into docs/benchmarks.md, between the markers."""
        text = page(json.loads(self.file.read_text()))
        PAGE.write_text(insert(PAGE.read_text(), self.target, text))


def document(
    size: Size, on: dict[str, Any], outcomes: Sequence[Outcome], seconds: float
) -> dict[str, Any]:
    """Everything as plain JSON types."""
    return {
        "size": asdict(size),
        "machine": on,
        "stand_in": stand_in(),
        "seconds": round(seconds, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cases": [asdict(outcome) for outcome in outcomes],
    }


def page(found: dict[str, Any]) -> str:
    """The part of docs/benchmarks.md for a run, from its JSON."""
    machine = found["machine"]
    servers = (
        "the servers are the stand-in with SIGTERM ignored, not TensorFlow Serving"
        if found["stand_in"]
        else "the servers are TensorFlow Serving"
    )
    lines = [
        f"`{machine['command']}`, {machine['date']}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, Linux {machine['kernel']}; Kubernetes {machine['kubernetes']}, "
        + "".join(f"{name} {version}, " for name, version in machine["versions"].items())
        + f"{machine['nodes']} nodes that share these cores with the client; {servers}. "
        f"{found['seconds'] / 60:.0f} minutes.",
    ]
    load = machine["load_average_at_start"]
    if load > BUSY:
        lines += ["", f"**Disturbed**: the load average was {load:g} at the start."]
    lines += _table(
        "Changes under load",
        ["change", "requests", "a second", "failed", "p50 ms", "p99 ms", "max ms", "seconds"],
        [
            [change["title"], *_numbers(change["report"]), f"{change['seconds']:.0f}"]
            for case in found["cases"]
            for change in case["changes"]
        ],
    )
    lines += [
        "",
        "Open loop from a pod, latency from the due time; seconds from the first command until no pod "
        "was terminating. No retry policy but where the row says so; gRPC by itself repeats what no "
        "server has seen.",
    ]
    lines += _table(
        "Figures",
        ["case", "what", "value", "target"],
        [
            [case["name"], f["name"], f"{f['value']:.3g} {f['unit']}".strip(), f["target"]]
            for case in found["cases"]
            for f in case["figures"]
        ],
    )
    for case in found["cases"]:
        for grid in case["grids"]:
            lines += _table(grid["title"], grid["header"], grid["rows"])
    lines += _table(
        "Cases",
        ["case", "what", "outcome", "seconds"],
        [[c["name"], c["title"], _outcome(c), f"{c['seconds']:.0f}"] for c in found["cases"]],
    )
    return "\n".join(lines) + "\n"


def _table(title: str, header: list[str], rows: list[list[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return ["", f"### {title}", "", *(f"| {' | '.join(row)} |" for row in cells)]


def _outcome(case: dict[str, Any]) -> str:
    return case["outcome"] + (f": {case['detail']}" if case["outcome"] == SKIP else "")


def _numbers(report: dict[str, Any]) -> list[str]:
    return [
        f"{report['sent']:,}",
        f"{report['rate']:g}",
        f"{report['failed'] + report['not_sent']:,}",
        f"{report['p50'] * 1e3:.1f}",
        f"{report['p99'] * 1e3:.1f}",
        f"{report['max'] * 1e3:.0f}",
    ]


def totals(outcomes: Sequence[Outcome]) -> str:
    """How many of each, with the reasons of skips."""
    failed = [o.name for o in outcomes if o.outcome == FAIL]
    skipped = [f"{o.name} ({o.detail})" for o in outcomes if o.outcome == SKIP]
    passed = len(outcomes) - len(failed) - len(skipped)
    return (
        f"{passed} passed, {len(failed)} failed{_listed(failed)}, "
        f"{len(skipped)} skipped{_listed(skipped)}"
    )


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
