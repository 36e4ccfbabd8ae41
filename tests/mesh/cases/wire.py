"""4: what a caller sends can't be read on the way."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.cluster.stack import NAME
from tests.mesh import proxy
from tests.mesh.dialogue import talking, until
from tests.mesh.suite import MeshContext, case
from tests.mesh.wire import Capture, command

OVERLAYS = Path(__file__).parents[1] / "overlays"
PLAIN = "e2e-plain"
# A length in mm whose float32 has no byte that is common; sixteen in a row are in nothing else.
VALUE = 237.61827
PATTERN = struct.pack("<f", VALUE) * 16
ROWS = 4_000
REQUESTS = 30


@case("wire", "a known feature value is not on the wire between meshed pods, and is between others")
def wire(context: MeshContext) -> None:
    prod = context.serving()
    node = prod.pods()[0].spec.node_name
    command(node)
    with talking(context.callers, node=node) as talk:
        until(lambda: talk.rpc(prod.grpc, "Predict").code == "OK", "the first answer", 30)
        before = proxy.by_label(talk.metrics(), "request_total", "dst_pod", direction="outbound")
        with Capture(node, PATTERN) as capture:
            answer = talk.rpc(prod.grpc, "Predict", times=REQUESTS, rows=ROWS, value=VALUE)
        after = proxy.by_label(talk.metrics(), "request_total", "dst_pod", direction="outbound")
    assert answer.counts == {"OK": REQUESTS}, answer
    here = {pod.metadata.name for pod in prod.pods() if pod.spec.node_name == node}
    away = sum(
        number - before.get(pod, 0)
        for pod, number in after.items()
        if pod.startswith(NAME) and pod not in here
    )
    assert away >= 1, f"no request has left {node}: {after}"
    sent = away * answer.bytes
    context.note(
        f"meshed: {away:.0f} requests, {sent / 1e6:.2f} MB, from {node} to other nodes; of "
        f"{capture.seen.bytes / 1e6:.2f} MB seen there, {capture.seen.found} times the value"
    )
    assert capture.seen.bytes > sent, f"the capture has missed packets: {capture.seen}"
    assert capture.seen.found == 0, f"plain text on the wire: {capture.seen}"
    _unmeshed(context, node)


def _unmeshed(context: MeshContext, node: str) -> None:
    """The same capture of a pair without a mesh: it finds what is there."""
    stack = context.stack(PLAIN, OVERLAYS / "plain")
    stack.apply()
    stack.wait_ready(1)
    server = stack.pods()[0].spec.node_name
    elsewhere = next(name for name in [node, *context.cluster.nodes()] if name != server)
    with talking(context.clients(PLAIN), node=elsewhere) as talk:
        until(lambda: talk.rpc(stack.grpc, "Predict").code == "OK", "the first answer", 30)
        with Capture(elsewhere, PATTERN) as capture:
            answer = talk.rpc(stack.grpc, "Predict", times=2, rows=ROWS, value=VALUE)
    assert answer.counts == {"OK": 2}, answer
    context.note(f"unmeshed: in {capture.seen.bytes / 1e6:.2f} MB {capture.seen.found} times")
    assert capture.seen.found > 0, f"the capture can't find plain text: {capture.seen}"
