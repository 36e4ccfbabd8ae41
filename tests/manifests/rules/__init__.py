"""What holds in every overlay and every combination, and what Kustomize can't compute.

A rule takes a `Stack` and yields what is wrong with it, in words that name the object and the
numbers; what an overlay does not have, such as a mesh, breaks no rule. `findings` applies them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.manifests.build import Object
from tests.manifests.rules import ingress, mesh, policy, workload
from tests.manifests.rules.stack import Stack

RULES: tuple[Callable[[Stack], Iterator[str]], ...] = (
    *workload.RULES,
    *mesh.RULES,
    *policy.RULES,
    *ingress.RULES,
)


def findings(objects: list[Object]) -> list[str]:
    """What any rule says about the objects, each with the rule's name before it."""
    stack = Stack(objects)
    return [f"{rule.__name__}: {problem}" for rule in RULES for problem in rule(stack)]
