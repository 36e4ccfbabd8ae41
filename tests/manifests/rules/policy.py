"""Who may: Linkerd's Servers, their routes, and who is let in.

Nothing here holds a pod to have a policy. Where there is a Server, all of it has to fit together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.manifests.build import Object
from tests.manifests.rules import routes
from tests.manifests.rules.mesh import CONFIG
from tests.manifests.rules.routes import Request
from tests.manifests.rules.stack import Stack, name_of
from tests.manifests.rules.workload import PROBES

DEFAULT = f"{CONFIG}default-inbound-policy"
# The container's port that only the kubelet asks, and the proxy's own.
PROBE, PROXY_ADMIN = "probe", "linkerd-admin"
# Where Envoy Gateway runs its proxies, whatever the overlay's namespace is.
GATEWAY_NAMESPACE = "envoy-gateway-system"
# Accounts of the overlay's own namespace, and namespaces of others that may be let in.
OWN = {"model-client", "model-admin", "web", "jupyter"}
OTHERS = {GATEWAY_NAMESPACE, "monitoring", "linkerd-viz"}
CLIENTS, ADMINS, PROMETHEUS = "model-clients", "model-admins", "prometheus"
# port: the requests that may come, and the one authentication that lets each in.
WHO: dict[str, dict[Request, str]] = {
    "grpc": {
        **dict.fromkeys(routes.CALLER_RPCS, CLIENTS),
        **dict.fromkeys(routes.ADMIN_RPCS, ADMINS),
    },
    "rest": {
        **dict.fromkeys(routes.CALLER_REST, CLIENTS),
        **dict.fromkeys(routes.ADMIN_REST, ADMINS),
        routes.METRICS_REST: PROMETHEUS,
    },
    "grpc-health": {routes.rpc("grpc.health.v1.Health", "Check"): CLIENTS},
    "metrics": {Request("GET", "/metrics"): PROMETHEUS},
    PROXY_ADMIN: {Request("GET", "/metrics"): PROMETHEUS},
}


def port_name(stack: Stack, server: Object) -> str:
    """What the port of a Server is called in the pods; empty if they have none such."""
    port = server["spec"]["port"]
    if port == PROXY_ADMIN:
        return PROXY_ADMIN
    return (
        stack.ports.get(port, "")
        if isinstance(port, int)
        else port * (port in set(stack.ports.values()))
    )


def routes_of(stack: Stack, server: Object) -> list[Object]:
    """The routes that are attached to a Server."""
    return [
        route
        for route in routes.attached(stack, "Server")
        if any(item["name"] == name_of(server) for item in routes.parents(route, "Server"))
    ]


def policies_of(stack: Stack, kind: str, name: str) -> list[Object]:
    """The AuthorizationPolicies for a Server or a route."""
    return [
        item
        for item in stack.of("AuthorizationPolicy")
        if (item["spec"]["targetRef"]["kind"], item["spec"]["targetRef"]["name"]) == (kind, name)
    ]


def let_in(stack: Stack, server: Object, request: Request) -> set[str]:
    """The authentications of which each lets a request in; `nobody` and `anybody` are names, too."""
    places = [("Server", name_of(server))]
    if there := routes_of(stack, server):
        route = routes.closest(there, request)
        if route is None:
            return {"nobody (NOT_FOUND)"}
        places.append((route["kind"], name_of(route)))
    found = set()
    for place in places:
        for item in policies_of(stack, *place):
            required = item["spec"]["requiredAuthenticationRefs"]
            found.add("+".join(sorted(ref["name"] for ref in required)) or "anybody")
    return found or {"nobody"}


def references(stack: Stack) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every account that is named by an authentication or a rate limit, and by which."""
    for item in stack.of("MeshTLSAuthentication"):
        for ref in item["spec"].get("identityRefs", []):
            yield f"MeshTLSAuthentication {name_of(item)}", ref
    for item in stack.of("HTTPLocalRateLimitPolicy"):
        for override in item["spec"].get("overrides", []):
            for ref in override["clientRefs"]:
                yield f"HTTPLocalRateLimitPolicy {name_of(item)}", ref


def no_network_is_an_identity(stack: Stack) -> Iterator[str]:
    """The kubelet's network is everybody's on the node; probes need none, on a port of their own."""
    for item in stack.of("NetworkAuthentication"):
        yield f"NetworkAuthentication {name_of(item)} lets in without an identity"


def nobody_is_let_in_by_default(stack: Stack) -> Iterator[str]:
    """Everything denied or, for the day of introduction, everything audited; not a part of it."""
    servers = stack.of("Server")
    if not servers:
        return
    said = {f"Server {name_of(item)}": item["spec"].get("accessPolicy", "deny") for item in servers}
    said["the pods"] = stack.annotations.get(DEFAULT, "nothing")
    space = stack.one("Namespace")["metadata"].get("annotations", {})
    said["the namespace"] = space.get(DEFAULT, "nothing")
    if set(said.values()) not in ({"deny"}, {"audit"}):
        yield f"not all deny, nor all audit: {said}"


