"""What the demo prints and writes: progress, verdicts, tables, the summary, the JSON file."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.errors import ChopstickError

# "3,000", "0.1495", "62.9%", "180 mm", "1e-08": what is read from the right.
_FIGURE = re.compile(r"[\d.,]+(e-\d+)?(%| mm)?")


@dataclass(frozen=True)
class Result:
    """One step: did it hold, in one sentence, and the figures behind it."""

    step: int
    title: str
    held: bool
    verdict: str
    figures: dict[str, Any] = field(default_factory=dict)


class Report:
    """Progress to standard error with elapsed seconds; results to standard output."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.results: dict[int, Result] = {}
        self._console = Console(highlight=False, soft_wrap=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def progress(self, text: str) -> None:
        """Say what is going on."""
        sys.stderr.write(f"[{self.elapsed:5.1f} s] {text}\n")
        sys.stderr.flush()

    def line(self, text: str = "") -> None:
        """Print one line of a result."""
        if self._console.is_terminal:
            self._console.print(text, markup=False)
        else:
            # rich would make spaces of tabs.
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table: columns on a terminal, tab-separated in a pipe.

        A column without a heading is a picture of its neighbour, left out in a pipe.
        """
        if not self._console.is_terminal:
            for row in (headings, *rows):
                named = zip(headings, row, strict=True)
                self.line("\t".join(cell for heading, cell in named if heading))
            return
        table = Table(box=None, pad_edge=False)
        for index, heading in enumerate(headings):
            figures = any(_FIGURE.fullmatch(row[index]) for row in rows)
            table.add_column(heading, justify="right" if figures else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._console.print(table, soft_wrap=False)

    def result(self, result: Result) -> Result:
        """Print a step's verdict as soon as it is known, and keep it."""
        self.results[result.step] = result
        word = "held" if result.held else "DID NOT HOLD"
        style = "bold green" if result.held else "bold red"
        before, after = f"({result.step}) {result.title}: ", f". {result.verdict}\n"
        if self._console.is_terminal:
            self._console.print(Text.assemble(before, (word, style), after))
        else:
            self.line(before + word + after)
        return result

    def summary(self) -> None:
        """Print all results as one table."""
        results = [self.results[step] for step in sorted(self.results)]
        self.table(
            ("step", "what", "result", "evidence"),
            [
                (str(r.step), r.title, "held" if r.held else "DID NOT HOLD", r.verdict)
                for r in results
            ],
        )

    def write(self, file: Path, **more: Any) -> None:
        """Write everything as JSON, in one piece; ChopstickError where that is not possible."""
        document = {
            "ok": all(result.held for result in self.results.values()),
            "seconds": round(self.elapsed, 3),
            **more,
            "results": [asdict(self.results[step]) for step in sorted(self.results)],
        }
        beside = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(document, indent=2) + "\n")
            beside.replace(file)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise cannot_write(file, error) from None


def cannot_write(file: Path, error: OSError) -> ChopstickError:
    """Return the error for a JSON file that can't be written."""
    return ChopstickError(
        f"cannot write {file}: {error.strerror}", "give --json a file in a directory you may write"
    )
