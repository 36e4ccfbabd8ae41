"""`make mesh`: CRDs, CNI plugin and control plane, in order, each awaited; stops where one fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from scripts.mesh import preflight
from scripts.mesh.cluster import CNI_NAMESPACE, NAMESPACE, Cluster, look
from scripts.mesh.command import KUBECTL, followed, get, output
from scripts.mesh.tools import Part, Tool, Wishes, fingerprint_inputs, objects
from scripts.mesh.versions import Versions
from scripts.say import say, timed
from serving.errors import ChopstickError

# What was installed last, so that a run that would change nothing doesn't restart the control
# plane: its webhooks' certificates are made anew in every rendering.
RECORD = "chopstick-mesh"
_TITLES = {
    Part.CRDS: "Linkerd's CRDs",
    Part.CNI: "the CNI plugin",
    Part.CONTROL_PLANE: "the control plane",
}
# Seconds. Images are pulled in this time; Linkerd's own check gives as much.
PATIENCE = 300


@dataclass(frozen=True)
class Plan:
    """All that an installation goes by.

    `again` also does what would change nothing; `patience` is how many seconds a rollout may take.
    """

    versions: Versions
    tool: Tool
    wishes: Wishes
    again: bool = False
    patience: int = PATIENCE


def install(plan: Plan, situation: preflight.Situation) -> bool:
    """Install or upgrade every part; whether anything changed.

    Raises ChopstickError at the first failure; a second run goes on from there.
    """
    cluster = situation.cluster
    record = _recorded()
    if cluster.installed and cluster.installed.highly_available:
        plan = replace(plan, wishes=replace(plan.wishes, highly_available=True))
    digests: dict[str, str] = {}
    changed = False
    for part in Part:
        digests[part.value] = _digest(fingerprint_inputs(part, plan.tool, plan.wishes))
        # It refuses a namespace that is there, as it is after a run that was cut off.
        if part is Part.CONTROL_PLANE and plan.tool.name == "linkerd" and cluster.labels is None:
            with timed("linkerd check --pre"):
                followed(_check(plan.versions, "--pre", "--linkerd-cni-enabled"))
        changed |= _install_part(plan, part, cluster, record, digests[part.value])
        _await(part, plan.patience)
    if changed or record.get("config") is None:
        _note({**digests, "config": _config_digest()})
    return changed


def rehearse(plan: Plan) -> None:
    """Render every part and say how large it is; nothing is sent to the cluster."""
    for part in Part:
        with timed(f"{_TITLES[part]}, rendered with {plan.tool.name}"):
            say(f"    {objects(plan.tool.render(part, plan.wishes))} objects")


def check(versions: Versions, *words: str) -> None:
    """`linkerd check` with the version of versions.yaml in place of the newest one's look-up."""
    followed(
        _check(versions, *words), "The lines above say what failed; each has a page that helps."
    )


def _check(versions: Versions, *words: str) -> list[str]:
    # Without it the command asks Linkerd's makers for the newest version, and fails where nothing
    # outside can be reached.
    return ["linkerd", "check", f"--expected-version={versions.linkerd}", *words]


def _install_part(
    plan: Plan, part: Part, cluster: Cluster, record: Mapping[str, str], digest: str
) -> bool:
    title = _TITLES[part]
    same = record.get(part.value) == digest and not plan.again
    if part is Part.CONTROL_PLANE:
        # Someone may have changed it by other means since.
        same = same and cluster.installed is not None and record.get("config") == _config_digest()
    if same and part not in plan.tool.repeatable:
        say(f"==> {title}: installed as asked, left alone")
        return False
    with timed(f"{title}, with {plan.tool.name}"):
        total, changed = plan.tool.install(part, plan.wishes, upgrade=cluster.installed is not None)
        known = "in a new revision" if changed is None else f"{changed} of them new or changed"
        say(f"    {total} objects, {known}")
    return changed != 0


def _await(part: Part, patience: int) -> None:
    if part is Part.CRDS:
        output(
            [
                *("kubectl", "wait", "crd", "-l", f"linkerd.io/control-plane-ns={NAMESPACE}"),
                *("--for=condition=Established", "--timeout=60s"),
            ],
            "kubectl describe crd -l linkerd.io/control-plane-ns tells more.",
        )
    elif part is Part.CNI:
        _rollout("daemonset", CNI_NAMESPACE, patience)
    else:
        _rollout("deployment", NAMESPACE, patience)


def _rollout(kind: str, namespace: str, patience: int) -> None:
    """Wait until every object of a kind is rolled out; raises ChopstickError with the reasons."""
    for item in (get(kind, "-n", namespace) or {}).get("items", []):
        name = f"{kind}/{item['metadata']['name']}"
        try:
            followed(
                ["kubectl", "rollout", "status", name, "-n", namespace, f"--timeout={patience}s"]
            )
        except ChopstickError:
            raise ChopstickError(
                f"{name} in '{namespace}' isn't ready after {patience} s{_reasons(namespace)}",
                f"kubectl -n {namespace} describe pods tells more; once it is mended, run this again.",
            ) from None


def _reasons(namespace: str) -> str:
    """What containers wait for, and the last warnings: an image, a node, Pod Security."""
    lines = []
    for pod in (get("pods", "-n", namespace) or {}).get("items", []):
        status = pod["status"]
        lines += [
            f"{pod['metadata']['name']}: {condition.get('message', '')}"
            for condition in status.get("conditions", [])
            if condition["type"] == "PodScheduled" and condition["status"] == "False"
        ]
        for state in (
            *status.get("initContainerStatuses", []),
            *status.get("containerStatuses", []),
        ):
            waiting = state.get("state", {}).get("waiting")
            if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
                reason = f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip()
                lines.append(f"{pod['metadata']['name']}/{state['name']}: {reason}")
    events = (get("events", "-n", namespace) or {}).get("items", [])
    warnings = [event for event in events if event.get("type") == "Warning"]
    lines += [
        f"{event['involvedObject']['name']}: {event['reason']} {event['message']}"
        for event in warnings[-3:]
    ]
    return "".join(f"\n    {line[:300]}" for line in dict.fromkeys(lines))


def _recorded() -> Mapping[str, str]:
    found = get("configmap", RECORD, "-n", NAMESPACE)
    data: dict[str, str] = (found or {}).get("data", {})
    return data


def _note(data: Mapping[str, str]) -> None:
    record = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": RECORD,
            "namespace": NAMESPACE,
            "annotations": {
                "chopstick.dev/purpose": "digests of what make mesh installed; safe to delete"
            },
        },
        "data": dict(data),
    }
    output([*KUBECTL, "apply", "-f", "-"], given=json.dumps(record))


def _config_digest() -> str:
    """Digest of the values that the control plane runs with; they hold no key."""
    found = get("configmap", "linkerd-config", "-n", NAMESPACE)
    return _digest([json.dumps((found or {}).get("data", {}), sort_keys=True)])


def _digest(texts: object) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def gather(plan: Plan, chain_error: ChopstickError | None) -> preflight.Situation:
    """Look at the cluster and put together what the checks look at."""
    cluster = look()
    there = cluster.installed
    return preflight.Situation(
        versions=plan.versions,
        today=preflight.today(),
        tool=plan.tool.name,
        tool_version=plan.tool.version,
        cluster=cluster,
        highly_available=plan.wishes.highly_available or bool(there and there.highly_available),
        chain=plan.wishes.chain,
        chain_error=chain_error,
    )
