"""`drain`: the hook that Kubernetes runs inside the sidecar's container before the pod ends.

A process of its own, in the sidecar's memory limit and processor share, so it uses the standard
library alone, and of that no HTTP client: it asks one line and reads one.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from serving.errors import ChopstickError

_VARIABLE, _DEFAULT = "HEALTH_PROBE_PORT", "8502"
# The sidecar answers within a millisecond; a hook that hangs would use up the grace period.
_SECONDS = 2.0
_EXIT_USAGE = 2


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Tell the sidecar at loopback, port HEALTH_PROBE_PORT, that its pod ends.

    Raises ChopstickError: with exit code 2 for a flag or a port that is none, with 1 when nobody
    listens or the answer is not 200.
    """
    if arguments:
        raise ChopstickError(
            f"drain takes no '{arguments[0]}'",
            f"The port is {_VARIABLE} ({_DEFAULT} without it).",
            exit_code=_EXIT_USAGE,
        )
    text = environment.get(_VARIABLE) or _DEFAULT
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise ChopstickError(
            f"{_VARIABLE}: '{text}' is not a port",
            "Give a port from 1 to 65535, the sidecar's own.",
            exit_code=_EXIT_USAGE,
        )
    url = f"http://127.0.0.1:{text}/drain"
    try:
        head = _ask(int(text))
    except OSError as error:
        raise ChopstickError(
            f"{url}: {error.strerror or error}",
            f"Does the sidecar run, on the port of {_VARIABLE} and on all addresses?",
        ) from None
    line = head.partition(b"\r\n")[0].decode("latin-1")
    if line.split(" ")[1:2] != ["200"]:
        raise ChopstickError(
            f"{url}: {line or 'no answer'}", f"Does another program have the port of {_VARIABLE}?"
        )


def _ask(port: int) -> bytes:
    """The first bytes of the answer, its status line among them; empty when there is none."""
    # Loopback passes no proxy of a mesh, and is the only peer that the sidecar lets drain.
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        connection.sendall(b"GET /drain HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        head = b""
        while b"\r\n" not in head and len(head) < 4096 and (data := connection.recv(4096)):
            head += data
        return head
