"""What preflight says of each situation, and that every complaint has a remedy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from scripts.mesh import certificates as certs
from scripts.mesh import preflight, versions
from scripts.mesh.cluster import Cluster, Installed, RouteKind
from scripts.mesh.preflight import Finding, Outcome, Situation
from serving.errors import ChopstickError

TODAY = date(2026, 10, 1)
PINNED = versions.read()
ROUTES = {
    kind: RouteKind(kind, PINNED.gateway_api, "standard", frozenset({"v1"}))
    for kind in ("httproutes", "grpcroutes")
}
LABELS = {
    "linkerd.io/is-control-plane": "true",
    "config.linkerd.io/admission-webhooks": "disabled",
    "linkerd.io/control-plane-ns": "linkerd",
}
CLUSTER = Cluster("v1.35.4", 3, ROUTES, None, None)
INSTALLED = Installed(PINNED.linkerd, "linkerd", False, True, "", "")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of certificates that have nothing to do with each other."""
    base = tmp_path_factory.mktemp("mesh")
    for name in ("one", "two"):
        certs.make(base / name, days=365, anchor_days=3650)
    return [base / "one", base / "two"]


@pytest.fixture
def good(folders: list[Path]) -> Situation:
    return Situation(
        versions=replace(PINNED, ends=()),
        today=datetime.now(UTC).date(),
        tool="linkerd",
        tool_version=PINNED.linkerd,
        cluster=CLUSTER,
        chain=certs.read(folders[0]),
    )


def complaints(situation: Situation) -> list[Finding]:
    found = preflight.run(situation)
    for finding in found:
        assert bool(finding.remedy) == (finding.outcome is not Outcome.PASS), finding
    return [finding for finding in found if finding.outcome is not Outcome.PASS]


def only(situation: Situation, outcome: Outcome) -> Finding:
    found = complaints(situation)
    assert [finding.outcome for finding in found] == [outcome], found
    return found[0]


def with_cluster(situation: Situation, **changes: object) -> Situation:
    return replace(situation, cluster=replace(situation.cluster, **changes))


def test_a_good_situation_passes(good: Situation) -> None:
    assert complaints(good) == []
    preflight.require(preflight.run(good))
    there = replace(INSTALLED, anchors=good.chain.anchors if good.chain else "")
    assert complaints(with_cluster(good, labels=LABELS, installed=there)) == []


@pytest.mark.parametrize(
    ("version", "outcome"),
    [
        ("v1.30.9", Outcome.FAIL),
        ("v1.31.0", None),
        ("v1.35.4-gke.100", None),
        ("v1.36.0", Outcome.WARN),
        ("v2.0.0", Outcome.WARN),
    ],
)
def test_kubernetes(good: Situation, version: str, outcome: Outcome | None) -> None:
    found = complaints(with_cluster(good, version=version))
    assert [finding.outcome for finding in found] == ([outcome] if outcome else [])


def test_another_linkerd_is_a_warning(good: Situation) -> None:
    found = only(replace(good, tool_version="edge-26.8.3"), Outcome.WARN)
    assert "edge-26.8.3" in found.message
    assert PINNED.linkerd in found.remedy


@pytest.mark.parametrize(
    ("versions_there", "outcome"),
    [
        (("v1.2.1", "v1.2.1"), Outcome.WARN),
        (("v1.6.1", "v1.6.1"), Outcome.WARN),
        (("", ""), Outcome.WARN),
    ],
)
def test_other_gateway_api_versions(
    good: Situation, versions_there: tuple[str, str], outcome: Outcome
) -> None:
    routes = {
        kind: replace(ROUTES[kind], version=version)
        for kind, version in zip(ROUTES, versions_there, strict=True)
    }
    assert PINNED.gateway_api in only(with_cluster(good, routes=routes), outcome).remedy


def test_missing_gateway_api_names_the_command(good: Situation) -> None:
    found = only(with_cluster(good, routes={"httproutes": ROUTES["httproutes"]}), Outcome.FAIL)
    assert "grpcroutes.gateway.networking.k8s.io" in found.message
    assert "httproutes" not in found.message
    assert found.remedy.startswith("kubectl apply --server-side -f https://")
    assert f"/{PINNED.gateway_api}/" in found.remedy
    with pytest.raises(ChopstickError, match="gateway-api: the CRDs"):
        preflight.require([found])


def test_gateway_api_without_v1(good: Situation) -> None:
    routes = {kind: replace(route, served=frozenset({"v1beta1"})) for kind, route in ROUTES.items()}
    only(with_cluster(good, routes=routes), Outcome.FAIL)


