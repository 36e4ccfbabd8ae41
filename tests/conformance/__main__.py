"""`python -m tests.conformance`: hold a server to the sheet; see README.md beside this."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.conformance import runner
from tests.conformance.harness import PROFILES, Process, Server

COLOURS = {
    runner.PASS: "green",
    runner.FAIL: "red",
    runner.NOT_APPLICABLE: "dim",
    runner.KNOWN: "yellow",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--endpoint", help="gRPC host:port of a server; without it one is started")
    parser.add_argument("--rest", default="", help="REST host:port of that server")
    parser.add_argument("--models", type=Path, help="the directory whose models it serves")
    parser.add_argument(
        "--server", default="", help="command of the server to start instead of the embedded one"
    )
    parser.add_argument(
        "--stand-in", action="store_true", help="the server is the embedded one: see `stand_in`"
    )
    parser.add_argument("--full", action="store_true", help="also the embedding of 200 MB")
    parser.add_argument(
        "-k", action="append", default=[], metavar="WORD", help="only cases with it"
    )
    parser.add_argument("-j", type=int, default=2, help="servers at a time (2)")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    progress = Console(stderr=True)
    began = time.monotonic()

    def report(result: runner.Result) -> None:
        if result.outcome == runner.FAIL:
            progress.print(f"[red]fail[/red] {result.case.name}", highlight=False)
            progress.print(
                f"     {result.detail[:1000]}", highlight=False, markup=False, soft_wrap=True
            )

    if arguments.endpoint:
        models = arguments.models.resolve() if arguments.models else None
        server = Server(arguments.endpoint, arguments.rest, models)
        results = runner.run_remote(
            server, words=arguments.k, stand_in=arguments.stand_in, report=report
        )
        server.close()
    else:
        if arguments.server:
            Process.command = shlex.split(arguments.server)
        with tempfile.TemporaryDirectory(prefix="conformance-") as name:

            def run(profile) -> list[runner.Result]:
                if sys.stderr.isatty():
                    progress.print(f"[dim]{profile.name} …[/dim]")
                return runner.run_profile(
                    profile, Path(name), words=arguments.k, full=arguments.full,
                    stand_in=arguments.stand_in or not arguments.server, report=report,
                )  # fmt: skip

            with ThreadPoolExecutor(arguments.j) as pool:
                results = [result for part in pool.map(run, PROFILES.values()) for result in part]

    rows = runner.by_row(results)
    print_table(rows)
    print_totals(progress, results, rows, time.monotonic() - began)
    return 1 if any(result.outcome == runner.FAIL for result in results) else 0


def print_table(rows: list[runner.RowResult]) -> None:
    """The rows, for a terminal or for a program."""
    if not sys.stdout.isatty():
        print("row\tsection\tresult\tcases\tdetail")
        for row in rows:
            detail = " ".join(row.detail.split())
            print(f"{row.row.id}\t{row.row.section}\t{row.outcome}\t{row.cases}\t{detail[:300]}")
        return
    table = Table("row", "§", "result", "cases", "what TensorFlow Serving does")
    for row in rows:
        colour = COLOURS[row.outcome]
        text = row.row.does if row.outcome == runner.PASS else f"{row.row.does}\n{row.detail[:300]}"
        table.add_row(
            row.row.id, str(row.row.section), f"[{colour}]{row.outcome}[/]", str(row.cases),
            text.replace("[", r"\["),
        )  # fmt: skip
    Console().print(table)


def print_totals(
    console: Console, results: list[runner.Result], rows: list[runner.RowResult], seconds: float
) -> None:
    """How many of each, in cases and in rows."""
    for what, counted in (
        ("rows", Counter(row.outcome for row in rows)),
        ("cases", Counter(result.outcome for result in results)),
    ):
        parts = ", ".join(f"{number} {outcome}" for outcome, number in counted.most_common())
        console.print(f"{counted.total():4d} {what}: {parts}", highlight=False)
    console.print(f"in {seconds:.0f} s", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
