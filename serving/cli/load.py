"""`chopstick load`: an open-loop load, its latency, its failures, who answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.cli import _client
from serving.errors import ChopstickError

if TYPE_CHECKING:
    from serving.load import LatencySummary, Load, LoadConfig, LoadResult

INTERRUPTED = 130  # what a shell reports for Ctrl-C


@click.command("load", cls=_client.NumberCommand)
@_client.target_argument
@click.option("--rate", type=float, required=True, metavar="R", help="Requests a second.")
@click.option(
    "--connections", type=int, default=1, show_default=True, metavar="C", help="Connections."
)
@click.option("--duration", type=float, metavar="S", help="Seconds; default 10 without --count.")
@click.option("--count", type=int, metavar="N", help="Requests; ends the load before --duration.")
@click.option("--rows", type=int, default=1, show_default=True, help="Lengths per request.")
@click.option("--poisson", is_flag=True, help="Random gaps instead of equal ones.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of lengths and gaps.")
@_client.timeout_option
@click.option(
    "--max-failures",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Exit 0 with up to N requests without an OK.",
)
@click.option(
    "--max-in-flight",
    type=int,
    default=10_000,
    show_default=True,
    metavar="N",
    help="Requests under way; what is due beyond is counted, not sent.",
)
@click.option(
    "--share-key",
    default="x-served-by",
    show_default=True,
    help="Response header in which the gateway names the replica.",
)
@click.option(
    "--retries", is_flag=True, help="Repeat what is UNAVAILABLE, as the client library does."
)
@_client.selection_options
@click.option("--signature", help="Signature key; default serving_default.")
@_client.connection_options
@click.option("--json", "json_file", metavar="FILE|-", help="Write the whole result as JSON.")
def command(
    target: str,
    rate: float,
    connections: int,
    duration: float | None,
    count: int | None,
    rows: int,
    poisson: bool,
    seed: int,
    timeout: float,
    max_failures: int,
    max_in_flight: int,
    share_key: str,
    retries: bool,
    model: str,
    version: int | None,
    label: str | None,
    signature: str | None,
    json_file: str | None,
    **options: Any,
) -> None:
    """Send requests to HOST:PORT on a schedule, whatever the server does, and report.

    Latency counts from the moment a request was due. Ctrl-C, or SIGTERM, ends the load and reports
    what there is. Exits 1 when more than --max-failures requests got no OK.

    \b
    chopstick load 127.0.0.1:8500 --rate 200 --connections 4 --duration 30
    """  # noqa: D301 - \b is click's mark for 'keep these lines'
    if max_failures < 0:
        raise ChopstickError(f"--max-failures {max_failures} is negative", "It is 0 or more.")
    if json_file and json_file != "-":
        _check_writable(Path(json_file))
    to = _client.connection(target, timeout, **options)

    from serving.load import LoadConfig

    config = LoadConfig(
        target=target,
        rate=rate,
        duration=10.0 if duration is None and count is None else duration,
        count=count,
        connections=connections,
        timeout=timeout,
        rest=to.rest,
        poisson=poisson,
        seed=seed,
        model=model,
        version=version,
        label=label,
        signature=signature,
        rows=rows,
        max_in_flight=max_in_flight,
        share_key=share_key,
        tls=to.tls,
        api_key=to.api_key,
        connect_to=to.connect_to,
        retries=retries,
    )
    result, interrupted = _run(config)
    if json_file == "-":
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        if json_file:
            _write(Path(json_file), json.dumps(result.to_json(), indent=2) + "\n")
        report(result, rest=to.rest)
    if interrupted:
        sys.exit(INTERRUPTED)
    if result.lost > max_failures:
        first = result.failures[0].message if result.failures else "too many under way"
        remedy = "See the failures above; --json keeps each with its time."
        if not result.ok and result.failures:
            from serving.client.remedies import remedy_for
            from serving.protocol.status import Code

            # Not one got through: the way is wrong rather than the load too much.
            code = Code[result.failures[0].code]
            remedy = remedy_for(code, first, to.connect_to or target)
        raise ChopstickError(
            f"{target}: {result.lost} of {result.due} requests got no OK (at most {max_failures} "
            f"allowed); the first: {first}",
            remedy,
        )


def _run(config: LoadConfig) -> tuple[LoadResult, bool]:
    import uvloop

    from serving.load import Load

    async def run() -> tuple[LoadResult, bool]:
        load = Load(config)
        interrupts = 0

        def interrupt() -> None:
            nonlocal interrupts
            interrupts += 1
            load.stop()
            if interrupts > 1:
                task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        task = asyncio.create_task(load.run())
        progress = asyncio.create_task(_progress(load))
        try:
            result = await task
        except asyncio.CancelledError:
            # A second Ctrl-C: answers under way are given up, what is counted is shown.
            result = load.so_far
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)
        return result, interrupts > 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def _progress(load: Load) -> None:
    """Say on standard error how it goes: a line that changes, or now and then one in a log."""
    live = sys.stderr.isatty()
    # A log gets its first line soon: whoever waits for the load to be under way reads it there.
    pause = 0.5 if live else 1.0
    try:
        while True:
            await asyncio.sleep(pause)
            pause = 0.5 if live else 5.0
            result = load.so_far
            latency = load.latency_so_far()
            p99 = f", p99 {latency.p99 * 1e3:.1f} ms" if latency else ""
            overrun = f", {result.overrun} not sent" if result.overrun else ""
            line = (
                f"{load.elapsed:5.1f} of {load.config.planned_seconds:g} s: {result.sent} sent, "
                f"{result.ok} ok, {result.failed} failed{overrun}, {load.in_flight} under way{p99}"
            )
            click.echo(f"\r\x1b[K{line}" if live else line, err=True, nl=not live)
    finally:
        if live:
            click.echo("\r\x1b[K", err=True, nl=False)


def report(result: LoadResult, *, rest: bool) -> None:
    """Print the result: tables on a terminal, one `name value detail` a line in a pipe."""
    if not _client.on_terminal():
        _client.write_tsv(["name", "value", "detail"], _flat(result))
        return

    from rich.console import Console
    from rich.markup import escape

    console = Console()
    for title, header, rows in _tables(result, rest=rest):
        table = _client.table(title)
        for number, name in enumerate(header):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    for code, number in result.codes.most_common():
        first = next((f for f in result.failures if f.code == code), None)
        if first is not None:
            console.print(
                f"{code} ({number}), first after {first.at:.3f} s at {first.peer}: {first.message}",
                markup=False,
                highlight=False,
            )


def _flat(result: LoadResult) -> list[list[object]]:
    rows: list[list[object]] = [
        ["due", result.due, ""],
        ["sent", result.sent, ""],
        ["ok", result.ok, ""],
        ["failed", result.failed, ""],
        ["overrun", result.overrun, "due and not sent: too many under way"],
        ["late", result.late, f"sent over 10 ms after due, worst {result.latest * 1e3:.1f} ms"],
        ["rate", f"{result.achieved_rate:.2f}", f"asked for {result.rate:g}"],
    ]
    if result.latency:
        rows += [
            [f"latency_{name}_ms", f"{value * 1e3:.3f}", ""]
            for name, value in _percentiles(result.latency)
        ]
    for code, number in result.codes.most_common():
        first = next((f for f in result.failures if f.code == code), None)
        detail = f"{first.at:.3f} s, {first.peer}: {first.message}" if first else ""
        rows.append([f"failed_{code}", number, detail])
    total = result.share.total()
    rows += [
        [f"share_{peer}", number, f"{number / total:.4f}"]
        for peer, number in sorted(result.share.items())
    ]
    if result.max_over_mean is not None:
        rows.append(["share_max_over_mean", f"{result.max_over_mean:.4f}", ""])
    rows += [[f"version_{v}", n, ""] for v, n in sorted(result.versions.items())]
    return rows


def _percentiles(latency: LatencySummary) -> list[tuple[str, float]]:
    return [
        ("p50", latency.p50),
        ("p90", latency.p90),
        ("p99", latency.p99),
        ("p99.9", latency.p999),
        ("max", latency.max),
        ("mean", latency.mean),
    ]


def _tables(result: LoadResult, *, rest: bool) -> list[tuple[str, list[str], list[list[str]]]]:
    kind = "REST" if rest else "gRPC"
    plural = "s" if result.connections > 1 else ""
    tables = [
        (
            (
                f"{result.target}, {kind}, {result.connections} connection{plural}, "
                f"{result.achieved_rate:.1f} of {result.rate:g} requests/s"
            ),
            ["due", "sent", "ok", "failed", "not sent", "late", "worst late"],
            [
                [
                    *map(
                        str,
                        (result.due, result.sent, result.ok, result.failed, result.overrun),
                    ),
                    str(result.late),
                    f"{result.latest * 1e3:.1f} ms",
                ]
            ],
        )
    ]
    if result.latency:
        named = _percentiles(result.latency)
        tables.append(
            (
                "latency in ms from the due time, answers OK",
                [name for name, _ in named],
                [[f"{value * 1e3:.2f}" for _, value in named]],
            )
        )
    if result.share:
        total = result.share.total()
        rows = [
            [peer, str(number), f"{number / total:.1%}"]
            for peer, number in sorted(result.share.items())
        ]
        rows.append(["max/mean", f"{result.max_over_mean:.3f}", ""])
        tables.append(("share per replica", ["replica", "answers", "share"], rows))
    if len(result.versions) > 1:
        rows = [[str(v), str(n)] for v, n in sorted(result.versions.items())]
        tables.append(("model versions", ["version", "answers"], rows))
    if result.codes:
        rows = [[code, str(number)] for code, number in result.codes.most_common()]
        tables.append(("failures", ["code", "count"], rows))
    return tables


def _check_writable(path: Path) -> None:
    """Refuse before the load what would fail after it."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ChopstickError(
            f"--json {path}: cannot write there", "Name a file in a directory that exists."
        )


def _write(path: Path, text: str) -> None:
    """Write beside and rename, so that no reader sees half a file."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise ChopstickError(f"--json {path}: {error.strerror}", "Is the disk full?") from None
