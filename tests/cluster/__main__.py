"""`python -m tests.cluster [CASE]...`: the end-to-end tests on the cluster of KUBECONFIG.

Each CASE is a part of a case's name; without one all of them run. Results go to build/e2e.json,
with --full also into docs/benchmarks.md; what is kept of a failed case is in build/e2e/<case>/.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from rich.console import Console
from rich.table import Table

import tests.cluster.cases  # noqa: F401 - registers them
from serving.errors import ChopstickError
from tests.cluster import images, report
from tests.cluster.cluster import Cluster
from tests.cluster.stack import ROOT
from tests.cluster.suite import (
    CASES,
    CI,
    FAIL,
    FULL,
    PASS,
    SKIP,
    Context,
    Outcome,
    run_case,
    select,
)

KEPT = ROOT / "build" / "e2e"
COLOURS = {PASS: "green", FAIL: "red", SKIP: "yellow"}


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--full", action="store_true", help="10,000 requests beside each change")
    parser.add_argument("--no-images", action="store_true", help="the cluster has the images")
    parser.add_argument("--keep", action="store_true", help="leave the stacks in the cluster")
    parser.add_argument("--publish", action="store_true", help="only write docs/benchmarks.md")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - began:6.1f} s] {text}")

    if arguments.publish:
        report.publish()
        return 0
    chosen = select(arguments.cases)
    if not chosen:
        raise ChopstickError(
            f"no case has '{' '.join(arguments.cases)}' in its name",
            f"There are: {', '.join(CASES)}.",
        )
    try:
        cluster = Cluster()
    except ChopstickError as error:
        if os.environ.get("CI") == "true":
            raise
        console.print(f"skipped: {len(chosen)} cases on a cluster: {error}")
        return 0
    size = FULL if arguments.full else CI
    nodes = cluster.nodes()
    machine = report.machine(size, cluster.version, len(nodes))
    say(f"{cluster.version}, nodes {', '.join(nodes)}; {size.requests} requests beside each change")
    if not arguments.no_images:
        images.provide(say)
    context = Context(cluster, size, lambda text: say(f"    {text}"))
    context.clients.set_up()
    outcomes: list[Outcome] = []
    try:
        for case in chosen:
            say(f"{case.name}: {case.title}")
            outcome = run_case(case, context, KEPT)
            outcomes.append(outcome)
            say(f"{case.name}: {outcome.outcome} in {outcome.seconds:.1f} s {outcome.detail}")
            report.write(report.document(size, machine, outcomes, time.monotonic() - began))
    finally:
        if not arguments.keep:
            say("removing the stacks")
            cluster.kubectl(
                "delete", "namespace", *sorted(context.lasting),
                "--ignore-not-found", "--timeout=120s", seconds=130,
            )  # fmt: skip
    show(outcomes)
    say(f"{report.totals(outcomes)}; {report.RESULT.relative_to(ROOT)}")
    failed = any(outcome.outcome == FAIL for outcome in outcomes)
    if arguments.full and not arguments.cases and not failed:
        report.publish()
    return 1 if failed else 0


def show(outcomes: list[Outcome]) -> None:
    """The changes under load, for a terminal or for a program."""
    rows = [(outcome, change, change.report) for outcome in outcomes for change in outcome.changes]
    if not sys.stdout.isatty():
        print("case\tchange\tsent\tfailed\tp50_ms\tp99_ms\tmax_ms\tseconds")
        for outcome, change, load in rows:
            print(
                f"{outcome.name}\t{change.title}\t{load.sent}\t{load.lost}\t{load.p50 * 1e3:.1f}\t"
                f"{load.p99 * 1e3:.1f}\t{load.max * 1e3:.0f}\t{change.seconds:.1f}"
            )
        return
    table = Table("case", "", "change", "sent", "failed", "p50 ms", "p99 ms", "max ms", "s")
    for outcome, change, load in rows:
        table.add_row(
            outcome.name, f"[{COLOURS[outcome.outcome]}]{outcome.outcome}[/]", change.title,
            str(load.sent), str(load.lost), f"{load.p50 * 1e3:.1f}", f"{load.p99 * 1e3:.1f}",
            f"{load.max * 1e3:.0f}", f"{change.seconds:.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    # As Ctrl-C does: what was made in the cluster is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except ChopstickError as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
