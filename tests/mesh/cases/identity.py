"""4: who may ask what. `TABLE` is the policy as a caller sees it, and what the case asks and compares."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.cluster.cluster import restarts
from tests.cluster.stack import NAME, Stack
from tests.mesh.dialogue import Talk, talk_with, talking, until, wait_ready, waiting
from tests.mesh.suite import PROD, MeshContext, case

# One row a request, one column a caller. gRPC's names and HTTP's numbers; `-`: the ingress has no
# such port. What isn't PERMISSION_DENIED or 403 has reached the server, or is the ingress's own word:
# UNAUTHENTICATED and 401 without a key, UNIMPLEMENTED and 404 for what it does not route.
# `other` is meshed and called model-client, in another namespace; `outside` and `no key` come by the
# ingress.
TABLE = """
request                | outside          | no key          | model-client      | model-admin       | other             | unmeshed          | host network
Predict                | OK               | UNAUTHENTICATED | OK                | OK                | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
Classify               | OK               | UNAUTHENTICATED | OK                | OK                | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
Regress                | INVALID_ARGUMENT | UNAUTHENTICATED | INVALID_ARGUMENT  | INVALID_ARGUMENT  | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
MultiInference         | UNIMPLEMENTED    | UNIMPLEMENTED   | OK                | OK                | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
GetModelMetadata       | OK               | UNAUTHENTICATED | OK                | OK                | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
GetModelStatus         | OK               | UNAUTHENTICATED | OK                | OK                | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
reload                 | UNIMPLEMENTED    | UNIMPLEMENTED   | PERMISSION_DENIED | INVALID_ARGUMENT  | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
SessionRun             | UNIMPLEMENTED    | UNIMPLEMENTED   | PERMISSION_DENIED | UNIMPLEMENTED     | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
unknown RPC            | UNIMPLEMENTED    | UNIMPLEMENTED   | PERMISSION_DENIED | UNIMPLEMENTED     | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
unknown service        | UNIMPLEMENTED    | UNIMPLEMENTED   | PERMISSION_DENIED | UNIMPLEMENTED     | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
health (8504)          | -                | -               | OK                | OK                | PERMISSION_DENIED | PERMISSION_DENIED | PERMISSION_DENIED
predict                | 200              | 401             | 200               | 200               | 403               | 403               | 403
predict by version     | 200              | 401             | 200               | 200               | 403               | 403               | 403
predict by label       | 400              | 401             | 400               | 400               | 403               | 403               | 403
classify               | 200              | 401             | 200               | 200               | 403               | 403               | 403
regress                | 400              | 401             | 400               | 400               | 403               | 403               | 403
status                 | 200              | 401             | 200               | 200               | 403               | 403               | 403
status by version      | 200              | 401             | 200               | 200               | 403               | 403               | 403
metadata               | 200              | 401             | 200               | 200               | 403               | 403               | 403
metadata by version    | 200              | 401             | 200               | 200               | 403               | 403               | 403
server metrics         | 404              | 404             | 403               | 403               | 403               | 403               | 403
unknown path           | 404              | 404             | 403               | 404               | 403               | 403               | 403
wrong method           | 404              | 404             | 403               | 400               | 403               | 403               | 403
/readyz (8502)         | -                | -               | 200               | 200               | 200               | 200               | 200
/drain (8502)          | -                | -               | 403               | 403               | 403               | 403               | 403
sidecar metrics (8503) | -                | -               | 403               | 403               | 403               | 403               | 403
proxy metrics (4191)   | -                | -               | 403               | 403               | 403               | 403               | 403
"""
NOT_ASKED = "-"
INGRESS = ("outside", "no key")

PREDICT = {"instances": [{"chopstick_length": [240.0]}]}
CLASSIFY = {"signature_name": "classify", "examples": [{"chopstick_length": 240.0}]}


@dataclass(frozen=True)
class Request:
    """One row: an RPC or a path, of the Service or, by `port`, of a pod."""

    what: str
    method: str = ""
    """Of REST; an RPC without it."""
    body: dict[str, Any] | None = None
    port: int = 0


REQUESTS = {
    "Predict": Request("Predict"),
    "Classify": Request("Classify"),
    "Regress": Request("Regress"),
    "MultiInference": Request("MultiInference"),
    "GetModelMetadata": Request("GetModelMetadata"),
    "GetModelStatus": Request("GetModelStatus"),
    "reload": Request("HandleReloadConfigRequest"),
    "SessionRun": Request("/tensorflow.serving.SessionService/SessionRun"),
    "unknown RPC": Request("/tensorflow.serving.PredictionService/Nothing"),
    "unknown service": Request("/nobody.Knows/This"),
    "health (8504)": Request("/grpc.health.v1.Health/Check", port=8504),
    "predict": Request("/v1/models/chopstick:predict", "POST", PREDICT),
    "predict by version": Request("/v1/models/chopstick/versions/1:predict", "POST", PREDICT),
    # The server knows no label: its own 400.
    "predict by label": Request("/v1/models/chopstick/labels/stable:predict", "POST", PREDICT),
    "classify": Request("/v1/models/chopstick:classify", "POST", CLASSIFY),
    "regress": Request("/v1/models/chopstick:regress", "POST", CLASSIFY),
    "status": Request("/v1/models/chopstick", "GET"),
    "status by version": Request("/v1/models/chopstick/versions/1", "GET"),
    "metadata": Request("/v1/models/chopstick/metadata", "GET"),
    "metadata by version": Request("/v1/models/chopstick/versions/1/metadata", "GET"),
    "server metrics": Request("/monitoring/prometheus/metrics", "GET"),
    "unknown path": Request("/nothing", "GET"),
    "wrong method": Request("/v1/models/chopstick:predict", "DELETE"),
    "/readyz (8502)": Request("/readyz", "GET", port=8502),
    "/drain (8502)": Request("/drain", "GET", port=8502),
    "sidecar metrics (8503)": Request("/metrics", "GET", port=8503),
    "proxy metrics (4191)": Request("/metrics", "GET", port=4191),
}

BREAKER = "balancer.linkerd.io/failure-accrual-consecutive-max-failures"
# More than a caller is refused here; the breaker has a case of its own.
NEVER = "1000"
MOST_TRIES = 10
HAMMER_SECONDS = 15.0
# A change of a policy has reached the proxies long before.
NOTICED_SECONDS = 30.0


@case("identity", "who may ask what: every RPC and path, by every kind of caller")
def identity(context: MeshContext) -> None:
    stack = context.serving()
    context.ingress.wait_ready()
    header, expected = _expected()
    before = {pod.metadata.name: restarts(pod) for pod in stack.pods()}
    with _breaker_off(stack), _callers(context) as talks:
        assert list(talks) == header[1:], f"the table's columns are not {list(talks)}"
        _first_answers(context, stack, talks)
        address = stack.pods()[0].status.pod_ip
        seen = {
            row: [
                NOT_ASKED
                if expected[row][column] == NOT_ASKED
                else _ask(context, talk, caller, REQUESTS[row], stack, address)
                for column, (caller, talk) in enumerate(talks.items())
            ]
            for row in expected
        }
    context.grid("Who may ask what", header, [[row, *cells] for row, cells in seen.items()])
    # The kubelet's probes go the same ways all the time.
    assert len(stack.ready_pods()) == 3, "the kubelet's probes don't get through"
    after = {pod.metadata.name: restarts(pod) for pod in stack.pods()}
    assert after == before, f"restarted: {before} -> {after}"
    wrong = [
        f"{row}, {caller}: {got}, not {wanted}"
        for row, cells in seen.items()
        for caller, got, wanted in zip(header[1:], cells, expected[row], strict=True)
        if got != wanted
    ]
    assert not wrong, f"{len(wrong)} of {sum(map(len, seen.values()))}: " + "; ".join(wrong)
    asked = sum(cell != NOT_ASKED for cells in seen.values() for cell in cells)
    context.note(f"{asked} cells, each as the table says")


@case("prometheus", "metrics for Prometheus's identity, and nothing else for it")
def prometheus(context: MeshContext) -> None:
    """With an account of the case's own among those of the policy, as its file says to add one."""
    stack = context.serving()
    address = stack.pods()[0].status.pod_ip
    pages = {8501: "/monitoring/prometheus/metrics", 8503: "/metrics", 4191: "/metrics"}
    with (
        talking(context.clients("e2e-prometheus", "prometheus", inject=True)) as talk,
        _breaker_off(stack),
        _among(stack, "prometheus", {"name": "prometheus", "namespace": "e2e-prometheus"}),
    ):
        for port, path in pages.items():
            target = f"{address}:{port}"
            until(
                lambda: talk.rest(target, path).code == "200",  # noqa: B023
                f"{target}{path} to be open to Prometheus",
                NOTICED_SECONDS,
            )
        seen = {
            "Predict": talk.rpc(stack.grpc, "Predict").code,
            "reload": talk.rpc(stack.grpc, "HandleReloadConfigRequest").code,
            "status": talk.rest(stack.rest, "/v1/models/chopstick").code,
        }
    context.note(f"Prometheus: 200 on {pages}; {seen}")
    assert set(seen.values()) <= {"PERMISSION_DENIED", "GARBLED", "403"}, seen


