"""The component `autoscaling`, added to a running production: never under three replicas."""

from __future__ import annotations

import time

from tests.cluster.cluster import CALL_SECONDS
from tests.cluster.stack import NAME, VARIATIONS
from tests.cluster.suite import Context, case
from tests.cluster.witness import Witness

# The autoscaler's period is 15 s: it has looked at least twice.
WATCHED_SECONDS = 35.0


@case("autoscaling", "autoscaling added to a running unmeshed: never under 3 replicas")
def autoscaling(context: Context) -> None:
    stack = context.baseline()
    try:
        with context.without_failure(stack, "component autoscaling added") as load:
            with Witness(stack) as seen:
                load.mark("apply")
                stack.apply(VARIATIONS / "autoscaling")
                time.sleep(WATCHED_SECONDS)  # nothing is to happen, and that is watched
            stack.rolled_out()
        found = context.cluster.scaling.read_namespaced_horizontal_pod_autoscaler(
            NAME, stack.namespace, _request_timeout=CALL_SECONDS
        )
        assert found.spec.max_replicas > 3, f"at most {found.spec.max_replicas} replicas"
    finally:
        stack.apply()
    assert seen.fewest_replicas >= 3, f"spec.replicas was {seen.fewest_replicas}"
    assert seen.fewest_ready >= 3, f"only {seen.fewest_ready} pods were ready"
    context.note(
        f"replicas {seen.fewest_replicas} to {seen.most_replicas}, "
        f"ready {seen.fewest_ready} to {seen.most_ready}"
    )
