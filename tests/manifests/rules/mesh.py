"""The mesh: pods that are in it, and routes that callers' proxies follow.

Where a trap of Linkerd's is named, it is one of 2.20. What else a meshed pod has to be holds for
every pod: it drops ALL, since the proxy copies the first container's capabilities; it does not run
as the proxy's user; its Service is not headless, for then nothing is balanced (`workload`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.manifests.rules import routes
from tests.manifests.rules.stack import Stack, name_of
from tests.manifests.rules.workload import DEADLINE

INJECT = "linkerd.io/inject"
CONFIG = "config.linkerd.io/"
SKIPPED = ("skip-inbound-ports", "skip-outbound-ports", "skip-subnets", "opaque-ports")
# What Linkerd takes for a protocol with requests in it; all else is bytes.
PROTOCOLS = {"http", "kubernetes.io/h2c"}
RETRY = "retry.linkerd.io/"
TIMEOUT = "timeout.linkerd.io/"
RETRIED_CODES = {
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
}
# `port` by what goes over it, and by the callers' proxies' part in that.
CALLER_REQUESTS = routes.CALLER_RPCS | routes.CALLER_REST
OTHER_REQUESTS = routes.ADMIN_RPCS | routes.ADMIN_REST
# Where a control plane listens for its proxies: identity, destination, policy.
CONTROL_PLANE = {8080, 8086, 8090}
INBOUND, ADMIN = 4143, 4191


def meshed(stack: Stack) -> bool:
    """Whether anything in an overlay is Linkerd's, or only works with it."""
    space = stack.one("Namespace").get("metadata", {}).get("annotations", {})
    return (
        any("linkerd.io/" in key for key in {**stack.annotations, **space})
        or any(item["apiVersion"].startswith(routes.POLICY) for item in stack.objects)
        or bool(routes.attached(stack, "Service"))
        or bool(stack.of("EnvoyProxy"))
    )


def pods_are_in_the_mesh(stack: Stack) -> Iterator[str]:
    """By their own word, with requests that an autoscaler and a scheduler can count with."""
    if not meshed(stack):
        return
    if not stack.injected:
        yield f"the pods' {INJECT} is {stack.annotations.get(INJECT)}"
    space = stack.one("Namespace").get("metadata", {}).get("annotations", {})
    if space.get(INJECT) != "enabled":
        yield f"the namespace's {INJECT} is {space.get(INJECT)}: callers in it have no identity"
    for resource in ("cpu", "memory"):
        if f"{CONFIG}proxy-{resource}-request" not in stack.annotations:
            yield f"the proxy requests no {resource}"
    if stack.annotations.get(f"{CONFIG}proxy-enable-native-sidecar", "true") != "true":
        yield "the proxy is no native sidecar: it may end before the server"


def connections_do_not_age(stack: Stack) -> Iterator[str]:
    """A request on its way while the server ends the proxy's connection fails, and not UNAVAILABLE."""
    if given := stack.flags.get("grpc_channel_arguments") if stack.injected else None:
        yield f"--grpc_channel_arguments={given}: the proxy's connections to the server end"


def no_port_is_skipped(stack: Stack) -> Iterator[str]:
    """A skipped port has no identity and no policy, an opaque one is balanced by connection."""
    places = {
        "the pods": stack.annotations,
        **{
            f"{item['kind']} {name_of(item)}": item["metadata"].get("annotations", {})
            for item in [*stack.of("Namespace"), *stack.of("Service")]
        },
    }
    for place, given in places.items():
        for name in SKIPPED:
            if f"{CONFIG}{name}" in given:
                yield f"{place}: {CONFIG}{name}: {given[CONFIG + name]}"


def every_port_says_its_protocol(stack: Stack) -> Iterator[str]:
    """Without, Linkerd waits for bytes to guess by; with one it doesn't know, it never looks."""
    if not meshed(stack):
        return
    for service in stack.of("Service"):
        for port in service["spec"]["ports"]:
            if port.get("appProtocol") not in PROTOCOLS:
                yield (
                    f"Service {name_of(service)}, port {port['port']}: appProtocol "
                    f"{port.get('appProtocol')} is none of {sorted(PROTOCOLS)}"
                )


def no_service_profile(stack: Stack) -> Iterator[str]:
    """One of them switches off every route, retry, timeout and breaker of its Service."""
    for item in stack.of("ServiceProfile"):
        yield f"ServiceProfile {name_of(item)} overrides the routes"