@case("refused-often", "a caller that keeps asking for what it may not harms nobody else")
def refused_often(context: MeshContext) -> None:
    """Both are the same account: what is counted, is counted for the caller's proxy alone."""
    stack = context.serving()
    codes: dict[str, int] = {}
    with talking(context.callers, "hammer") as hammer:
        until(lambda: hammer.rpc(stack.grpc, "Predict").code == "OK", "the first answer", 30)
        with context.without_failure(
            stack, "beside a caller that is refused all the time", connections=1
        ) as load:
            load.mark("hammer")
            end = time.monotonic() + HAMMER_SECONDS
            while time.monotonic() < end:
                answer = hammer.rpc(stack.grpc, "HandleReloadConfigRequest", together=20, timeout=1)
                for code, number in answer.counts.items():
                    codes[code] = codes.get(code, 0) + number
            load.mark("hammer ended")
    context.note(f"the refused caller got {codes}; the other one lost nothing")
    refused = codes.get("PERMISSION_DENIED", 0) + codes.get("GARBLED", 0)
    assert refused >= 3 * 7, f"not refused often enough: {codes}"
    assert "OK" not in codes, codes


@case("pre-stop", "the pod's own hook gets through where nobody else's request does")
def pre_stop(context: MeshContext) -> None:
    stack = context.serving()
    pod = stack.pods()[0].metadata.name
    try:
        stack.kubectl("exec", pod, "--container=health", "--",
                      "python", "-m", "serving.health", "drain")  # fmt: skip
        until(lambda: stack.get(pod, 8502, "/readyz")[0] == 410, f"{pod} to say it drains", 10)
        context.note("serving.health drain, as preStop runs it: /readyz is 410")
    finally:
        # It never comes back from that.
        stack.kubectl("delete", "pod", pod, "--wait=false")
    stack.wait_terminated()
    stack.wait_ready(3)


