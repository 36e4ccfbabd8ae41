"""Running a program: what it says goes to a log, its steps to the terminal, its end into an error."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.say import say
from serving.errors import ChopstickError

# How buildah and podman, and docker with plain progress, announce a step.
_STEP = re.compile(r"^(\[\d+/\d+\] )?STEP \d+/\d+: (?!LABEL)|^#\d+ \[")
_KEPT_LINES = 25


def output(command: Sequence[str], remedy: str = "") -> str:
    """A command's standard output; raises ChopstickError with what it said when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ChopstickError(f"`{' '.join(command)}` failed:\n{_indented(done.stderr)}", remedy)
    return done.stdout


def works(command: Sequence[str]) -> bool:
    """Whether a command is there and succeeds."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def logged(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """Run a long command: all that it says into `log`, its steps to the terminal.

    Raises ChopstickError with the log's end when it fails or is not there.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    with log.open("w", encoding="utf-8") as stream:
        try:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, **environment},
            )
        except OSError as error:
            raise ChopstickError(
                f"cannot run '{command[0]}': {error.strerror}", "Is its name right?"
            ) from None
        with process:
            assert process.stdout is not None  # noqa: S101 - for the type checker
            for line in process.stdout:
                stream.write(line)
                lines = [*lines[1 - _KEPT_LINES :], line]
                if _STEP.match(line):
                    say(f"    {line.strip()[:110]}")
    if process.returncode:
        raise ChopstickError(
            f"`{command[0]}` ended with {process.returncode}:\n{_indented(''.join(lines))}",
            f"All of it is in {log}.",
        )


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-_KEPT_LINES:])
