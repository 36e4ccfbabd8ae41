"""Every rule of the mesh goes red when what it is about is broken, each time by one change."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest

from tests.manifests import rules
from tests.manifests.build import EVERYTHING, Object, combined
from tests.manifests.rules import ingress, mesh, policy

# Every optional part is in one of the two.
AUDITED = ("inject", "traffic", "policy", "policy-audit")
WITH_CERTIFICATE = (*EVERYTHING, "ingress-cert-manager", "ingress-jwt")


@dataclass(frozen=True)
class Change:
    """A field of one object, or of all of a kind, set or (GONE) taken away.

    `path` has the fields' names with a | between; without one the whole object goes. ADD as its last
    part appends to a list.
    """

    kind: str
    name: str = ""
    path: str = ""
    value: Any = None
    components: tuple[str, ...] = EVERYTHING

    def made(self) -> list[Object]:
        """The objects with the change in them."""
        objects = combined(self.components)
        chosen = [
            item
            for item in objects
            if item["kind"] == self.kind and self.name in {"", item["metadata"]["name"]}
        ]
        assert chosen, f"there is no {self.kind} {self.name}"
        if not self.path:
            return [item for item in objects if item not in chosen]
        for item in chosen:
            self._apply(item)
        return objects

    def _apply(self, item: Any) -> None:
        *parts, last = (
            int(part) if re.fullmatch(r"-?\d+", part) else part for part in self.path.split("|")
        )
        for part in parts:
            item = item.setdefault(part, {}) if isinstance(item, dict) else item[part]
        if last == ADD:
            item.append(deepcopy(self.value))
        elif self.value is GONE:
            del item[last]
        else:
            item[last] = deepcopy(self.value)


@dataclass(frozen=True)
class More:
    """One more object."""

    item: Object
    components: tuple[str, ...] = EVERYTHING

    def made(self) -> list[Object]:
        """The objects with this one among them."""
        return [*combined(self.components), self.item]


GONE, ADD = object(), "+"
POD = "spec|template|spec"
ANNOTATIONS = "spec|template|metadata|annotations"
MATCH = "spec|rules|0|matches"
ENVOY = "spec|provider|kubernetes|envoyDeployment"
ENVOY_ANNOTATIONS = f"{ENVOY}|pod|annotations"


def pod(annotation: str, value: Any, **more: Any) -> Change:
    return Change("Deployment", "", f"{ANNOTATIONS}|{annotation}", value, **more)


def route(name: str, path: str, value: Any, kind: str = "GRPCRoute", **more: Any) -> Change:
    return Change(kind, name, path, value, **more)


def new(kind: str, spec: dict[str, Any], group: str = "policy.linkerd.io/v1alpha1") -> More:
    labels = {"app.kubernetes.io/part-of": "chopstick-serving"}
    metadata = {"name": "new", "namespace": "combined", "labels": labels}
    return More({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec})


def server_ref(name: str) -> dict[str, str]:
    return {"group": "policy.linkerd.io", "kind": "Server", "name": name}


RETRY_GRPC = "metadata|annotations|retry.linkerd.io/grpc"
CLASSIFIER = "chopstick-classifier"

# rule: changes of which each alone has to be found by it.
BROKEN: dict[str, list[Change | More]] = {
    "pods_are_in_the_mesh": [
        pod("linkerd.io/inject", GONE),
        pod("linkerd.io/inject", "ingress"),
        pod("config.linkerd.io/proxy-cpu-request", GONE),
        pod("config.linkerd.io/proxy-memory-request", GONE),
        pod("config.linkerd.io/proxy-enable-native-sidecar", "false"),
        Change("Namespace", "", "metadata|annotations|linkerd.io/inject", GONE),
    ],
    "connections_do_not_age": [
        # What `inject` appends, taken away: the base's own comes back.
        Change("Deployment", "", f"{POD}|containers|0|args|-1", GONE),
        Change(
            "Deployment",
            "",
            f"{POD}|containers|0|args|+",
            "--grpc_channel_arguments=grpc.max_connection_age_ms=8000",
        ),
    ],
    "no_port_is_skipped": [
        pod("config.linkerd.io/skip-inbound-ports", "8500"),
        pod("config.linkerd.io/skip-outbound-ports", "443"),
        pod("config.linkerd.io/opaque-ports", "8500"),
        Change("Namespace", "", "metadata|annotations|config.linkerd.io/opaque-ports", "8500"),
        Change("Service", "", "metadata|annotations|config.linkerd.io/opaque-ports", "8500"),
    ],
    "every_port_says_its_protocol": [
        Change("Service", "", "spec|ports|0|appProtocol", "grpc"),
        Change("Service", "", "spec|ports|0|appProtocol", GONE),
        Change("Service", "", "spec|ports|1|appProtocol", "https"),
    ],
    "no_service_profile": [new("ServiceProfile", {"routes": []}, "linkerd.io/v1alpha2")],
    "routes_name_services_and_ports": [
        route("retried-grpc", "spec|parentRefs|0|port", GONE),
        route("retried-grpc", "spec|parentRefs|0|port", 8503),
        route("retried-grpc", "spec|parentRefs|0|group", GONE),
        route("retried-grpc", "spec|parentRefs|0|name", "classifier"),
        route("retried-grpc", "spec|parentRefs|0|namespace", "chopstick"),
        route("other-rest", "spec|parentRefs|0|port", GONE, "HTTPRoute"),
        route("other-grpc", "spec|rules|0|backendRefs|0|port", GONE),
        route("other-grpc", "spec|rules|0|backendRefs", []),
        route("other-grpc", "spec|rules|0|backendRefs|0|name", "canary"),
        route("other-grpc", "spec|rules|0|backendRefs|0|kind", "Backend"),
        # The webhook sees an ingress's, too.
        route("ingress-grpc", "spec|rules|0|backendRefs|0|port", GONE),
        route("ingress-rest", "spec|rules|0|backendRefs|0|port", 80, "HTTPRoute"),
    ],
    "matches_name_an_rpc": [
        route("retried-grpc", f"{MATCH}|+", {"headers": [{"name": "x", "value": "y"}]}),
        route("other-grpc", MATCH, [{}]),
        route("retried-grpc", f"{MATCH}|0|method|type", "RegularExpression"),
        route("ingress-grpc", f"{MATCH}|+", {"headers": [{"name": "x", "value": "y"}]}),
        route("ingress-grpc", f"{MATCH}|0|method|type", "RegularExpression"),
    ],
    "every_routed_port_has_a_catch_all": [
        Change("GRPCRoute", "other-grpc"),
        Change("HTTPRoute", "other-rest"),
        route("other-grpc", MATCH, [{"method": {"service": "tensorflow.serving.ModelService"}}]),
        # Both kinds on one port: Linkerd reads the GRPCRoutes and leaves out the others.
        route("other-rest", "spec|parentRefs|0|port", 8500, "HTTPRoute"),
    ],
    "routes_do_only_what_linkerd_does": [
        route(
            "retried-rest",
            "spec|rules|0|filters",
            [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "x"}}}],
            "HTTPRoute",
        ),
        route("other-grpc", "spec|rules|0|filters", [{"type": "ExtensionRef"}]),
        route("other-grpc", "spec|rules|0|backendRefs|0|filters", [{"type": "RequestMirror"}]),
        route("server-rest-admin", "spec|rules|0|filters", [{"type": "ExtensionRef"}], "HTTPRoute"),
        route("other-grpc", "spec|rules|0|sessionPersistence", {}),
    ],
    "retries_are_written_as_linkerd_reads_them": [
        route("retried-grpc", RETRY_GRPC, "unavailable, internal"),
        route("retried-grpc", RETRY_GRPC, "UNAVAILABLE"),
        route("retried-grpc", "metadata|annotations|retry.linkerd.io/http", "5xx"),
        route("retried-grpc", "metadata|annotations|retry.linkerd.io/limit", GONE),
        route("retried-grpc", "metadata|annotations|retry.linkerd.io/timeout", GONE),
        route("retried-grpc", "metadata|annotations|retry.linkerd.io/timeout", "2"),
        route("retried-grpc", "metadata|annotations|retry.linkerd.io/timeout", "3s"),
        route("retried-grpc", "metadata|annotations|timeout.linkerd.io/request", "5"),
        route(
            "retried-rest",
            "metadata|annotations|retry.linkerd.io/http",
            "502, 503",
            "HTTPRoute",
        ),
        route("ingress-grpc", RETRY_GRPC, "unavailable"),
    ],
    "nothing_is_retried_that_may_not_be": [
        route("other-grpc", RETRY_GRPC, "unavailable"),
        route("other-rest", "metadata|annotations|retry.linkerd.io/http", "5xx", "HTTPRoute"),
        route(
            "retried-grpc",
            f"{MATCH}|+",
            {
                "method": {
                    "service": "tensorflow.serving.ModelService",
                    "method": "HandleReloadConfigRequest",
                }
            },
        ),
        route(
            "retried-grpc", f"{MATCH}|+", {"method": {"service": "tensorflow.serving.ModelService"}}
        ),
        route("retried-grpc", MATCH, GONE),
        route(
            "retried-rest",
            f"{MATCH}|+",
            {"path": {"type": "PathPrefix", "value": "/v1"}},
            "HTTPRoute",
        ),
        Change("Service", "", f"{RETRY_GRPC}", "unavailable"),
    ],
    "what_may_be_retried_is": [
        route("retried-grpc", f"{MATCH}|0", {"method": {"service": "a", "method": "b"}}),
        route(
            "retried-rest",
            f"{MATCH}|0|path",
            {"type": "PathPrefix", "value": "/v1/models/chopstick"},
            "HTTPRoute",
        ),
    ],
    "weights_are_in_one_place": [],
    "the_network_lets_the_mesh_through": [
        Change("NetworkPolicy", "egress", "spec|egress|1|ports|2", {"port": 8091}),
        Change("NetworkPolicy", "egress"),
        Change("NetworkPolicy", CLASSIFIER, "spec|ingress|0|ports|3", {"port": 4140}),
        Change("NetworkPolicy", CLASSIFIER, "spec|ingress|0|from|0|namespaceSelector", GONE),
        Change("EnvoyProxy", "", f"{ENVOY}|pod|labels", GONE),
    ],
    "no_network_is_an_identity": [
        new("NetworkAuthentication", {"networks": [{"cidr": "10.0.0.0/8"}]})
    ],
    "nobody_is_let_in_by_default": [
        pod("config.linkerd.io/default-inbound-policy", GONE),
        pod("config.linkerd.io/default-inbound-policy", "all-authenticated"),
        Change(
            "Namespace", "", "metadata|annotations|config.linkerd.io/default-inbound-policy", GONE
        ),
        Change("Server", f"{CLASSIFIER}-rest", "spec|accessPolicy", "audit"),
        Change("Server", f"{CLASSIFIER}-rest", "spec|accessPolicy", "deny", AUDITED),
        pod("config.linkerd.io/default-inbound-policy", "deny", components=AUDITED),
    ],
    "every_port_has_one_server": [
        Change("Server", f"{CLASSIFIER}-metrics"),
        Change("Server", "proxy-admin"),
        Change("Server", f"{CLASSIFIER}-metrics", "spec|port", 8502),
        Change("Server", f"{CLASSIFIER}-metrics", "spec|port", 8505),
        Change("Server", f"{CLASSIFIER}-metrics", "spec|port", "prometheus"),
        Change("Server", f"{CLASSIFIER}-metrics", "spec|port", "rest"),
        Change("Server", f"{CLASSIFIER}-grpc", "spec|podSelector|matchLabels|track", "stable"),
        Change("Server", f"{CLASSIFIER}-grpc", "spec|podSelector|matchLabels", {"app": "x"}),
        Change(
            "Deployment",
            "",
            f"{POD}|containers|0|ports|+",
            {"name": "debug", "containerPort": 8600},
        ),
    ],
    "the_kubelet_needs_no_leave": [
        Change("Deployment", "", f"{POD}|containers|0|readinessProbe|httpGet|port", 8501),
        Change("Deployment", "", f"{POD}|containers|0|readinessProbe", {"grpc": {"port": 8504}}),
    ],
    "a_limited_server_is_not_grpc": [
        Change("Server", f"{CLASSIFIER}-grpc", "spec|proxyProtocol", "gRPC"),
        route("other-grpc", "spec|parentRefs", [server_ref(f"{CLASSIFIER}-grpc")]),
    ],
    "both_ways_in_are_limited": [
        Change("HTTPLocalRateLimitPolicy", "grpc"),
        Change("HTTPLocalRateLimitPolicy", "rest"),
        Change("HTTPLocalRateLimitPolicy", "grpc", "spec|identity", GONE),
        Change("HTTPLocalRateLimitPolicy", "grpc", "spec|identity|requestsPerSecond", 9999),
        Change("HTTPLocalRateLimitPolicy", "grpc", "spec|overrides|0|requestsPerSecond", 9999),
        Change("HTTPLocalRateLimitPolicy", "grpc", "spec|targetRef|name", "grpc"),
        Change("HTTPLocalRateLimitPolicy", "grpc", "spec|targetRef|name", f"{CLASSIFIER}-rest"),
    ],
    "policies_name_what_exists": [
        Change("MeshTLSAuthentication", "model-clients"),
        Change("AuthorizationPolicy", "grpc-admin", "spec|targetRef|name", "server-admin"),
        Change("AuthorizationPolicy", "grpc-admin", "spec|targetRef|group", "policy.linkerd.io"),
        Change("AuthorizationPolicy", "metrics", "spec|requiredAuthenticationRefs", []),
        Change("AuthorizationPolicy", "metrics", "spec|requiredAuthenticationRefs|0|name", "prom"),
        Change(
            "AuthorizationPolicy", "metrics", "spec|requiredAuthenticationRefs|0|namespace", "x"
        ),
        route("server-grpc-admin", "spec|parentRefs|0|name", "grpc", "HTTPRoute"),
        route("server-grpc-admin", "spec|parentRefs|0|group", "", "HTTPRoute"),
    ],
    "all_is_authorized_where_it_is_routed": [
        Change("AuthorizationPolicy", "rest-metrics"),
        Change("AuthorizationPolicy", "metrics"),
        new(
            "AuthorizationPolicy",
            {
                "targetRef": server_ref(f"{CLASSIFIER}-grpc"),
                "requiredAuthenticationRefs": [
                    {
                        "group": "policy.linkerd.io",
                        "kind": "MeshTLSAuthentication",
                        "name": "model-clients",
                    }
                ],
            },
        ),
    ],
    "requests_are_for_whom_they_are_meant": [
        Change(
            "AuthorizationPolicy",
            "grpc-admin",
            "spec|requiredAuthenticationRefs|0|name",
            "model-clients",
        ),
        Change(
            "AuthorizationPolicy",
            "metrics",
            "spec|requiredAuthenticationRefs|0|name",
            "model-clients",
        ),
        route("server-grpc-inference", f"{MATCH}|0|path|type", "PathPrefix", "HTTPRoute"),
        route("server-grpc-inference", f"{MATCH}|0|method", GONE, "HTTPRoute"),
        route(
            "server-grpc-inference",
            f"{MATCH}|0|path|value",
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
            "HTTPRoute",
        ),
        # PathPrefix ends at a slash: it does not take /v1/models/chopstick:predict.
        route(
            "server-rest-inference",
            f"{MATCH}|0|path",
            {"type": "PathPrefix", "value": "/v1/models/chopstick"},
            "HTTPRoute",
        ),
        route("server-rest-inference", f"{MATCH}|1|path|value", "/v1/.*", "HTTPRoute"),
        Change("HTTPRoute", "server-grpc-admin"),
        Change("HTTPRoute", "server-rest-metrics"),
    ],
    "the_lists_of_rpcs_agree": [
        route("retried-grpc", f"{MATCH}|3|method|method", "SessionRun"),
        route("ingress-grpc", f"{MATCH}|3|method|method", "MultiInference"),
        route("server-grpc-inference", f"{MATCH}|3", GONE, "HTTPRoute"),
    ],
    "identities_are_where_they_run": [
        Change(
            "MeshTLSAuthentication", "model-clients", "spec|identityRefs|0|namespace", "combined"
        ),
        Change("MeshTLSAuthentication", "model-clients", "spec|identityRefs|0|name", GONE),
        Change("MeshTLSAuthentication", "model-clients", "spec|identityRefs|1", GONE),
        Change("MeshTLSAuthentication", "model-clients", "spec|identities", ["*"]),
        Change("MeshTLSAuthentication", "prometheus", "spec|identityRefs|0|namespace", GONE),
        Change(
            "MeshTLSAuthentication",
            "model-admins",
            "spec|identityRefs|+",
            {"kind": "ServiceAccount", "name": "web"},
        ),
        Change("HTTPLocalRateLimitPolicy", "rest", "spec|overrides|0|clientRefs|0|namespace", GONE),
        Change("ServiceAccount", "model-admin"),
    ],
    "the_ingress_is_a_caller": [
        Change("EnvoyProxy", "", "spec|provider|kubernetes|envoyServiceAccount|name", "envoy"),
        Change("MeshTLSAuthentication", "model-clients", "spec|identityRefs|4", GONE),
        Change("HTTPLocalRateLimitPolicy", "grpc", "spec|overrides", GONE),
        Change("HTTPLocalRateLimitPolicy", "rest", "spec|overrides|0|requestsPerSecond", 100),
        Change("HTTPLocalRateLimitPolicy", "rest", "spec|overrides|0|clientRefs|0|name", "envoy"),
        Change("EnvoyProxy"),
    ],
    "the_parts_of_the_ingress_name_each_other": [
        Change("GatewayClass"),
        Change("EnvoyProxy"),
        Change("Gateway"),
        Change("Gateway", "", "spec|infrastructure", GONE),
        Change("Gateway", "", "spec|listeners|0|allowedRoutes|namespaces|from", "All"),
        Change("Gateway", "", "spec|listeners|0|allowedRoutes|kinds|0|kind", "HTTPRoute"),
        route("ingress-grpc", "spec|parentRefs|0|sectionName", "grp"),
        route("ingress-grpc", "spec|hostnames", ["other.example.com"]),
        Change("SecurityPolicy", "", "spec|targetRefs|0|name", "ingress"),
    ],
    "the_ingress_is_in_the_mesh": [
        Change("EnvoyProxy", "", "spec|routingType", GONE),
        Change("EnvoyProxy", "", "spec|routingType", "Endpoint"),
        Change("EnvoyProxy", "", f"{ENVOY_ANNOTATIONS}|linkerd.io/inject", "ingress"),
        Change("EnvoyProxy", "", f"{ENVOY_ANNOTATIONS}|config.linkerd.io/proxy-cpu-request", GONE),
        Change("EnvoyProxy", "", f"{ENVOY}|pod|labels", {}),
        Change("EnvoyProxy", "", "spec|provider|kubernetes|envoyServiceAccount|name", GONE),
        Change("EnvoyProxy", "", f"{ENVOY}|replicas", 1),
        Change("BackendTrafficPolicy", "", "spec|healthCheck", {}),
        Change("BackendTrafficPolicy", "", "spec|retry", {}),
        Change("BackendTrafficPolicy", "", "spec|routingType", "Endpoint"),
    ],
    "only_listeners_are_skipped": [
        Change("EnvoyProxy", "", f"{ENVOY_ANNOTATIONS}|config.linkerd.io/skip-inbound-ports", GONE),
        Change(
            "EnvoyProxy",
            "",
            f"{ENVOY_ANNOTATIONS}|config.linkerd.io/skip-inbound-ports",
            "10443,19001",
        ),
        Change(
            "EnvoyProxy", "", f"{ENVOY_ANNOTATIONS}|config.linkerd.io/skip-inbound-ports", "443"
        ),
        Change(
            "EnvoyProxy", "", f"{ENVOY_ANNOTATIONS}|config.linkerd.io/skip-outbound-ports", "8500"
        ),
        Change("Gateway", "", "spec|listeners|0|port", 8443),
        Change(
            "EnvoyProxy",
            "",
            "spec|provider|kubernetes|envoyService|externalTrafficPolicy",
            "Cluster",
        ),
    ],
    "nothing_comes_in_as_plain_text": [
        Change("Gateway", "", "spec|listeners|0|protocol", "HTTP"),
        Change("Gateway", "", "spec|listeners|0|protocol", "TCP"),
        Change("Gateway", "", "spec|listeners|0|tls|certificateRefs", []),
        Change("Gateway", "", "spec|listeners|0|tls|mode", "Passthrough"),
        Change("Gateway", "", "spec|listeners|0|hostname", GONE),
        Change("Gateway", "", "spec|listeners|0|hostname", "grpc.example.com", WITH_CERTIFICATE),
        Change("Certificate", "", "spec|secretName", "other", WITH_CERTIFICATE),
    ],
    "a_hostname_is_for_one_kind_of_route": [
        Change("Gateway", "", "spec|listeners|0|hostname", "api.chopstick.example.com"),
        route("ingress-rest", "spec|hostnames", ["grpc.chopstick.example.com"], "HTTPRoute"),
        route("ingress-rest", "spec|parentRefs|0|sectionName", GONE, "HTTPRoute"),
    ],
    "callers_from_outside_say_who_they_are": [
        Change("SecurityPolicy"),
        Change("SecurityPolicy", "", "spec|apiKeyAuth", GONE),
        Change("SecurityPolicy", "", "spec|apiKeyAuth|sanitize", GONE),
        Change("SecurityPolicy", "", "spec|targetRefs|0|sectionName", "grpc"),
        Change(
            "SecurityPolicy",
            "",
            "spec|targetRefs|0",
            {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "ingress-grpc"},
        ),
        Change("SecurityPolicy", "", "spec|jwt|optional", True, WITH_CERTIFICATE),
        Change("SecurityPolicy", "", "spec|jwt|providers", [], WITH_CERTIFICATE),
    ],
    "requests_from_outside_are_limited": [
        Change("BackendTrafficPolicy"),
        Change("BackendTrafficPolicy", "", "spec|requestBuffer", GONE),
        Change("BackendTrafficPolicy", "", "spec|rateLimit", GONE),
        Change("BackendTrafficPolicy", "", "spec|rateLimit|local|rules|0|clientSelectors", [{}]),
        Change("BackendTrafficPolicy", "", "spec|timeout|http|requestTimeout", "30s"),
        Change("ClientTrafficPolicy"),
        Change("ClientTrafficPolicy", "", "spec|connection", GONE),
    ],
    "the_ingress_routes_only_what_is_public": [
        route("ingress-grpc", MATCH, GONE),
        route(
            "ingress-grpc", f"{MATCH}|4", {"method": {"service": "tensorflow.serving.ModelService"}}
        ),
        route("ingress-grpc", f"{MATCH}|0|method|method", "MultiInference"),
        route("ingress-rest", f"{MATCH}|1|path|value", "/.*", "HTTPRoute"),
        route("ingress-rest", f"{MATCH}|1|method", GONE, "HTTPRoute"),
        route(
            "ingress-rest",
            f"{MATCH}|0|path",
            {"type": "PathPrefix", "value": "/v1/models/chopstick"},
            "HTTPRoute",
        ),
    ],
}
CASES = [
    pytest.param(rule, broken, id=f"{rule}-{number}")
    for rule, all_of_them in BROKEN.items()
    for number, broken in enumerate(all_of_them)
]


def said(rule: str, objects: list[Object]) -> list[str]:
    return [item for item in rules.findings(objects) if item.startswith(f"{rule}: ")]


@pytest.mark.parametrize("components", [EVERYTHING, AUDITED, WITH_CERTIFICATE], ids="+".join)
def test_what_is_broken_below_is_whole(components: tuple[str, ...]) -> None:
    assert rules.findings(combined(components)) == []


@pytest.mark.parametrize(("rule", "broken"), CASES)
def test_a_broken_mesh_is_caught(rule: str, broken: Change | More) -> None:
    objects = broken.made()
    assert said(rule, objects), rules.findings(objects)


def test_weights_at_the_ingress_and_in_the_mesh_are_caught() -> None:
    """Either alone is a canary."""
    inside = route("retried-grpc", "spec|rules|0|backendRefs|0|weight", 90)
    outside = route("ingress-grpc", "spec|rules|0|backendRefs|0|weight", 90)
    for one in (inside, outside):
        assert rules.findings(one.made()) == []
    both = inside.made()
    outside._apply(next(item for item in both if item["metadata"]["name"] == "ingress-grpc"))
    assert said("weights_are_in_one_place", both)


def test_every_rule_of_the_mesh_is_broken_once() -> None:
    there = [*mesh.RULES, *policy.RULES, *ingress.RULES]
    assert list(BROKEN) == [rule.__name__ for rule in there]