def _expected() -> tuple[list[str], dict[str, list[str]]]:
    """The table's header, and its cells by row."""
    lines = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
    header, rows = lines[0], {cells[0]: cells[1:] for cells in lines[1:]}
    assert rows.keys() == REQUESTS.keys(), rows.keys() ^ REQUESTS.keys()
    assert all(len(cells) == len(header) - 1 for cells in rows.values())
    return header, rows


@contextlib.contextmanager
def _breaker_off(stack: Stack) -> Iterator[None]:
    """Refusals open breakers, and an open one answers for everything."""
    service = stack.cluster.core.read_namespaced_service(NAME, stack.namespace)
    limit = service.metadata.annotations[BREAKER]
    _annotate(stack, NEVER)
    try:
        yield
    finally:
        _annotate(stack, limit)


@contextlib.contextmanager
def _among(stack: Stack, authentication: str, account: dict[str, str]) -> Iterator[None]:
    """A service account more in a MeshTLSAuthentication."""
    of = f"meshtlsauthentication/{authentication}"
    found = json.loads(stack.kubectl("get", of, "--output=json"))["spec"]["identityRefs"]
    _identities(stack, of, [*found, {"kind": "ServiceAccount", **account}])
    try:
        yield
    finally:
        _identities(stack, of, found)


