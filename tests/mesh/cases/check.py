"""6: Linkerd's own check, pods without a proxy, and what controllers say of each object."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from tests.cluster.cluster import CommandError, WaitTimeoutError, container, is_ready, run
from tests.cluster.stack import OVERLAYS, Stack
from tests.manifests import against_cluster, build
from tests.mesh import linkerd
from tests.mesh.proxy import CONTAINER as PROXY
from tests.mesh.stack import MeshedStack
from tests.mesh.suite import PROD, MeshContext, case

CHECK_SECONDS = 120.0
# Controllers write a status a moment after an object has come.
STATUS_SECONDS = 30.0
# They ask for the newest version outside, which a cluster need not reach, and say no more than that.
VERSION_CATEGORIES = {"linkerd-version", "control-plane-version"}
VERSION_CHECK = "up-to-date"
WITH_STATUS = (
    "gateways,grpcroutes.gateway.networking.k8s.io,httproutes.gateway.networking.k8s.io,"
    "httplocalratelimitpolicies,backendtrafficpolicies,clienttrafficpolicies,securitypolicies"
)
# True is bad news of these.
FAULTY = ("Conflicted", "Overridden")
# Both names are in one certificate on purpose; what Envoy Gateway would do then is overruled in
# clienttrafficpolicy.yaml.
INTENDED = "OverlappingTLSConfig"


@case(
    "check",
    "prod applied as it is: `linkerd check --proxy`, every pod meshed, every object accepted",
)
def check(context: MeshContext) -> None:
    stack = context.baseline()
    context.ingress.wait_ready()
    waiting = context.callers.start("waiting", ["300"], command=["sleep"])
    try:
        stack.cluster.wait_pods(
            PROD, lambda pods: is_ready(pods[waiting]), f"caller {waiting} to be ready", 60
        )
        _every_pod_meshed(context, stack)
        _checked(context)
    finally:
        context.callers.delete(waiting)
    _accepted(context, stack)
    wrong = against_cluster.findings(build.overlay("prod"), PROD, (stack.cluster.kubectl_path,))
    assert not wrong, f"refused by the API server: {'; '.join(wrong)}"
    said = context.callers.run("predict", ["predict", stack.grpc, "240"])
    assert "240" in said, said
    said = context.outsiders.run(
        "predict", ["predict", context.ingress.grpc, "240", *context.ingress.arguments]
    )
    assert "240" in said, said
    said = context.outsiders.run(
        "predict", ["predict", context.ingress.rest, "240", "--rest", *context.ingress.arguments]
    )
    assert "240" in said, said
    context.note("predictions from a named caller, and from outside by grpc. and api.")


@case(
    "dev", "dev applied as it is: one meshed replica; the policy lets everybody in and counts them"
)
def dev(context: MeshContext) -> None:
    stack = MeshedStack(context.cluster, "chopstick-dev", OVERLAYS / "dev")
    stack.delete()
    context.own.add(stack.namespace)
    began = time.monotonic()
    stack.apply()
    stack.wait_ready(1)
    context.figure("dev, apply to ready", time.monotonic() - began, "s")
    (pod,) = stack.pods()
    assert container(pod, PROXY), f"{pod.metadata.name} has no proxy"
    for account, allowed in (("model-client", True), ("default", False)):
        clients = context.clients(stack.namespace, account)
        before = _audited(context, stack)
        said = clients.run("predict", ["predict", stack.grpc, "240"])
        assert "240" in said, said
        audited = _audited(context, stack) - before
        assert bool(audited) != allowed, (
            f"{account}: {audited:g} requests counted as those that the policy would refuse"
        )
    context.note("in audit mode the default account is answered, and counted as `audit`")


def _audited(context: MeshContext, stack: Stack) -> float:
    (pod,) = stack.pods()
    samples = context.proxy_metrics(pod.metadata.name, stack.namespace)
    return sum(
        sample.value
        for sample in samples
        if sample.name == "inbound_http_authz_allow_total"
        and sample.labels.get("target_addr", "").endswith(":8500")
        and "audit" in sample.labels.get("authz_name", "")
    )


def _every_pod_meshed(context: MeshContext, stack: Stack) -> None:
    found = context.cluster.core.list_namespaced_pod(stack.namespace).items
    pods = [pod for pod in found if pod.status.phase == "Running"]
    for pod in pods:
        status = container(pod, PROXY)
        assert status, f"{pod.metadata.name} has no proxy"
        assert status.ready, f"the proxy of {pod.metadata.name} is not ready"
    context.note(f"all {len(pods)} pods of {stack.namespace} are meshed")


def _checked(context: MeshContext) -> None:
    words = [
        *linkerd.command(), "check", "--proxy", f"--namespace={PROD}", "--wait=60s", "--output=json",
    ]  # fmt: skip
    try:
        said = run(words, seconds=CHECK_SECONDS)
    except CommandError as error:  # it ends with 1 when a check has failed, also of the version
        said = error.output
    document = json.loads(said[said.index("{") : said.rindex("}") + 1])
    good, errors = 0, []
    for category in document["categories"]:
        for found in category["checks"] or []:
            words_of = f"{category['categoryName']}: {found['description']}"
            if found["result"] == "success":
                good += 1
            elif (
                category["categoryName"] in VERSION_CATEGORIES
                or VERSION_CHECK in found["description"]
            ):
                context.note(f"not judged: {words_of}")
            elif found["result"] == "warning":
                context.note(f"warning: {words_of}: {found.get('error', '')[:300]}")
            else:
                errors.append(f"{words_of}: {found.get('error', '')[:300]}")
    assert not errors, f"linkerd check: {'; '.join(errors)}"
    context.figure("linkerd check --proxy: checks passed", good, "", "no error")


def _accepted(context: MeshContext, stack: Stack) -> None:
    """Every object that has a status is accepted by its controller."""
    deadline = time.monotonic() + STATUS_SECONDS
    while True:
        listed = json.loads(stack.kubectl("get", WITH_STATUS, "--output=json"))["items"]
        refused = [words for item in listed for words in _refused(item)]
        if not refused:
            break
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"not accepted: {'; '.join(refused)}")
        time.sleep(1)
    context.note(f"{len(listed)} objects with a status are accepted by their controllers")


def _refused(item: dict[str, Any]) -> Iterator[str]:
    name = f"{item['kind']} {item['metadata']['name']}"
    conditions = list(_conditions(item.get("status", {})))
    if not conditions:
        yield f"{name} has no status"
    for condition in conditions:
        good = condition["status"] == "True"
        if condition["type"] in FAULTY:
            good = condition["status"] == "False"
        if not good and condition["type"] != INTENDED:
            yield f"{name} {condition['type']}: {condition['reason']}: {condition.get('message', '')}"


def _conditions(status: Any) -> Iterator[dict[str, Any]]:
    """All conditions in a status, be they of the object, of a parent or of a listener."""
    if isinstance(status, dict):
        for key, value in status.items():
            if key == "conditions":
                yield from value
            else:
                yield from _conditions(value)
    elif isinstance(status, list):
        for value in status:
            yield from _conditions(value)
