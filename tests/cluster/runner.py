"""A suite as a program: words of the command line, the cluster, the cases in order, their results."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from rich.console import Console
from rich.table import Table

from serving.errors import ChopstickError
from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.cluster.report import Results, totals
from tests.cluster.stack import ROOT
from tests.cluster.suite import (
    FAIL,
    PASS,
    SKIP,
    ContextT,
    Outcome,
    Registry,
    Size,
    run_case,
)

COLOURS = {PASS: "green", FAIL: "red", SKIP: "yellow"}


@dataclass(frozen=True)
class Program(Generic[ContextT]):
    """What tells one suite from another."""

    module: str
    """As `python -m` names it."""
    text: str
    registry: Registry[ContextT]
    ci: Size
    full: Size
    context: Callable[[Cluster, Size, Callable[[str], None]], ContextT]
    results: Results
    missing: Callable[[Cluster], str] = lambda _: ""
    """Why no case can be run on a cluster; then all are skipped, in CI too. Empty when they can."""
    versions: Callable[[Cluster], dict[str, str]] = lambda _: {}
    """What is under test beside Kubernetes, such as {"Linkerd": "edge-26.6.3"}."""

    def parse(self, words: Sequence[str] | None) -> argparse.Namespace:
        """The command line's words."""
        parser = argparse.ArgumentParser(
            prog=f"python -m {self.module}", description=self.text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        cases = ", ".join(self.registry.cases)
        parser.add_argument("cases", nargs="*", metavar="CASE", help=cases)
        parser.add_argument(
            "--full",
            action="store_true",
            help=f"{self.full.requests:,} requests beside each change",
        )
        parser.add_argument("--no-images", action="store_true", help="the cluster has the images")
        parser.add_argument("--keep", action="store_true", help="leave the stacks in the cluster")
        parser.add_argument("--publish", action="store_true", help="only write docs/benchmarks.md")
        return parser.parse_args(words)

    def main(self, words: Sequence[str] | None = None) -> int:
        """Run the chosen cases; the exit code. ChopstickError for what is wrong before the first."""
        arguments = self.parse(words)
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        began = time.monotonic()

        def say(text: str) -> None:
            console.print(f"[{time.monotonic() - began:6.1f} s] {text}")

        if arguments.publish:
            self.results.publish()
            return 0
        chosen = self.registry.select(arguments.cases)
        if not chosen:
            raise ChopstickError(
                f"no case has '{' '.join(arguments.cases)}' in its name",
                f"There are: {', '.join(self.registry.cases)}.",
            )
        try:
            cluster = Cluster()
        except ChopstickError as error:
            if os.environ.get("CI") == "true":
                raise
            console.print(f"skipped: {len(chosen)} cases on a cluster: {error}")
            return 0
        if reason := self.missing(cluster):
            skipped = [Outcome(case.name, case.title, SKIP, reason) for case in chosen]
            for outcome in skipped:
                console.print(f"skipped: {outcome.name}: {outcome.title}")
            console.print(f"skipped: {len(skipped)} cases: {reason}")
            return 0
        size = self.full if arguments.full else self.ci
        nodes = cluster.nodes()
        machine = self.results.machine(size, cluster.version, len(nodes), self.versions(cluster))
        say(
            f"{cluster.version}, nodes {', '.join(nodes)}; "
            f"{size.requests} requests beside each change"
        )
        if not arguments.no_images:
            images.provide(say)
        context = self.context(cluster, size, lambda text: say(f"    {text}"))
        context.set_up()
        outcomes: list[Outcome] = []
        try:
            for case in chosen:
                say(f"{case.name}: {case.title}")
                outcome = run_case(case, context, self.results.kept)
                outcomes.append(outcome)
                say(f"{case.name}: {outcome.outcome} in {outcome.seconds:.1f} s {outcome.detail}")
                self.results.write(size, machine, outcomes, time.monotonic() - began)
        finally:
            if not arguments.keep:
                say("removing the stacks")
                context.tear_down()
        show(outcomes)
        say(f"{totals(outcomes)}; {self.results.file.relative_to(ROOT)}")
        failed = any(outcome.outcome == FAIL for outcome in outcomes)
        if arguments.full and not arguments.cases and not failed:
            self.results.publish()
        return 1 if failed else 0

    def run(self) -> None:
        """`main` with the process's own words, and its exit."""
        # As Ctrl-C does: what was made in the cluster is removed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            sys.exit(self.main())
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(130)
        except ChopstickError as problem:
            print(f"error: {problem}", file=sys.stderr)
            sys.exit(problem.exit_code)


def show(outcomes: Sequence[Outcome]) -> None:
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