def every_port_has_one_server(stack: Stack) -> Iterator[str]:
    """Of the pods' ports and the proxy's own; of the stable pods and of a canary's."""
    servers = stack.of("Server")
    if not servers:
        return
    labels = stack.deployment["template"]["metadata"]["labels"]
    covered: dict[str, list[str]] = {}
    for item in servers:
        own, selector = f"Server {name_of(item)}", item["spec"]["podSelector"]["matchLabels"]
        if not selector.items() <= labels.items():
            yield f"{own} selects {selector}, the pods have {labels}"
        if {"track", "app.kubernetes.io/version"} & selector.keys():
            yield f"{own} selects {selector}: a canary has another"
        if not (port := port_name(stack, item)):
            yield f"{own}: no container has the port {item['spec']['port']}"
        covered.setdefault(port, []).append(own)
    for name in [*stack.ports.values(), PROXY_ADMIN]:
        there = covered.get(name, [])
        if name == PROBE and there:
            yield f"{there[0]} takes the kubelet's leave to ask {PROBE}"
        if name != PROBE and len(there) != 1:
            yield f"port {name} has {len(there)} Servers"


def the_kubelet_needs_no_leave(stack: Stack) -> Iterator[str]:
    """Linkerd lets probes by httpGet in, where no Server has routes, and none by gRPC.

    Hooks never: `workload.hooks_pass_a_mesh`.
    """
    if not stack.of("Server"):
        return
    routed = {port_name(stack, item) for item in stack.of("Server") if routes_of(stack, item)}
    for name, container in stack.containers.items():
        for probe in (item for item in PROBES if item in container):
            if "grpc" in container[probe]:
                yield f"{name}: {probe} by gRPC is refused"
            port = container[probe].get("httpGet", {}).get("port")
            if stack.ports.get(port, port) in routed:
                yield f"{name}: {probe} asks port {port}, whose routes are for named callers"


def a_limited_server_is_not_grpc(stack: Stack) -> Iterator[str]:
    """Linkerd counts nothing on such a Server, though it says Accepted."""
    for item in stack.of("HTTPLocalRateLimitPolicy"):
        name = item["spec"]["targetRef"]["name"]
        server = stack.named("Server", name)
        if server.get("spec", {}).get("proxyProtocol") == "gRPC":
            yield f"Server {name} is gRPC: HTTPLocalRateLimitPolicy {name_of(item)} has no effect"
        for route in routes_of(stack, server) if server else ():
            if route["kind"] == "GRPCRoute":
                yield f"Server {name} has a GRPCRoute: {name_of(item)} has no effect"


def both_ways_in_are_limited(stack: Stack) -> Iterator[str]:
    """gRPC and REST, each caller by itself, and nobody above what all have together."""
    if not stack.of("Server"):
        return
    limits = {
        item["spec"]["targetRef"]["name"]: item for item in stack.of("HTTPLocalRateLimitPolicy")
    }
    servers = {name_of(item): port_name(stack, item) for item in stack.of("Server")}
    for missing in {"grpc", "rest"} - {servers.get(name) for name in limits}:
        yield f"requests on port {missing} are not limited"
    if len(limits) != len(stack.of("HTTPLocalRateLimitPolicy")):
        yield "two rate limits for one Server"
    for target, item in limits.items():
        own, spec = f"HTTPLocalRateLimitPolicy {name_of(item)}", item["spec"]
        if target not in servers:
            yield f"{own}: there is no Server {target}"
        if "identity" not in spec:
            yield f"{own}: one caller may take everything"
            continue
        each = spec["identity"]["requestsPerSecond"]
        total = spec.get("total", {}).get("requestsPerSecond", each)
        others = [override["requestsPerSecond"] for override in spec.get("overrides", [])]
        if max([each, *others]) > total:
            yield f"{own}: {max([each, *others])} a second for one, {total} for all"


def policies_name_what_exists(stack: Stack) -> Iterator[str]:
    """One that names what isn't there lets nobody in, and says so nowhere."""
    for item in stack.of("AuthorizationPolicy"):
        refs = [item["spec"]["targetRef"], *item["spec"]["requiredAuthenticationRefs"]]
        for ref in refs:
            there = stack.named(ref["kind"], ref["name"])
            if not there or there["apiVersion"].partition("/")[0] != ref.get("group"):
                yield (
                    f"AuthorizationPolicy {name_of(item)}: there is no "
                    f"{ref['kind']}.{ref.get('group', '')} {ref['name']}"
                )
            if ref.get("namespace", stack.home) != stack.home:
                yield f"AuthorizationPolicy {name_of(item)}: {ref['name']} in {ref['namespace']}"
        if not item["spec"]["requiredAuthenticationRefs"]:
            yield f"AuthorizationPolicy {name_of(item)} lets everybody in"
    for route in routes.attached(stack, "Server"):
        for parent in routes.parents(route, "Server"):
            if parent.get("group") != routes.POLICY or not stack.named("Server", parent["name"]):
                yield f"{routes.title(route)}: there is no Server {parent['name']}"


