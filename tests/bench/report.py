"""Tables into docs/benchmarks.md, between markers, and numbers into docs/benchmarks/*.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.compare import Table

# A load average above this at the start is somebody else's work.
BUSY = 0.5


def markdown(tables: Sequence[Table], machine: dict[str, Any]) -> str:
    """The generated part of the page for one command."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    cores = machine["cores"]
    pinned = (
        f"server on core {machine['server_core']}, client on core {machine['client_core']}"
        if machine["server_core"] != machine["client_core"]
        else "server and client on the same core"
    )
    lines = [
        f"`{machine['command']}`, {machine['date']}: {machine['cpu']}, {cores} cores, "
        f"{machine['memory_gb']} GB, Linux {machine['kernel']}; {pinned}, loopback. {versions}.",
    ]
    load = machine.get("load_average_at_start", 0.0)
    if load > BUSY:
        lines += [
            "",
            f"**Disturbed**: the load average was {load:g} at the start, so other work had part of "
            "the cores. Ratios of what was measured in turns hold better than rates and p99.",
        ]
    for table in tables:
        lines += ["", f"### {table.title}", ""]
        if table.target:
            lines += [f"Target: {table.target}: {table.outcome}.", ""]
        lines += ["| " + " | ".join(table.header) + " |"]
        lines += ["|" + "|".join("---:" if i else "---" for i in range(len(table.header))) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        for note in table.notes:
            lines += ["", note]
    return "\n".join(lines) + "\n"


def insert(page: str, name: str, text: str) -> str:
    """The page with the part between `name`'s markers replaced; ValueError without markers."""
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no markers for {name} on the page")
    return f"{before}{begin}{text}{end}{after}"


def write(folder: Path, name: str, tables: Sequence[Table], machine: dict[str, Any]) -> None:
    """Write `docs/benchmarks/NAME.json` and the page's part of that name."""
    kept = folder / "benchmarks"
    kept.mkdir(exist_ok=True)
    document = {"machine": machine, "cases": [asdict(table) for table in tables]}
    (kept / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    page = folder / "benchmarks.md"
    page.write_text(insert(page.read_text(), name, markdown(tables, machine)))
