"""Objects that don't fit are told apart from those that do, for every kind that a mesh brings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import schemas
from tests.manifests.against_cluster import with_an_unknown_field
from tests.manifests.build import EVERYTHING, MESH, Object, combined
from tests.manifests.schemas import SchemaError, check
from tests.support import skips
from tests.support.skips import ROOT, require_crds

VERSIONS = yaml.safe_load((ROOT / "versions.yaml").read_text())
NEWEST = VERSIONS["cluster"]["kubernetes"]["version"]


def all_kinds() -> list[Object]:
    """One object of every kind that any component of the mesh has, as it is built."""
    objects = [*combined(EVERYTHING), *combined(("inject", "ingress", *list(MESH)[-2:]))]
    return list({item["kind"]: item for item in reversed(objects)}.values())


def one(kind: str) -> Object:
    return next(item for item in all_kinds() if item["kind"] == kind)


def changed(item: Object, path: str, value: Any) -> Object:
    """The object with a field set; None takes it away."""
    place = item
    *parts, last = path.split(".")
    for part in parts:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return item


@pytest.mark.parametrize("name", schemas.GROUPS.values())
def test_definitions_are_of_the_version_that_the_cluster_is_meant_to_have(name: str) -> None:
    assert VERSIONS["tools"][name]["version"] == VERSIONS["cluster"][name]["version"]
    assert list(require_crds(name).glob("*.yaml"))


def test_an_unknown_field_of_any_kind_fails() -> None:
    for group in schemas.GROUPS.values():
        require_crds(group)
    broken = with_an_unknown_field(all_kinds())
    assert {"EnvoyProxy", "GRPCRoute", "HTTPRoute", "SecurityPolicy", "Server"} <= {
        item["kind"] for item in broken
    }
    for item in broken:
        with pytest.raises(SchemaError, match="notAField"):
            check(item, NEWEST)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("GRPCRoute", "apiVersion", "gateway.networking.k8s.io/v1alpha2"),
        ("GRPCRoute", "spec.rules.0.matches.0.method.typ", "Exact"),
        ("GRPCRoute", "spec.parentRefs.0.port", "8500"),
        ("GRPCRoute", "metadata.annotations", {"retry.linkerd.io/limit": 2}),
        ("GRPCRoute", "metadata.name", None),
        ("HTTPRoute", "spec.rules.0.matches.0.path.type", "Regex"),
        ("HTTPRoute", "spec.rules.0.backendRefs.0.name", None),
        ("Gateway", "spec.listeners.0.protocol", None),
        ("Gateway", "spec.listeners.0.hostname", "a/b"),
        ("GatewayClass", "spec.controllerName", "envoy"),
        ("EnvoyProxy", "spec.provider.kubernetes.envoyService.type", "Cluster"),
        ("EnvoyProxy", "spec.provider.kubernetes.envoyDeployment.pod.annotation", {}),
        ("EnvoyProxy", "spec.provider.kubernetes.envoyDeployment.replicas", "2"),
        ("BackendTrafficPolicy", "spec.rateLimit.local.rules.0.limit.unit", "Sec"),
        ("BackendTrafficPolicy", "spec.requestBuffer.limits", "4Mi"),
        ("ClientTrafficPolicy", "spec.tls.minVersion", "TLS1.2"),
        ("SecurityPolicy", "spec.apiKeyAuth.extractFrom.0.header", ["x-api-key"]),
        ("Server", "apiVersion", "policy.linkerd.io/v1beta1"),
        ("Server", "spec.proxyProtocol", "grpc"),
        ("Server", "spec.podSelector", {}),
        ("Server", "spec.accessPolicy", "denied"),
        ("AuthorizationPolicy", "spec.targetRef.group", "policy.linkerd.io/v1alpha1"),
        ("AuthorizationPolicy", "spec.targetRef.namespace", "chopstick"),
        ("AuthorizationPolicy", "spec.requiredAuthenticationRefs.0.kind", "MeshTLSAuthentications"),
        ("MeshTLSAuthentication", "spec.identityRefs", []),
        ("MeshTLSAuthentication", "spec.identityRefs.0.serviceAccount", "model-client"),
        ("HTTPLocalRateLimitPolicy", "spec.total.requestsPerSecond", "1500"),
        ("HTTPLocalRateLimitPolicy", "spec.identity", {}),
        ("HTTPLocalRateLimitPolicy", "spec.overrides.0.clientRefs.0.kind", "Pod"),
        ("Certificate", "spec.dnsName", "grpc.chopstick.example.com"),
    ],
)
def test_what_does_not_fit_fails(kind: str, path: str, value: Any) -> None:
    check(one(kind), NEWEST)
    with pytest.raises(SchemaError, match=kind):
        check(changed(one(kind), path, value), NEWEST)


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("linkerd.io/v1alpha2", "ServiceProfile"),
        ("policy.linkerd.io/v1beta1", "ServerAuthorization"),
        ("gateway.networking.k8s.io/v1", "TCPRoute"),
    ],
)
def test_a_kind_without_a_schema_fails(version: str, kind: str) -> None:
    with pytest.raises(SchemaError):
        check({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": {}}, NEWEST)


def test_without_definitions_a_test_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skips, "ROOT", tmp_path)
    with pytest.raises(pytest.skip.Exception, match=r"missing tool: gateway-api \(make tools\)"):
        require_crds("gateway-api")


def test_an_unavailable_folder_of_definitions_leaves_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_crds("gateway-api")
    specification = importlib.util.spec_from_file_location("tools", ROOT / "scripts" / "tools.py")
    tools = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tools)
    monkeypatch.setattr(tools, "CRDS", tmp_path)
    (tmp_path / "gateway-api").mkdir()
    (tmp_path / "gateway-api" / "old.yaml").touch()
    tool = VERSIONS["tools"]["gateway-api"]
    for wrong in ({"crds": "config/crd/nothing"}, {"version": "v1.5.100000"}):
        with pytest.raises(tools.NotAvailableError):
            tools.from_go_module("gateway-api", {**tool, **wrong})
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
            "gateway-api",
            "gateway-api/old.yaml",
        ]
    tools.from_go_module("gateway-api", tool)
    assert not (tmp_path / "gateway-api" / "old.yaml").exists()
    assert list(tmp_path.glob("gateway-api/*_grpcroutes.yaml"))