def _identities(stack: Stack, of: str, references: list[dict[str, str]]) -> None:
    patch = json.dumps({"spec": {"identityRefs": references}})
    stack.kubectl("patch", of, "--type=merge", f"--patch={patch}")


def _annotate(stack: Stack, limit: str) -> None:
    stack.kubectl("annotate", "--overwrite", f"service/{NAME}", f"{BREAKER}={limit}")


@contextlib.contextmanager
def _callers(context: MeshContext) -> Iterator[dict[str, Talk]]:
    """A talk with each kind of caller, in the order of the table's columns."""
    kinds = {
        "outside": context.outsiders,
        "no key": context.outsiders,
        "model-client": context.callers,
        "model-admin": context.clients(PROD, "model-admin", inject=True),
        "other": context.clients("e2e-other", "model-client", inject=True),
        "unmeshed": context.clients("e2e-unmeshed", inject=False),
        # Pod Security `restricted` allows no such pod beside the others.
        "host network": context.clients("e2e-host", host_network=True),
    }
    with contextlib.ExitStack() as ends:
        pods = {
            kind: ends.enter_context(waiting(clients, f"ask-{number}", ready=False))
            for number, (kind, clients) in enumerate(kinds.items())
        }
        for kind, clients in kinds.items():
            wait_ready(clients, pods[kind])
        yield {
            kind: ends.enter_context(talk_with(clients, pods[kind]))
            for kind, clients in kinds.items()
        }


def _first_answers(context: MeshContext, stack: Stack, talks: dict[str, Talk]) -> None:
    """Wait for Services' rules on the nodes and for proxies' policies, by what everybody is told."""
    for caller, talk in talks.items():
        for row in ("Predict", "predict"):
            until(
                lambda: (
                    _ask(context, talk, caller, REQUESTS[row], stack, "")  # noqa: B023
                    in ("OK", "200", "PERMISSION_DENIED", "403", "UNAUTHENTICATED", "401")
                ),
                f"{caller} to get any answer to {row}",
                60,
            )


def _ask(
    context: MeshContext, talk: Talk, caller: str, request: Request, stack: Stack, address: str
) -> str:
    """The code of one cell; asked again while it comes garbled (see `asking`)."""
    for _ in range(MOST_TRIES):
        code = _ask_once(context, talk, caller, request, stack, address)
        if code != "GARBLED":
            break
    return code


def _ask_once(
    context: MeshContext, talk: Talk, caller: str, request: Request, stack: Stack, address: str
) -> str:
    order: dict[str, Any] = {}
    if caller in INGRESS:
        grpc, rest = context.ingress.grpc, context.ingress.rest
        order["ca"] = context.ingress.caller_ca_file
        order["connect_to"] = f"{context.ingress.address}:443"
        if caller == "outside":
            order["headers"] = {"x-api-key": context.ingress.api_key}
    else:
        grpc = f"{address}:{request.port}" if request.port else stack.grpc
        rest = f"{address}:{request.port}" if request.port else stack.rest
    if not request.method:
        return talk.rpc(grpc, request.what, **order).code
    if request.body is not None:
        order["body"] = request.body
        order["headers"] = {**order.get("headers", {}), "content-type": "application/json"}
    return talk.rest(rest, request.what, method=request.method, **order).code