def routes_name_services_and_ports(stack: Stack) -> Iterator[str]:
    """A parent without a port is every port; a backend without one is refused by the webhook."""
    services = {
        name_of(item): {port["port"] for port in item["spec"]["ports"]}
        for item in stack.of("Service")
    }
    for route in routes.routes(stack):
        own = routes.title(route)
        places = [
            *(("parent", item) for item in routes.parents(route, "Service")),
            *(("backend", item) for item in routes.backends(route)),
        ]
        for place, item in places:
            if item.get("kind", "Service") != "Service" or item.get("group", "") not in {
                "",
                "core",
            }:
                yield f"{own}: {place} {item['name']} is no Service"
            if place == "parent" and "group" not in item:
                yield f"{own}: {place} {item['name']}: without `group: ''` it is no Service"
            if item.get("namespace", stack.home) != stack.home:
                yield f"{own}: {place} {item['name']} is in {item['namespace']}"
            if "port" not in item:
                yield f"{own}: {place} {item['name']} has no port"
            elif item["port"] not in services.get(item["name"], set()):
                yield f"{own}: {place} {item['name']}:{item['port']} is no port of a Service here"
        for rule in routes.rules_of(route):
            if not rule.get("backendRefs") and not routes.parents(route, "Server"):
                yield f"{own}: a rule without a backend"


def matches_name_an_rpc(stack: Stack) -> Iterator[str]:
    """Linkerd's webhook sees every route of the cluster, an ingress's too.

    A match of headers alone makes a proxy throw away all it knows of the Service.
    """
    for route in stack.of("GRPCRoute"):
        for rule in routes.rules_of(route):
            for item in rule.get("matches", []):
                method = item.get("method", {})
                if not {"service", "method"} & method.keys():
                    yield f"{routes.title(route)}: a match without service and method: {item}"
                if method.get("type", "Exact") != "Exact":
                    yield f"{routes.title(route)}: the method is matched by {method['type']}"


def every_routed_port_has_a_catch_all(stack: Stack) -> Iterator[str]:
    """What no route of a port matches is NOT_FOUND; of two kinds of routes one is not read."""
    ports: dict[tuple[str, int], list[routes.Object]] = {}
    for route in routes.attached(stack, "Service"):
        for parent in routes.parents(route, "Service"):
            ports.setdefault((parent["name"], parent.get("port", 0)), []).append(route)
    for (service, port), there in ports.items():
        rules = [rule for route in there for rule in routes.rules_of(route)]
        if not any(routes.takes_everything(rule) for rule in rules):
            yield f"{service}:{port}: no route takes what the others don't match"
        kinds = {route["kind"] for route in there}
        if len(kinds) > 1:
            yield f"{service}:{port} has a {' and a '.join(sorted(kinds))}: one is ignored"


def routes_do_only_what_linkerd_does(stack: Stack) -> Iterator[str]:
    """It mirrors nothing and has no extensions; such a rule answers with an error."""
    for route in [*routes.attached(stack, "Service"), *routes.attached(stack, "Server")]:
        for rule in routes.rules_of(route):
            places = [rule, *rule.get("backendRefs", [])]
            for item in (item for place in places for item in place.get("filters", [])):
                if item["type"] in {"RequestMirror", "ExtensionRef"}:
                    yield f"{routes.title(route)}: filter {item['type']}"
            if "sessionPersistence" in rule:
                yield f"{routes.title(route)}: sessionPersistence"


def retries_are_written_as_linkerd_reads_them(stack: Stack) -> Iterator[str]:
    """The parser wants no spaces, and a unit after every time; the last try needs time, too."""
    for item in [*routes.routes(stack), *stack.of("Service")]:
        own = f"{item['kind']} {name_of(item)}"
        given = {
            key.removeprefix(RETRY): value
            for key, value in item["metadata"].get("annotations", {}).items()
            if key.startswith(RETRY)
        }
        if given and not routes.parents(item, "Service"):
            yield f"{own}: retries are read from a route of a Service only"
        for family, kind in (("grpc", "GRPCRoute"), ("http", "HTTPRoute")):
            if family in given and item["kind"] != kind:
                yield f"{own}: {RETRY}{family} is not read here"
        for code in given.get("grpc", "unavailable").split(","):
            if code not in RETRIED_CODES:
                yield f"{own}: {RETRY}grpc has {code!r}, which is none of {sorted(RETRIED_CODES)}"
        for code in given.get("http", "502").split(","):
            if not re.fullmatch(r"5xx|gateway-error|[45]\d\d(-[45]\d\d)?", code):
                yield f"{own}: {RETRY}http has {code!r}"
        times = {
            key: value
            for key, value in item["metadata"].get("annotations", {}).items()
            if key.startswith(TIMEOUT) or key == f"{RETRY}timeout"
        }
        for key, value in times.items():
            if not re.fullmatch(r"\d+(ms|s|m)", value):
                yield f"{own}: {key} is {value!r}, without a unit"
        if not {"grpc", "http"} & given.keys():
            continue
        limit = given.get("limit", "")
        if not re.fullmatch(r"[1-9]", limit) or "timeout" not in given:
            yield f"{own}: retries without a limit, or without a time for each try"
        elif (before := int(limit) * seconds(given["timeout"])) >= DEADLINE:
            yield f"{own}: the last try begins after {before:g} s, a caller waits {DEADLINE} s"


