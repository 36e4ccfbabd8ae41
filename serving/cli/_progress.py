"""What a long command is doing, on standard error: a spinner for a person, lines for a log."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import click


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that is told the current step."""
    if not sys.stderr.isatty():
        yield lambda text: click.echo(f"{text} …", err=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("starting …") as status:
        yield lambda text: status.update(f"{text} …")
