"""5: what goes wrong, seen: manifests that look right and are not, each beside one that is.

Servers and callers of a namespace of their own; only what stands in front of a small server
(`answering.py`) differs. `tests/manifests` has the checks that keep the project's own out of these.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cluster.traffic import TOOLS_IMAGE
from tests.mesh import proxy
from tests.mesh.dialogue import Answer, Talk, talking, until
from tests.mesh.suite import MeshContext, case

NAMESPACE = "e2e-traps"
PROGRAM = Path(__file__).parents[1].joinpath("answering.py").read_text()
APP = "answering"
REPLICAS = 3
# What a caller's proxy counts for requests that went by a GRPCRoute.
ROUTED = "outbound_grpc_route_request_statuses_total"
H2C = "kubernetes.io/h2c"
RPC = "/tests.Answering/Answer"
READY_SECONDS = 120.0
# A change of a Service, a route or a policy has reached a proxy long before.
NOTICED_SECONDS = 30.0
# Linkerd keeps no more of a request than this, and repeats none that is larger.
KEPT_BYTES = 64 * 1024
REQUESTS, TOGETHER = 2_000, 20
# How evenly Linkerd balances has a case of its own; here, that it does.
LEAST_UNEVEN, MOST_EVEN = 2.5, 2.0
LIMIT, BURST, BURSTS = 2, 40, 5
REFUSALS = ("RESOURCE_EXHAUSTED", "GARBLED")


@case("trap-oversized", "a request above 64 KiB is not retried, a small one is")
def trap_oversized(context: MeshContext) -> None:
    service = _set_up(context, "oversized")
    _apply(context, _route(service, annotations={"retry.linkerd.io/grpc": "unavailable"}))
    with _caller(context) as talk:
        _until_retried(talk, service)
        small = _seen(talk, lambda: _failing_once(talk, service, rows=1))
        large = _seen(talk, lambda: _failing_once(talk, service, rows=20_000))
    assert small.answer.bytes < KEPT_BYTES < large.answer.bytes, (small, large)
    context.note(
        f"UNAVAILABLE once, retry limit 1: {small.answer.bytes} bytes: {small.answer.code}, "
        f"{small.retries:.0f} retries; {large.answer.bytes} bytes: {large.answer.code}, "
        f"{large.retries:.0f} retries"
    )
    assert (small.answer.code, small.retries) == ("OK", 1), small
    assert (large.answer.code, large.retries) == ("UNAVAILABLE", 0), large


@case("trap-app-protocol", "appProtocol grpc: balance collapses; kubernetes.io/h2c: it does not")
def trap_app_protocol(context: MeshContext) -> None:
    wrong = _set_up(context, "grpc", app_protocol="grpc", replicas=REPLICAS)
    right = _set_up(context, "h2c", replicas=REPLICAS)
    with _caller(context) as talk:
        shares = {}
        for service in (wrong, right):
            _until_answered(talk, service)
            said: Counter[str] = Counter()
            for _ in range(REQUESTS // TOGETHER):
                answer = talk.rpc(_grpc(service), RPC, together=TOGETHER, tell=True)
                assert answer.counts == {"OK": TOGETHER}, answer
                said += answer.said
            shares[service] = max(said.values()) * REPLICAS / REQUESTS
            context.note(f"answers with appProtocol {service}: {sorted(said.values())}")
            context.figure(f"{service}: busiest pod over mean", shares[service], "")
        protocols = {
            service: set(_connections(talk.metrics(), service)) for service in (wrong, right)
        }
    context.note(f"connections of the caller's proxy: {protocols}")
    assert shares[wrong] >= LEAST_UNEVEN, f"appProtocol grpc is balanced: {shares}"
    assert shares[right] <= MOST_EVEN, f"h2c is not balanced: {shares}"
    assert protocols == {wrong: {"opaq"}, right: {"http/2"}}, protocols


@case("trap-grpc-server", "a Server of gRPC ignores its rate limit, one of HTTP/2 heeds it")
def trap_grpc_server(context: MeshContext) -> None:
    service = _set_up(context, "limited")
    refused = {}
    for protocol, kind in (("gRPC", "GRPCRoute"), ("HTTP/2", "HTTPRoute")):
        _apply(context, *_limited(protocol, kind))
        # A connection stays what its Server was when it was made.
        with _caller(context, f"asker-{kind.lower()}") as talk:
            _until_routed(context, talk, service, kind)
            refused[protocol] = 0
            for _ in range(BURSTS):
                answer = talk.rpc(_grpc(service), RPC, together=BURST)
                assert answer.counts.keys() <= {"OK", *REFUSALS}, answer
                refused[protocol] += BURST - answer.counts["OK"]
            context.note(
                f"Server of {protocol}, {LIMIT} a second allowed: {refused[protocol]} of "
                f"{BURSTS * BURST} refused"
            )
        # Beside a GRPCRoute, an HTTPRoute of the same Server is Conflicted and lets nobody in.
        context.cluster.kubectl(
            f"--namespace={NAMESPACE}", "delete", f"{kind.lower()}/{_route_name(kind)}"
        )
    assert refused["HTTP/2"] > 0, "a Server of HTTP/2 ignores its rate limit"
    assert refused["gRPC"] == 0, (
        "a Server of gRPC heeds its rate limit: HTTP/2 is not needed any more"
    )


@case("trap-service-profile", "a ServiceProfile puts a Service's routes and retries out of force")
def trap_service_profile(context: MeshContext) -> None:
    service = _set_up(context, "profiled")
    _apply(context, _route(service, annotations={"retry.linkerd.io/grpc": "unavailable"}))
    with _caller(context) as talk:
        _until_retried(talk, service)
    _apply(context, _profile(service))
    # A connection stays what it was when it was made: a new caller shows what all of them come to.
    with _caller(context, "newcomer") as talk:
        answer = until(
            lambda: (found := _failing_once(talk, service)).code != "OK" and found,
            "a ServiceProfile to end the retries",
            NOTICED_SECONDS,
        )
        before = _total(talk, ROUTED, service)
        assert talk.rpc(_grpc(service), RPC, times=5).counts == {"OK": 5}
        counted = _total(talk, ROUTED, service) - before
    context.note(
        f"with a ServiceProfile, UNAVAILABLE once: {answer.code}; of 5 requests the route counts "
        f"{counted:.0f}"
    )
    assert answer.code == "UNAVAILABLE", answer
    assert counted == 0, f"the route still counts: {counted:.0f} of 5"


@case("trap-no-port", "a route without a port is one for every port: gRPC goes to REST's")
def trap_no_port(context: MeshContext) -> None:
    """Seen where the gRPC port has no GRPCRoute of its own, which an HTTPRoute yields to."""
    service = _set_up(context, "portless")
    rest = f"{service}.{NAMESPACE}:8501"
    with _caller(context) as talk:
        _apply(context, _rest_route(service, port=8501))
        until(
            lambda: (
                talk.rest(rest, "/").code == "200"
                and _total(talk, "outbound_http_route_request_statuses_total", service)
            ),
            "the HTTPRoute to be heeded",
            NOTICED_SECONDS,
        )
        assert talk.rpc(_grpc(service), RPC, times=5).counts == {"OK": 5}, "hurt by another's port"
        _apply(context, _rest_route(service, port=None))
        answer = until(
            lambda: (found := talk.rpc(_grpc(service), RPC)).code != "OK" and found,
            "an HTTPRoute without a port to take the gRPC port, too",
            NOTICED_SECONDS,
        )
        context.note(f"HTTPRoute without a port: an RPC is {answer.code} {answer.detail[:80]}")


@case("trap-header-only", "a GRPCRoute that matches headers alone leaves the Service without any")
def trap_header_only(context: MeshContext) -> None:
    service = _set_up(context, "headers")
    route = _route(service)
    _apply(context, route)
    with _caller(context) as talk:
        _until_retried(talk, service, wanted="UNAVAILABLE")
        rules = route["spec"]["rules"]
        match = {"headers": [{"name": "x-canary", "value": "yes"}]}
        rule = {"matches": [match], "backendRefs": rules[0]["backendRefs"]}
        route["spec"]["rules"] = [rule, *rules]
        _apply(context, route)
    # A proxy that has a policy may go on with it; a new one gets none.
    with _caller(context, "newcomer") as talk:
        answer = until(
            lambda: (found := talk.rpc(_grpc(service), RPC)).code != "OK" and found,
            "a match of headers alone to end all calls",
            NOTICED_SECONDS,
        )
        context.note(f"a rule for headers alone, any RPC: {answer.code} {answer.detail[:80]}")
        match["method"] = {"service": "tests.Answering"}
        _apply(context, route)
        _until_answered(talk, service)
        context.note("with method.service beside the headers it is answered again")


class _Seen:
    """An answer, and by how much the caller's proxy has counted more retries since."""

    def __init__(self, answer: Answer, retries: float) -> None:
        self.answer, self.retries = answer, retries

    def __repr__(self) -> str:
        return f"{self.answer} after {self.retries:.0f} retries"


