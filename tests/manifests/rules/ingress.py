"""The way in from outside: Envoy Gateway's objects, as they have to fit together and to the mesh."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.manifests.build import Object
from tests.manifests.rules import routes
from tests.manifests.rules.mesh import CONFIG, INJECT, SKIPPED
from tests.manifests.rules.stack import Stack, name_of
from tests.manifests.rules.workload import DEADLINE

# Envoy Gateway lets its proxies listen on ports that need no privilege.
PRIVILEGED, SHIFT = 1024, 10000
CLIENT = "chopstick.dev/client"


def kubernetes(proxy: Object) -> dict[str, Any]:
    """What an EnvoyProxy says of its pods and its Service."""
    return proxy["spec"].get("provider", {}).get("kubernetes", {})


def listeners(stack: Stack) -> list[tuple[Object, dict[str, Any]]]:
    """Every listener, with its Gateway."""
    return [(item, each) for item in stack.of("Gateway") for each in item["spec"]["listeners"]]


def outside(stack: Stack) -> list[Object]:
    """The routes that begin at a Gateway."""
    return routes.attached(stack, "Gateway")


def heard_at(stack: Stack, route: Object) -> list[dict[str, Any]]:
    """The listeners that a route is attached to."""
    return [
        each
        for parent in routes.parents(route, "Gateway")
        for gateway, each in listeners(stack)
        if name_of(gateway) == parent["name"]
        and parent.get("sectionName", each["name"]) == each["name"]
    ]


def hostnames(stack: Stack, route: Object) -> set[str]:
    """The names that a route answers to: its own, or else its listeners'."""
    own = set(route["spec"].get("hostnames", []))
    return own or {each.get("hostname", "*") for each in heard_at(stack, route)}


def covering(stack: Stack, kind: str, route: Object) -> list[dict[str, Any]]:
    """The specs of a kind of policy that hold for a route: for itself, or for its whole Gateway.

    One for the route replaces the Gateway's.
    """

    def targets(item: Object) -> list[dict[str, Any]]:
        spec = item["spec"]
        return [*spec.get("targetRefs", []), *([spec["targetRef"]] if "targetRef" in spec else [])]

    gateways = {parent["name"] for parent in routes.parents(route, "Gateway")}
    by_place = {
        place: [
            item["spec"]
            for item in stack.of(kind)
            for target in targets(item)
            if target["kind"] == place and "sectionName" not in target and target["name"] in names
        ]
        for place, names in ((route["kind"], {name_of(route)}), ("Gateway", gateways))
    }
    return by_place[route["kind"]] or by_place["Gateway"]


def the_parts_of_the_ingress_name_each_other(stack: Stack) -> Iterator[str]:
    """A name that nobody has is a status in an object, and no error anywhere."""
    for gateway in stack.of("Gateway"):
        own = f"Gateway {name_of(gateway)}"
        if not stack.named("GatewayClass", gateway["spec"]["gatewayClassName"]):
            yield f"{own}: there is no GatewayClass {gateway['spec']['gatewayClassName']}"
        ref = gateway["spec"].get("infrastructure", {}).get("parametersRef", {})
        if not stack.named(ref.get("kind", ""), ref.get("name", "")):
            yield f"{own}: there is no {ref.get('kind')} {ref.get('name')}: it would not be meshed"
        for each in gateway["spec"]["listeners"]:
            if each.get("allowedRoutes", {}).get("namespaces", {}).get("from", "Same") != "Same":
                yield f"{own}: routes of other namespaces may use listener {each['name']}"
    for route in outside(stack):
        heard = heard_at(stack, route)
        if len(heard) < len(routes.parents(route, "Gateway")):
            yield f"{routes.title(route)}: no listener has the name of its parent"
        for each in heard:
            kinds = [item["kind"] for item in each.get("allowedRoutes", {}).get("kinds", [])]
            if kinds and route["kind"] not in kinds:
                yield f"{routes.title(route)}: listener {each['name']} is for {kinds}"
            names, of = set(route["spec"].get("hostnames", [])), each.get("hostname")
            if names and of and names != {of}:
                yield f"{routes.title(route)}: {sorted(names)}, but the listener is {of}"
    for kind in ("ClientTrafficPolicy", "BackendTrafficPolicy", "SecurityPolicy"):
        for item in stack.of(kind):
            for target in item["spec"].get("targetRefs", []):
                if not stack.named(target["kind"], target["name"]):
                    yield f"{kind} {name_of(item)}: no {target['kind']} {target['name']}"


