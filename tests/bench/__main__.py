"""`python -m tests.bench [CASE]...`, `... peers [--lock]` and `... where`.

Writes docs/benchmarks.md and docs/benchmarks/*.json; with cases named, or `--dry`, only prints.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.bench import cases, machine, peers, report, where
from tests.bench.compare import Table

# What has a part of the page of its own: the command, and what makes its tables.
PAGES = {
    "peers": ("make bench-peers", peers.run),
    "where": ("make bench ARGS=where", where.run),
}


def main(words: list[str]) -> int:
    names = [word for word in words if not word.startswith("--")]
    unknown = [word for word in names if word not in (*cases.CASES, *PAGES)]
    if unknown:
        print(
            f"error: no case named {unknown[0]}\n  {', '.join((*cases.CASES, *PAGES))}",
            file=sys.stderr,
        )
        return 2
    if not machine.CPUS:
        print("error: the benchmarks keep processes to cores\n  Linux only", file=sys.stderr)
        return 1
    if "--lock" in words:
        for peer in peers.PEERS:
            peers.lock(peer)
        return 0
    machine.pin([machine.CLIENT_CPU])
    name = next((page for page in PAGES if page in names), "server")
    command, tables_of = PAGES.get(name, ("make bench", lambda: cases.run(names)))
    described = machine.describe(command)
    if described["load_average_at_start"] > report.BUSY:
        print(f"note: the machine is busy: {described['load_average_at_start']}", file=sys.stderr)
    tables: list[Table] = []
    started = time.monotonic()
    for table in tables_of():
        tables.append(table)
        print(report.markdown([table], described).split("\n", 1)[1], flush=True)
        print(f"[{time.monotonic() - started:.0f} s]", file=sys.stderr)
    if "--dry" not in words and (name in PAGES or not names):
        report.write(Path("docs"), name, tables, described)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
