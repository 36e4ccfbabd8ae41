"""Objects against a real API server, which has the last word on what it accepts.

For tests that have a cluster; nothing is stored. What `schemas` can't judge is judged here: Linkerd's
own definitions, expressions in CEL, and the admission webhooks of Linkerd and Envoy Gateway.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterable, Sequence

from tests.manifests.build import Object

# A word that no kind has as a field.
UNKNOWN = "notAField"


def refusals(
    objects: Iterable[Object], namespace: str, kubectl: Sequence[str] = ("kubectl",)
) -> dict[str, str]:
    """What the API server says against each object, by kind and name; empty if it takes them all.

    `namespace` has to exist, and stands in for the one that the objects name. An object that can't
    be judged (no such kind, no connection) is one that is refused.
    """
    said = {}
    for item in objects:
        there = copy.deepcopy(item)
        if "namespace" in there["metadata"]:
            there["metadata"]["namespace"] = namespace
        done = subprocess.run(
            [
                *kubectl,
                "apply",
                "--filename=-",
                "--dry-run=server",
                "--validate=strict",
                # Nothing is compared with what another `kubectl apply` left behind.
                "--server-side",
                "--force-conflicts",
                "--field-manager=chopstick-dry-run",
            ],
            input=json.dumps(there),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            said[f"{item['kind']} {item['metadata']['name']}"] = done.stderr.strip()
    return said


def with_an_unknown_field(objects: Iterable[Object]) -> list[Object]:
    """One object of each kind that has a spec, with a field in it that the kind does not have."""
    first: dict[str, Object] = {}
    for item in objects:
        if "spec" in item:
            first.setdefault(item["kind"], item)
    return [{**item, "spec": {**item["spec"], UNKNOWN: "x"}} for item in first.values()]


def findings(
    objects: Sequence[Object], namespace: str, kubectl: Sequence[str] = ("kubectl",)
) -> list[str]:
    """What is wrong between objects and the API server; half a second for each object.

    It takes every one as it is, and of each kind refuses one for an unknown field: without that, it
    would say nothing that it takes the others.
    """
    found = [f"{name}: {why}" for name, why in refusals(objects, namespace, kubectl).items()]
    broken = with_an_unknown_field(objects)
    refused = refusals(broken, namespace, kubectl)
    for item in broken:
        name = f"{item['kind']} {item['metadata']['name']}"
        if UNKNOWN not in refused.get(name, ""):
            found.append(
                f"{name} with a field {UNKNOWN} is not refused for it: {refused.get(name)}"
            )
    return found
