"""2, continued: a change of configuration. After `autoscaling`, which wants `unmeshed` as it is."""

from __future__ import annotations

from tests.cluster.stack import VARIATIONS
from tests.cluster.suite import Context, case


@case("config", "a changed ConfigMap rolls the pods")
def config(context: Context) -> None:
    stack = context.serving()
    before = {pod.metadata.name for pod in stack.pods()}
    with context.without_failure(stack, "configuration change") as load:
        load.mark("apply")
        stack.apply(VARIATIONS / "config-change")
        stack.rolled_out()
        load.mark("rolled out")
        stack.wait_ready(3)
    same = before & {pod.metadata.name for pod in stack.pods()}
    assert not same, f"not replaced: {sorted(same)}"
