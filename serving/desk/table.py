"""The replicas as a table: cells as text, and the live table of a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from serving.desk.supervisor import Row
from serving.gateway.latency import WINDOW_SECONDS

HEADINGS = ("replica", "address", "pid", "state", "version", "requests", "share", "p50", "p99")
# Where the figures come from; the table's caption.
SOURCE = (
    f"requests since the start; p50 and p99 of the last {WINDOW_SECONDS} s, "
    "measured by the gateway from request to answer"
)
_STYLES = {"ready": "green", "starting": "yellow", "restarting": "red", "draining": "yellow"}
_BAR_CELLS = 10


def milliseconds(seconds: float | None) -> str:
    """Return "1.23 ms", three figures at most; "-" for None."""
    if seconds is None:
        return "-"
    value = 1000 * seconds
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def bar(share: float | None, cells: int = _BAR_CELLS) -> str:
    """Return a bar of eighths of a cell, `cells` long for 1.0."""
    if not share:
        return ""
    eighths = max(1, round(min(share, 1.0) * cells * 8))
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's texts in the order of HEADINGS."""
    return (
        row.name,
        row.address,
        str(row.pid) if row.pid is not None else "-",
        row.state,
        ", ".join(str(version) for version in row.versions) or "-",
        f"{row.requests:,}",
        f"{row.share:.1%}" if row.share is not None else "-",
        milliseconds(row.p50),
        milliseconds(row.p99),
    )


def live_table(rows: Sequence[Row]) -> Table:
    """Return the table for a terminal: state in colour, a bar beside the share."""
    table = Table(box=None, pad_edge=False, caption=SOURCE, caption_justify="left")
    for heading in HEADINGS:
        right = heading in ("pid", "version", "requests", "share", "p50", "p99")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
        if heading == "share":
            table.add_column("", min_width=_BAR_CELLS, no_wrap=True)
    for row in rows:
        texts: list[str | Text] = list(cells(row))
        texts[3] = Text(row.state, _STYLES.get(row.state, "red"))
        texts.insert(7, Text(bar(row.share), "cyan"))
        table.add_row(*texts)
    return table