def the_ingress_is_in_the_mesh(stack: Stack) -> Iterator[str]:
    """A caller like others, that leaves to its sidecar what is the mesh's."""
    for proxy in stack.of("EnvoyProxy"):
        own, there = f"EnvoyProxy {name_of(proxy)}", kubernetes(proxy)
        pod = there.get("envoyDeployment", {}).get("pod", {})
        annotations = pod.get("annotations", {})
        if proxy["spec"].get("routingType") != "Service":
            yield f"{own}: routingType {proxy['spec'].get('routingType')}: Envoy dials the pods"
        if annotations.get(INJECT) != "enabled":
            yield f"{own}: {INJECT} is {annotations.get(INJECT)}"
        for resource in ("cpu", "memory"):
            if f"{CONFIG}proxy-{resource}-request" not in annotations:
                yield f"{own}: its sidecar requests no {resource}"
        if pod.get("labels", {}).get(CLIENT) != "true":
            yield f"{own}: without the label {CLIENT} its pods are no callers to a network policy"
        if "name" not in there.get("envoyServiceAccount", {}):
            yield f"{own}: its account is generated, and an identity that nobody can name"
        if there.get("envoyDeployment", {}).get("replicas", 1) < 2:
            yield f"{own}: one replica"
    for item in stack.of("BackendTrafficPolicy"):
        for part in ("healthCheck", "loadBalancer", "retry", "circuitBreaker"):
            if part in item["spec"]:
                yield f"BackendTrafficPolicy {name_of(item)}: {part} is the mesh's"
        if item["spec"].get("routingType", "Service") != "Service":
            yield f"BackendTrafficPolicy {name_of(item)}: Envoy dials the pods"


def only_listeners_are_skipped(stack: Stack) -> Iterator[str]:
    """The ports of callers who can have no identity; through the proxy they would lose their IP."""
    ports = {each["port"] + SHIFT * (each["port"] < PRIVILEGED) for _, each in listeners(stack)}
    for proxy in stack.of("EnvoyProxy"):
        pod = kubernetes(proxy).get("envoyDeployment", {}).get("pod", {})
        given = {name: pod.get("annotations", {}).get(f"{CONFIG}{name}") for name in SKIPPED}
        inward = given.pop("skip-inbound-ports")
        if inward is None or set(inward.split(",")) != {str(port) for port in ports}:
            yield f"EnvoyProxy {name_of(proxy)}: skips {inward}, its listeners have {sorted(ports)}"
        for name, value in given.items():
            if value is not None:
                yield f"EnvoyProxy {name_of(proxy)}: {CONFIG}{name}: {value}"
        service = kubernetes(proxy).get("envoyService", {})
        if service.get("externalTrafficPolicy") != "Local":
            yield f"EnvoyProxy {name_of(proxy)}: a node stands in for the caller's address"


def nothing_comes_in_as_plain_text(stack: Stack) -> Iterator[str]:
    """TLS ends here; plain HTTP is for nothing but the way to it."""
    secrets = {item["spec"]["secretName"]: item["spec"] for item in stack.of("Certificate")}
    for gateway, each in listeners(stack):
        own = f"Gateway {name_of(gateway)}, listener {each['name']}"
        tls = each.get("tls", {})
        if each["protocol"] == "HTTP":
            for route in outside(stack):
                if each not in heard_at(stack, route):
                    continue
                for rule in routes.rules_of(route):
                    kinds = [item["type"] for item in rule.get("filters", [])]
                    if kinds != ["RequestRedirect"]:
                        yield f"{own}: {routes.title(route)} answers in plain text"
        elif each["protocol"] != "HTTPS":
            yield f"{own}: protocol {each['protocol']}"
        elif tls.get("mode", "Terminate") != "Terminate" or not tls.get("certificateRefs"):
            yield f"{own}: TLS without a certificate of its own"
        if "hostname" not in each:
            yield f"{own}: every name"
        for ref in tls.get("certificateRefs", []) if secrets else ():
            if each.get("hostname") not in secrets.get(ref["name"], {}).get("dnsNames", []):
                yield f"{own}: no Certificate makes {ref['name']} for {each.get('hostname')}"