def test_support_that_ended_or_ends_soon_is_a_warning_with_its_date(good: Situation) -> None:
    ends = (
        versions.End("gone", "v1", TODAY - timedelta(days=1)),
        versions.End("soon", "v2", TODAY + timedelta(days=60)),
        versions.End("later", "v3", TODAY + timedelta(days=61)),
    )
    situation = replace(good, versions=replace(PINNED, ends=ends), today=TODAY)
    found = list(preflight.support_ends(situation))
    assert [finding.outcome for finding in found] == [Outcome.WARN, Outcome.WARN]
    assert "gone v1 ended on 2026-09-30" in found[0].message
    assert "soon v2 ends on 2026-11-30" in found[1].message


def test_no_certificates_stop_an_installation_and_not_an_upgrade(good: Situation) -> None:
    without = replace(good, chain=None, chain_error=ChopstickError("none", "make mesh-cert"))
    assert only(without, Outcome.FAIL).remedy == "make mesh-cert"
    assert complaints(with_cluster(without, installed=INSTALLED)) == []
    # Helm has to be given everything each time.
    by_helm = with_cluster(replace(without, tool="helm"), installed=replace(INSTALLED, by="helm"))
    only(by_helm, Outcome.FAIL)


@pytest.mark.parametrize(
    ("days", "outcome"), [(0, Outcome.FAIL), (-1, Outcome.FAIL), (59, Outcome.WARN), (60, None)]
)
def test_certificates_that_end(good: Situation, days: int, outcome: Outcome | None) -> None:
    end = datetime.now(UTC) + timedelta(days=days)
    for field in ("issuer_end", "anchors_end"):
        assert good.chain is not None
        found = complaints(replace(good, chain=replace(good.chain, **{field: end})))
        assert [finding.outcome for finding in found] == ([outcome] if outcome else [])


def test_a_cluster_that_trusts_another_anchor_is_not_upgraded(
    good: Situation, folders: list[Path]
) -> None:
    other = certs.read(folders[1])
    there = with_cluster(good, installed=replace(INSTALLED, anchors=other.anchors))
    assert only(there, Outcome.FAIL).name == "anchor"
    assert good.chain is not None
    both = replace(good.chain, anchors=good.chain.anchors + other.anchors)
    assert "Restart" in only(replace(there, chain=both), Outcome.WARN).remedy


def test_an_anchor_goes_only_after_its_issuer_went(good: Situation, folders: list[Path]) -> None:
    assert good.chain is not None
    other = certs.read(folders[1])
    both = good.chain.anchors + other.anchors
    for folder, outcome in ((folders[0], Outcome.WARN), (folders[1], Outcome.FAIL)):
        there = replace(INSTALLED, anchors=both, issuer=(folder / "issuer.crt").read_text())
        assert only(with_cluster(good, installed=there), outcome).name == "anchor"


def test_keys_for_everybody_are_a_warning(good: Situation) -> None:
    assert good.chain is not None
    loose = replace(good.chain, readable_by_others=("issuer.key",))
    assert only(replace(good, chain=loose), Outcome.WARN).remedy.startswith("chmod 600 ")


def test_the_tool_that_installed_upgrades(good: Situation) -> None:
    found = only(with_cluster(good, installed=replace(INSTALLED, by="helm")), Outcome.FAIL)
    assert "--with helm" in found.remedy


def test_linkerd_init_becomes_linkerd_cni_only_after_a_restart(good: Situation) -> None:
    found = only(with_cluster(good, installed=replace(INSTALLED, with_cni=False)), Outcome.WARN)
    assert "restart" in found.remedy


def test_a_namespace_without_labels(good: Situation) -> None:
    found = only(
        with_cluster(good, labels={**LABELS, "linkerd.io/is-control-plane": "no"}), Outcome.WARN
    )
    assert "linkerd.io/is-control-plane=true" in found.remedy
    assert "admission" not in found.remedy


def test_high_availability_wants_three_nodes(good: Situation) -> None:
    two = with_cluster(good, schedulable_nodes=2)
    assert complaints(two) == []
    assert "2 node(s)" in only(replace(two, highly_available=True), Outcome.FAIL).message


# ── versions.yaml ──


def test_versions_yaml_is_read() -> None:
    assert PINNED.chart == "2026.6.3"
    assert PINNED.kubernetes_range == versions.Range("1.31", "1.35")
    assert ("envoy-gateway", date(2026, 11, 8)) in [(end.name, end.day) for end in PINNED.ends]
    assert versions.last_day("2027-02") == date(2027, 2, 28)


def test_pinned_versions_are_within_linkerds_ranges() -> None:
    cluster = versions.yaml.safe_load(versions.FILE.read_text())["cluster"]
    assert PINNED.kubernetes_range.compare(cluster["kubernetes"]["version"]) == 0
    assert PINNED.gateway_api_range.compare(PINNED.gateway_api) == 0


def test_a_broken_versions_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "versions.yaml").write_text("cluster: {}\n")
    with pytest.raises(ChopstickError, match=r"versions\.yaml can't be used: KeyError"):
        versions.read(tmp_path / "versions.yaml")
