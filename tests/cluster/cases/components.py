"""Each component that makes sense on any cluster, applied once."""

from __future__ import annotations

import time

from tests.cluster.stack import VARIATIONS
from tests.cluster.suite import Context, case

COMPONENTS = ("network-policy", "no-sidecar", "embedded-server")


@case("components", "network-policy, no-sidecar and embedded-server, each on local")
def components(context: Context) -> None:
    stacks = [context.stack(f"e2e-{name}", VARIATIONS / name) for name in COMPONENTS]
    began = time.monotonic()
    for stack in stacks:
        stack.apply()
    for stack in stacks:
        stack.wait_ready(1)
        context.note(f"{stack.namespace}: ready {time.monotonic() - began:.1f} s after apply")
    for stack in stacks:
        said = context.callers.run("predict", ["predict", stack.grpc, "240"])
        assert "240" in said, said
