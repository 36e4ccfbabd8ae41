"""One child process: started so that it can't outlive us, logged to a file, stopped politely."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("launcher.py")


class Child:
    """A running program and its log; make one with `Child.start`."""

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, log: Path, lifeline: int
    ) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._lifeline: int | None = lifeline

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        pipe_stdout: bool = False,
    ) -> Child:
        """Start `command` (an absolute path and its words) in a session of its own.

        `environment` is added to ours. Standard error, and standard output unless `pipe_stdout`, are appended to `log`. Call it
        from the main thread: Linux watches the thread that started a process, not the process.
        """
        # A terminal's Ctrl-C goes to every process of the foreground group: in a session of
        # their own our children hear of it from us, in the order of a drain.
        read_end, write_end = os.pipe()
        try:
            with log.open("ab") as sink:
                process = await asyncio.create_subprocess_exec(
                    *_launch(read_end),
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE if pipe_stdout else sink,
                    stderr=sink,
                    env={**os.environ, **(environment or {})},
                    pass_fds=(read_end,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        return cls(name, process, log, write_end)

    @property
    def pid(self) -> int:
        """Its process id, the launcher's and then the program's."""
        return self._process.pid

    @property
    def stdout(self) -> asyncio.StreamReader | None:
        """Its standard output, where it was piped."""
        return self._process.stdout

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        code = await self._process.wait()
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        return code

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL for the whole group if it is still there after the grace period."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self.wait(), grace_seconds)
        except TimeoutError:
            self.kill()
            await self.wait()

    def kill(self) -> None:
        """SIGKILL for the program and whatever it started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def run_bound(command: Sequence[str], *, quiet: bool = False) -> tuple[int, str]:
    """Run a command to its end, or to ours; returns its exit code and, where quiet, its stderr.

    Not quiet, it writes to our standard error. Its standard output is dropped.
    """
    read_end, write_end = os.pipe()
    try:
        run = subprocess.run(
            [*_launch(read_end), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if quiet else None,
            pass_fds=(read_end,),
            text=True,
            check=False,
        )
    finally:
        os.close(read_end)
        os.close(write_end)
    return run.returncode, run.stderr or ""


def _launch(read_end: int) -> list[str]:
    return [sys.executable, "-IS", str(_LAUNCHER), str(os.getpid()), str(read_end)]


def describe_exit(code: int) -> str:
    """Return "was killed by SIGKILL" or "ended with exit code 255"."""
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


def tail(log: Path, lines: int = 8) -> list[str]:
    """Return the last non-empty lines of a log."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