def _seen(talk: Talk, ask: Callable[[], Answer]) -> _Seen:
    name = "outbound_grpc_route_retry_requests_total"
    before = proxy.total(talk.metrics(), name)
    answer = ask()
    return _Seen(answer, proxy.total(talk.metrics(), name) - before)


def _grpc(service: str) -> str:
    return f"{service}.{NAMESPACE}:8500"


def _failing_once(talk: Talk, service: str, rows: int = 1) -> Answer:
    """A request that the server, which has to be one pod, answers from its second attempt on."""
    headers = {"id": uuid.uuid4().hex, "fail-first": "1"}
    # This one has a body: `asking` makes an empty one for RPCs it does not know.
    return talk.rpc(_grpc(service), "Predict", rows=rows, headers=headers)


def _until_answered(talk: Talk, service: str) -> None:
    until(
        lambda: talk.rpc(_grpc(service), RPC).code == "OK",
        f"{service} to answer",
        NOTICED_SECONDS,
    )


def _until_retried(talk: Talk, service: str, wanted: str = "OK") -> None:
    """Wait until a proxy has the route, which it shows by what it does and by what it counts."""
    _until_answered(talk, service)
    until(
        lambda: _failing_once(talk, service).code == wanted and _total(talk, ROUTED, service),
        f"the route of {service} to be heeded",
        NOTICED_SECONDS,
    )