def all_is_authorized_where_it_is_routed(stack: Stack) -> Iterator[str]:
    """A Server either has routes, each with a policy, or a policy of its own.

    A Server's own policy would hold for all of its routes.
    """
    for server in stack.of("Server"):
        there, own = routes_of(stack, server), policies_of(stack, "Server", name_of(server))
        if there and own:
            yield f"AuthorizationPolicy {name_of(own[0])} opens every route of {name_of(server)}"
        if not there and len(own) != 1:
            yield f"Server {name_of(server)} has no routes and {len(own)} policies"
        for route in there:
            if len(policies_of(stack, route["kind"], name_of(route))) != 1:
                yield f"{routes.title(route)} has not one policy"


def requests_are_for_whom_they_are_meant(stack: Stack) -> Iterator[str]:
    """Request by request: predictions for callers, metrics for Prometheus, the rest for admins."""
    for server in stack.of("Server"):
        for request, who in sorted(WHO.get(port_name(stack, server), {}).items()):
            if (found := let_in(stack, server, request)) != {who}:
                yield f"{name_of(server)}: {request} is for {', '.join(sorted(found))}, not {who}"


def the_lists_of_rpcs_agree(stack: Stack) -> Iterator[str]:
    """What is retried is what a caller may ask; what the ingress lets in is a part of that."""
    lists = {
        name: set(routes.named_rpcs(stack.named(kind, name)))
        for kind, name in (
            ("HTTPRoute", "server-grpc-inference"),
            ("GRPCRoute", "retried-grpc"),
            ("GRPCRoute", "ingress-grpc"),
        )
        if stack.named(kind, name)
    }
    wanted = {"ingress-grpc": routes.PUBLIC_RPCS}
    for name, found in lists.items():
        if found != (right := wanted.get(name, routes.CALLER_RPCS)):
            words = ", ".join(str(item) for item in sorted(found ^ right))
            yield f"{name} has too much or too little: {words}"


def identities_are_where_they_run(stack: Stack) -> Iterator[str]:
    """`namespace:` in a kustomization does not reach them: none for our own, one for others'."""
    for owner, ref in references(stack):
        name, space = ref.get("name", ""), ref.get("namespace")
        if space is None and name not in OWN:
            yield f"{owner}: {name or 'every account'} of this namespace is nobody we know"
        if space is not None and (name in OWN or space not in OTHERS or not name):
            yield f"{owner}: {name or 'every account'} in {space}"
    for item in stack.of("MeshTLSAuthentication"):
        if "identities" in item["spec"]:
            yield f"MeshTLSAuthentication {name_of(item)} names trust domain and namespace"
    named = {
        name_of(item): [
            (ref.get("namespace"), ref.get("name")) for ref in item["spec"].get("identityRefs", [])
        ]
        for item in stack.of("MeshTLSAuthentication")
    }
    if named and named.get(ADMINS) != [(None, "model-admin")]:
        yield f"{ADMINS} are {named.get(ADMINS)}"
    if named and (None, "model-admin") not in named.get(CLIENTS, []):
        yield f"an administrator is none of {CLIENTS}"
    for account in ("model-client", "model-admin") if named else ():
        if not stack.named("ServiceAccount", account):
            yield f"there is no ServiceAccount {account}"


def the_ingress_is_a_caller(stack: Stack) -> Iterator[str]:
    """With the account that it runs as, more a second than one caller, and only where it is."""
    accounts = {
        (GATEWAY_NAMESPACE, item["spec"]["provider"]["kubernetes"]["envoyServiceAccount"]["name"])
        for item in stack.of("EnvoyProxy")
        if "name" in item["spec"]["provider"]["kubernetes"].get("envoyServiceAccount", {})
    }
    if not stack.of("Server"):
        return
    clients = stack.named("MeshTLSAuthentication", CLIENTS).get("spec", {}).get("identityRefs", [])
    found = {
        (item.get("namespace"), item["name"])
        for item in clients
        if item.get("namespace") == GATEWAY_NAMESPACE
    }
    if found != accounts:
        yield f"{CLIENTS} has {sorted(found)} of the ingress, which runs as {sorted(accounts)}"
    for limit in stack.of("HTTPLocalRateLimitPolicy"):
        own = f"HTTPLocalRateLimitPolicy {name_of(limit)}"
        each = limit["spec"].get("identity", {}).get("requestsPerSecond", 0)
        over = {
            (ref.get("namespace"), ref["name"]): item["requestsPerSecond"]
            for item in limit["spec"].get("overrides", [])
            for ref in item["clientRefs"]
        }
        for account in accounts:
            if over.get(account, 0) <= each:
                yield f"{own}: the ingress, which is many callers, gets no more than one"
        for account in over.keys() - accounts:
            if account[0] == GATEWAY_NAMESPACE:
                yield f"{own}: nobody runs as {account[1]}"


RULES = (
    no_network_is_an_identity,
    nobody_is_let_in_by_default,
    every_port_has_one_server,
    the_kubelet_needs_no_leave,
    a_limited_server_is_not_grpc,
    both_ways_in_are_limited,
    policies_name_what_exists,
    all_is_authorized_where_it_is_routed,
    requests_are_for_whom_they_are_meant,
    the_lists_of_rpcs_agree,
    identities_are_where_they_run,
    the_ingress_is_a_caller,
)