def seconds(text: str) -> float:
    """A time such as 500ms in seconds; one that can't be read is endless."""
    found = re.fullmatch(r"(\d+)(ms|s|m)", text)
    return int(found[1]) * {"ms": 0.001, "s": 1, "m": 60}[found[2]] if found else float("inf")


def nothing_is_retried_that_may_not_be(stack: Stack) -> Iterator[str]:
    """Annotations hold for a whole route: with one, it takes what changes nothing and no more."""
    for route in routes.attached(stack, "Service"):
        if not any(key.startswith(RETRY) for key in route["metadata"].get("annotations", {})):
            continue
        if any(routes.takes_everything(rule) for rule in routes.rules_of(route)):
            yield f"{routes.title(route)}: everything is retried"
        for request in sorted(OTHER_REQUESTS):
            if routes.closeness(route, request) >= 0:
                yield f"{routes.title(route)}: {request} is retried"
    for service in stack.of("Service"):
        if any(key.startswith(RETRY) for key in service["metadata"].get("annotations", {})):
            yield f"Service {name_of(service)}: everything is retried"


def what_may_be_retried_is(stack: Stack) -> Iterator[str]:
    """Every request of a caller is one that may be asked twice."""
    for kind, wanted in (("GRPCRoute", routes.CALLER_RPCS), ("HTTPRoute", routes.CALLER_REST)):
        there = [item for item in routes.attached(stack, "Service") if item["kind"] == kind]
        for request in sorted(wanted) if there else ():
            route = routes.closest(there, request)
            if route is None or not any(
                key.startswith(RETRY) for key in route["metadata"].get("annotations", {})
            ):
                yield f"{request} is not retried: {routes.title(route) if route else 'no route'}"


def weights_are_in_one_place(stack: Stack) -> Iterator[str]:
    """A share of an ingress's share is nobody's intention."""
    split = {
        kind: [
            routes.title(route)
            for route in routes.attached(stack, kind)
            if any("weight" in item for item in routes.backends(route))
            or any(len(rule.get("backendRefs", [])) > 1 for rule in routes.rules_of(route))
        ]
        for kind in ("Service", "Gateway")
    }
    if all(split.values()):
        yield f"weights in the mesh ({split['Service']}) and at the ingress ({split['Gateway']})"


def the_network_lets_the_mesh_through(stack: Stack) -> Iterator[str]:
    """Between proxies everything is on one port; a proxy without its control plane never starts."""
    policies = stack.of("NetworkPolicy")
    labels = stack.deployment["template"]["metadata"]["labels"]
    if not policies or not meshed(stack):
        return
    inward: dict[int, list[dict[str, dict]]] = {}
    outward: dict[str, set[int]] = {}
    for policy in policies:
        selected = policy["spec"]["podSelector"].get("matchLabels", {})
        if not selected.items() <= labels.items():
            continue
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                inward.setdefault(port["port"], []).extend(rule.get("from", [{}]))
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                space = peer.get("namespaceSelector", {}).get("matchLabels", {})
                outward.setdefault(space.get("kubernetes.io/metadata.name", ""), set()).update(
                    port["port"] for port in rule.get("ports", [])
                )
    if missing := CONTROL_PLANE - outward.get("linkerd", set()):
        yield f"the pods can't reach the control plane's {sorted(missing)}"
    for port, whose in ((INBOUND, "callers"), (ADMIN, "Prometheus")):
        if port not in inward:
            yield f"{whose} can't reach the proxy's port {port}"
    for proxy in stack.of("EnvoyProxy"):
        pod = proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]["pod"]
        if not any(
            # From another namespace: a peer without a selector of those is this one.
            "namespaceSelector" in peer
            and peer["namespaceSelector"].get("matchLabels", {}) == {}
            and peer.get("podSelector", {}).get("matchLabels", {}).items()
            <= pod.get("labels", {}).items()
            for peer in inward.get(INBOUND, [])
        ):
            yield f"the pods of EnvoyProxy {name_of(proxy)} can't reach the proxies' port {INBOUND}"


RULES = (
    pods_are_in_the_mesh,
    connections_do_not_age,
    no_port_is_skipped,
    every_port_says_its_protocol,
    no_service_profile,
    routes_name_services_and_ports,
    matches_name_an_rpc,
    every_routed_port_has_a_catch_all,
    routes_do_only_what_linkerd_does,
    retries_are_written_as_linkerd_reads_them,
    nothing_is_retried_that_may_not_be,
    what_may_be_retried_is,
    weights_are_in_one_place,
    the_network_lets_the_mesh_through,
)