def _total(talk: Talk, name: str, service: str) -> float:
    return proxy.total(talk.metrics(), name, parent_name=service)


def _connections(samples: list[proxy.Sample], service: str) -> dict[str, float]:
    """Connections of the caller's proxy by protocol."""
    name = "outbound_tcp_protocol_connections_total"
    return proxy.by_label(samples, name, "protocol", parent_name=service, parent_port="8500")


def _until_routed(context: MeshContext, talk: Talk, service: str, kind: str) -> None:
    """Wait until the server's proxy has the Server, its route and who may use it."""
    pods = context.cluster.core.list_namespaced_pod(NAMESPACE, label_selector=f"app={APP}").items

    def counted() -> float:
        if talk.rpc(_grpc(service), RPC).code not in ("OK", *REFUSALS):
            return 0
        samples = context.proxy_metrics(pods[0].metadata.name, NAMESPACE)
        return proxy.total(
            samples, "inbound_http_authz_allow_total", srv_name=APP, route_name=_route_name(kind)
        )

    until(counted, f"the {kind} of the Server to be heeded", NOTICED_SECONDS)


def _route_name(kind: str) -> str:
    return f"by-{kind.lower()}"


def _caller(context: MeshContext, name: str = "asker") -> Any:
    return talking(context.clients(NAMESPACE, "asker", inject=True), name)


def _set_up(
    context: MeshContext, service: str, *, app_protocol: str = H2C, replicas: int = 1
) -> str:
    """Servers, if there are none yet, and a Service of theirs; its name."""
    context.clients(NAMESPACE, "asker", inject=True)
    _apply(context, _servers(replicas), _service(service, app_protocol))
    context.cluster.kubectl(
        f"--namespace={NAMESPACE}", "rollout", "status", f"deployment/{APP}",
        f"--timeout={READY_SECONDS:.0f}s", seconds=READY_SECONDS + 10,
    )  # fmt: skip
    return service


