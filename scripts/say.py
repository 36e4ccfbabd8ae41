"""What these commands tell the person who runs them: on standard error, at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(message: str) -> None:
    """Print a line; standard output is left to results."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what begins, and when it has ended how long it took."""
    say(f"==> {what}")
    began = time.monotonic()
    yield
    say(f"    {time.monotonic() - began:.1f} s")
