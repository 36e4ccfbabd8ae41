"""Ports for test servers: below the ephemeral range, so that no outgoing connection takes one."""

import itertools
import os
import socket

_FIRST, _PER_WORKER = 20000, 1000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0)
# Two test runs on one machine start at different places.
_candidates = itertools.cycle(
    range(_FIRST + _worker * _PER_WORKER, _FIRST + (_worker + 1) * _PER_WORKER)
)
for _ in range(os.getpid() * 7 % _PER_WORKER):
    next(_candidates)


def free_port() -> int:
    """A loopback port that nothing listens on, and that this worker gives out to nobody else."""
    for _ in range(_PER_WORKER):
        port = next(_candidates)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")