def _apply(context: MeshContext, *objects: dict[str, Any]) -> None:
    for found in objects:
        found["metadata"]["namespace"] = NAMESPACE
        context.cluster.apply(found)


def _servers(replicas: int) -> dict[str, Any]:
    labels = {"app": APP}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": APP},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels, "annotations": {"linkerd.io/inject": "enabled"}},
                "spec": {
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 2,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "server",
                            "image": TOOLS_IMAGE,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["python", "-c", PROGRAM],
                            "ports": [
                                {"name": "grpc", "containerPort": 8500},
                                {"name": "rest", "containerPort": 8501},
                            ],
                            "readinessProbe": {
                                "httpGet": {"path": "/", "port": "rest"},
                                "periodSeconds": 1,
                            },
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "readOnlyRootFilesystem": True,
                                "capabilities": {"drop": ["ALL"]},
                            },
                        }
                    ],
                },
            },
        },
    }


def _service(name: str, app_protocol: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {"app": APP},
            "ports": [
                {"name": "grpc", "port": 8500, "appProtocol": app_protocol},
                {"name": "rest", "port": 8501, "appProtocol": "http"},
            ],
        },
    }


def _route(
    service: str, *, annotations: dict[str, str] | None = None, port: int | None = 8500
) -> dict[str, Any]:
    """A GRPCRoute of a Service for all RPCs."""
    parent: dict[str, Any] = {"group": "", "kind": "Service", "name": service}
    if port:
        parent["port"] = port
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GRPCRoute",
        "metadata": {"name": service, "annotations": annotations or {}},
        "spec": {
            "parentRefs": [parent],
            "rules": [{"backendRefs": [{"name": service, "port": 8500}]}],
        },
    }


def _rest_route(service: str, port: int | None) -> dict[str, Any]:
    """An HTTPRoute of a Service to its REST port."""
    route = _route(service, port=port)
    route["kind"] = "HTTPRoute"
    route["spec"]["rules"][0]["backendRefs"][0]["port"] = 8501
    return route


def _profile(service: str) -> dict[str, Any]:
    return {
        "apiVersion": "linkerd.io/v1alpha2",
        "kind": "ServiceProfile",
        "metadata": {"name": f"{service}.{NAMESPACE}.svc.cluster.local"},
        "spec": {"routes": [{"name": "any", "condition": {"method": "POST", "pathRegex": ".*"}}]},
    }


def _limited(protocol: str, kind: str) -> list[dict[str, Any]]:
    """A Server that lets the caller in by a route, and a rate limit of it."""
    match = (
        {} if kind == "GRPCRoute" else {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}
    )
    name = _route_name(kind)
    return [
        {
            "apiVersion": "policy.linkerd.io/v1beta3",
            "kind": "Server",
            "metadata": {"name": APP},
            "spec": {
                "podSelector": {"matchLabels": {"app": APP}},
                "port": 8500,
                "proxyProtocol": protocol,
            },
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": {
                "parentRefs": [{"group": "policy.linkerd.io", "kind": "Server", "name": APP}],
                "rules": [match],
            },
        },
        {
            "apiVersion": "policy.linkerd.io/v1alpha1",
            "kind": "MeshTLSAuthentication",
            "metadata": {"name": "asker"},
            "spec": {"identityRefs": [{"kind": "ServiceAccount", "name": "asker"}]},
        },
        {
            "apiVersion": "policy.linkerd.io/v1alpha1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name},
            "spec": {
                "targetRef": {
                    "group": "gateway.networking.k8s.io", "kind": kind, "name": name,
                },
                "requiredAuthenticationRefs": [
                    {"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": "asker"}
                ],
            },
        },
        {
            "apiVersion": "policy.linkerd.io/v1alpha1",
            "kind": "HTTPLocalRateLimitPolicy",
            "metadata": {"name": APP},
            "spec": {
                "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": APP},
                "identity": {"requestsPerSecond": LIMIT},
            },
        },
    ]  # fmt: skip
