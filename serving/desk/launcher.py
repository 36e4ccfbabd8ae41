"""Become another program that dies with the process that started it, however that one ends.

`launcher.py PARENT PIPE COMMAND…`, standard library only, run as a script so that it starts in
milliseconds. Linux sends the signal itself (PR_SET_PDEATHSIG outlives exec). Elsewhere a guard
process keeps the read end of a pipe whose write end only the parent holds: when it closes, the
guard kills the program.

It is a program of its own, not subprocess's preexec_fn: that runs Python between fork and exec,
which can deadlock where the parent has threads (gRPC's, ours).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Arrange the death, then exec the command; exits 127 where the command can't be started."""
    parent, pipe, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if not (sys.platform == "linux" and _die_with_parent()):
        _guard(pipe)
    os.set_inheritable(pipe, False)
    # The parent may have died before the request was in place.
    if os.getppid() != parent:
        sys.exit(1)
    try:
        os.execv(command[0], command)  # noqa: S606 - becoming the program is what this is for
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.exit(127)


def _die_with_parent() -> bool:
    # SIGKILL and not SIGTERM: nobody is left to wait for a drain, or to notice a process that
    # ignores SIGTERM as TensorFlow Serving does.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return bool(prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)


def _guard(pipe: int) -> None:
    program = os.getpid()
    if os.fork() != 0:
        return
    # A session of its own: signals for the program's group are not for its guard.
    os.setsid()
    # Nobody ever writes: readable means that the write end is closed. The time limit is for the
    # other end of the watch, a program that has gone (and whose number may be another's by now).
    closed = False
    while os.getppid() == program and not closed:
        closed = bool(select.select([pipe], [], [], 0.5)[0])
    if os.getppid() == program:
        os.kill(program, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
