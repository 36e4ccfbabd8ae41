"""What crosses the wire: how often some bytes are in the packets of a node.

CAPTURE is a command that runs another one in a node's network, `{node}` standing for the node's name
(`nsenter --net=/run/netns/{node}` in CI); root is needed for what it runs, a raw socket.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.cluster.suite import Skip

# Counts on all interfaces until its standard input ends. A packet is one read: what is cut in two by
# the end of a packet is not found, so patterns are sent many times over.
_PROGRAM = """
import json, select, socket, sys
pattern = bytes.fromhex(sys.argv[1])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
print("listening", flush=True)
packets = size = found = 0
ended = False
while True:
    ready, _, _ = select.select([wire] if ended else [wire, sys.stdin], [], [], 0.5 if ended else None)
    if wire in ready:
        packet = wire.recv(1 << 17)
        packets += 1
        size += len(packet)
        found += packet.count(pattern)
    elif ended:
        break
    if sys.stdin in ready:
        ended = True
print(json.dumps({"packets": packets, "bytes": size, "found": found}))
"""
_START_SECONDS = 20.0
# A busy wire never goes silent, which is what ends the program; then there is no count to wait for.
_END_SECONDS = 30.0


@dataclass(frozen=True)
class Seen:
    """What a capture has seen; a packet that crosses several interfaces counts as often."""

    packets: int
    bytes: int
    found: int
    """Occurrences of the pattern."""


def command(node: str) -> list[str]:
    """CAPTURE for a node; raises Skip without one."""
    words = shlex.split(os.environ.get("CAPTURE", ""))
    if not words:
        raise Skip("no CAPTURE command that can listen in a node's network")
    return [word.replace("{node}", node) for word in words]


class Capture:
    """`with Capture(node, pattern) as capture: ...`, then `capture.seen`."""

    def __init__(self, node: str, pattern: bytes) -> None:
        self._words = [*command(node), sys.executable, "-c", _PROGRAM, pattern.hex()]
        self._seen: Seen | None = None

    @property
    def seen(self) -> Seen:
        """What was seen while the block lasted."""
        assert self._seen is not None, "the capture's block has not ended"
        return self._seen

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # It says so, or ends: a socket that may not be opened is an error there.
        if self._process.stdout.readline().strip() != "listening":
            _, said = self._process.communicate(timeout=_START_SECONDS)
            raise AssertionError(f"{' '.join(self._words[:3])} does not listen: {said[-500:]}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            said, problem = self._process.communicate("\n", timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        if error is None:
            assert said, problem[-500:]
            self._seen = Seen(**json.loads(said))
