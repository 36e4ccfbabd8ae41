"""Routes, as Linkerd and Envoy read them: what a route is attached to and what it matches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.manifests.build import Object
from tests.manifests.rules.stack import Stack, name_of

KINDS = ("GRPCRoute", "HTTPRoute")
GATEWAY_API = "gateway.networking.k8s.io"
POLICY = "policy.linkerd.io"

_PREDICTION = "tensorflow.serving.PredictionService"
_MODEL = "tensorflow.serving.ModelService"


class Request(NamedTuple):
    """A request as a route sees it; an RPC is a POST of its path."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def rpc(service: str, method: str) -> Request:
    """The request that an RPC is."""
    return Request("POST", f"/{service}/{method}")


# What the world may ask through the ingress.
PUBLIC_RPCS = frozenset(
    {
        *(
            rpc(_PREDICTION, name)
            for name in ("Predict", "Classify", "Regress", "GetModelMetadata")
        ),
        rpc(_MODEL, "GetModelStatus"),
    }
)
# What a named caller inside may ask: these change nothing, so that they may be retried, too.
CALLER_RPCS = PUBLIC_RPCS | {rpc(_PREDICTION, "MultiInference")}
# For an administrator, and never retried; the last ones stand for all that nobody has named.
ADMIN_RPCS = frozenset(
    {
        rpc(_MODEL, "HandleReloadConfigRequest"),
        rpc(_PREDICTION, "Unknown"),
        rpc("grpc.health.v1.Health", "Check"),
        rpc("tensorflow.serving.SessionService", "SessionRun"),
        # Near misses of a name that is allowed.
        rpc(_PREDICTION, "PredictX"),
        rpc(f"x.{_PREDICTION}", "Predict"),
        Request("GET", f"/{_PREDICTION}/Predict"),
        Request("POST", f"/{_PREDICTION}/Predict/x"),
    }
)
_MODELS = ("/v1/models/chopstick", "/v1/models/other/versions/7", "/v1/models/other/labels/stable")
CALLER_REST = frozenset(
    {Request("GET", f"{model}{suffix}") for model in _MODELS for suffix in ("", "/metadata")}
    | {
        Request("POST", f"{model}:{verb}")
        for model in _MODELS
        for verb in ("predict", "classify", "regress")
    }
)
ADMIN_REST = frozenset(
    {
        Request("POST", "/v1/models/chopstick"),
        Request("POST", "/v1/models/chopstick:reload"),
        Request("POST", "/v1/models/chopstick:predict/x"),
        Request("POST", "/v1/config/reload"),
        Request("DELETE", "/v1/models/chopstick"),
        Request("GET", "/v1/models/chopstick:predict"),
        Request("GET", "/v1/models"),
        Request("GET", "/x/v1/models/chopstick"),
        Request("GET", "/"),
    }
)
METRICS_REST = Request("GET", "/monitoring/prometheus/metrics")


def title(route: Object) -> str:
    """What a route is called in a finding."""
    return f"{route['kind']} {name_of(route)}"


def routes(stack: Stack) -> list[Object]:
    """Every route, whatever it is attached to."""
    return [item for kind in KINDS for item in stack.of(kind)]


def parents(route: Object, kind: str) -> list[dict[str, Any]]:
    """Those of a route's parents that are of a kind; one that names no kind is a Gateway."""
    return [
        item for item in route["spec"].get("parentRefs", []) if item.get("kind", "Gateway") == kind
    ]


def attached(stack: Stack, kind: str) -> list[Object]:
    """Routes with a parent of a kind: of a Service, the mesh's; of a Server, the policy's."""
    return [route for route in routes(stack) if parents(route, kind)]


def rules_of(route: Object) -> list[dict[str, Any]]:
    """A route's rules."""
    return route["spec"].get("rules", [])


def backends(route: Object) -> list[dict[str, Any]]:
    """Every backend of a route."""
    return [item for rule in rules_of(route) for item in rule.get("backendRefs", [])]


def takes_everything(rule: dict[str, Any]) -> bool:
    """Whether a rule is a catch-all."""
    return any(
        item in ({}, {"path": {"type": "PathPrefix", "value": "/"}})
        for item in rule.get("matches") or [{}]
    )


def closeness(route: Object, request: Request) -> int:
    """How many characters of the path a route's closest match fixes; below zero, none matches."""
    found = [-1]
    for rule in rules_of(route):
        for item in rule.get("matches") or [{}]:
            if item.get("headers") or item.get("queryParams"):
                continue  # of these requests nothing but method and path is known
            of = _rpc_closeness if route["kind"] == "GRPCRoute" else _http_closeness
            found.append(of(item, request))
    return max(found)


def _rpc_closeness(item: dict[str, Any], request: Request) -> int:
    _, service, method = [*request.path.split("/"), "", ""][:3]
    wanted = item.get("method", {})
    for name, value in (("service", service), ("method", method)):
        if wanted.get(name, value) != value:
            return -1
    if request.method != "POST" or request.path.count("/") != 2:
        return -1
    return sum(len(value) for value in wanted.values())


def _http_closeness(item: dict[str, Any], request: Request) -> int:
    if item.get("method", request.method) != request.method:
        return -1
    path = item.get("path", {"type": "PathPrefix", "value": "/"})
    value = path.get("value", "/")
    match path.get("type", "PathPrefix"):
        case "Exact":
            return len(value) if request.path == value else -1
        case "RegularExpression":
            # Both proxies want the whole path.
            return len(request.path) if re.fullmatch(value, request.path) else -1
        case _:
            # Whole segments.
            start = value.rstrip("/")
            inside = request.path == start or request.path.startswith(f"{start}/")
            return len(value) if inside else -1


def closest(among: Iterable[Object], request: Request) -> Object | None:
    """The route that takes a request, of those at one place; None if none does."""
    found = [(closeness(route, request), route) for route in among]
    best, route = max(found, key=lambda pair: pair[0], default=(-1, None))
    return route if best >= 0 else None


def named_rpcs(route: Object) -> Iterator[Request]:
    """The RPCs that a route names one by one, by GRPCRoute or by exact path."""
    for rule in rules_of(route):
        for item in rule.get("matches", []):
            method, path = item.get("method"), item.get("path", {})
            if isinstance(method, dict) and {"service", "method"} <= method.keys():
                yield rpc(method["service"], method["method"])
            elif path.get("type") == "Exact":
                yield Request(item.get("method", ""), path["value"])