def a_hostname_is_for_one_kind_of_route(stack: Stack) -> Iterator[str]:
    """Both kinds under one name on one port isn't portable."""
    names: dict[str, set[str]] = {}
    for route in outside(stack):
        for name in hostnames(stack, route):
            names.setdefault(name, set()).add(route["kind"])
    for name, kinds in names.items():
        if len(kinds) > 1 or "*" in name:
            yield f"{name} is for {' and '.join(sorted(kinds))}"


def callers_from_outside_say_who_they_are(stack: Stack) -> Iterator[str]:
    """By an API key or a token, on every route."""
    for route in outside(stack):
        found = covering(stack, "SecurityPolicy", route)
        if not found:
            yield f"{routes.title(route)}: no SecurityPolicy"
        for spec in found:
            key, jwt = spec.get("apiKeyAuth") or {}, spec.get("jwt") or {}
            if not key.get("credentialRefs") and not jwt.get("providers"):
                yield f"{routes.title(route)}: neither API key nor JWT"
            if jwt.get("optional"):
                yield f"{routes.title(route)}: the token is optional"
            if key and key.get("sanitize") is not True:
                yield f"{routes.title(route)}: the key is handed on"


def requests_from_outside_are_limited(stack: Stack) -> Iterator[str]:
    """In size, number, time and connections: on every route."""
    for route in outside(stack):
        own, found = routes.title(route), covering(stack, "BackendTrafficPolicy", route)
        if len(found) != 1:
            yield f"{own}: {len(found)} BackendTrafficPolicies"
            continue
        if "limit" not in found[0].get("requestBuffer", {}):
            yield f"{own}: requests of any size"
        rules = found[0].get("rateLimit", {}).get("local", {}).get("rules", [])
        # A rule with selectors counts some callers, one without counts all.
        if not any("clientSelectors" not in rule for rule in rules):
            yield f"{own}: any number of requests"
        times = found[0].get("timeout", {}).get("http", {})
        if times.get("requestTimeout") != f"{DEADLINE}s":
            yield f"{own}: requestTimeout {times.get('requestTimeout')}, not {DEADLINE}s"
        clients = covering(stack, "ClientTrafficPolicy", route)
        if not any("connectionLimit" in spec.get("connection", {}) for spec in clients):
            yield f"{own}: any number of connections"


def the_ingress_routes_only_what_is_public(stack: Stack) -> Iterator[str]:
    """What the policy would refuse doesn't get there: refusals open the breakers of everybody."""
    for kind, public, other in (
        (
            "GRPCRoute",
            routes.PUBLIC_RPCS,
            routes.ADMIN_RPCS | (routes.CALLER_RPCS - routes.PUBLIC_RPCS),
        ),
        ("HTTPRoute", routes.CALLER_REST, routes.ADMIN_REST | {routes.METRICS_REST}),
    ):
        there = [route for route in outside(stack) if route["kind"] == kind]
        for request in sorted(public) if there else ():
            if routes.closest(there, request) is None:
                yield f"no {kind} of the ingress takes {request}"
        for request in sorted(other):
            if route := routes.closest(there, request):
                yield f"{routes.title(route)} takes {request}"


RULES = (
    the_parts_of_the_ingress_name_each_other,
    the_ingress_is_in_the_mesh,
    only_listeners_are_skipped,
    nothing_comes_in_as_plain_text,
    a_hostname_is_for_one_kind_of_route,
    callers_from_outside_say_who_they_are,
    requests_from_outside_are_limited,
    the_ingress_routes_only_what_is_public,
)
