"""What must be so before Linkerd is installed, and what is worth a warning.

Each check is a function of a `Situation` and returns a `Finding`, so that a check can be used alone
and another command can have a list of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum

from scripts.mesh.certificates import Chain, fingerprints, signed_by
from scripts.mesh.cluster import GATEWAY_GROUP, NAMESPACE, ROUTE_KINDS, Cluster
from scripts.mesh.versions import Versions
from scripts.say import say
from serving.errors import ChopstickError

# Linkerd's own check warns at the same distance.
SOON = timedelta(days=60)
_LABELS = {
    "linkerd.io/is-control-plane": "true",
    "config.linkerd.io/admission-webhooks": "disabled",
    "linkerd.io/control-plane-ns": NAMESPACE,
}


class Outcome(Enum):
    """How a check ended; its value is what the terminal shows."""

    PASS = "ok"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it unless it passed."""

    name: str
    outcome: Outcome
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Situation:
    """All that the checks look at, gathered beforehand.

    `chain` is None where there is no folder of certificates; then `chain_error` says why.
    """

    versions: Versions
    today: date
    tool: str
    tool_version: str
    cluster: Cluster
    highly_available: bool = False
    chain: Chain | None = None
    chain_error: ChopstickError | None = None


Check = Callable[[Situation], Iterable[Finding]]


def kubernetes(situation: Situation) -> Iterable[Finding]:
    """Kubernetes is within the range that Linkerd is tested with."""
    version, supported = situation.cluster.version, situation.versions.kubernetes_range
    side = supported.compare(version)
    said = f"{version}; Linkerd {situation.versions.release} is tested with {supported}"
    if side < 0:
        yield _fail("kubernetes", said, "Upgrade the cluster first.")
    elif side > 0:
        yield _warn("kubernetes", said, "Newer than what Linkerd tried: read its release notes.")
    else:
        yield _pass("kubernetes", said)


def tool(situation: Situation) -> Iterable[Finding]:
    """The `linkerd` CLI, whose charts are inside it, has the version of versions.yaml."""
    if situation.tool != "linkerd":
        yield _pass("tool", f"{situation.tool}, charts {situation.versions.chart}")
    elif situation.tool_version == situation.versions.linkerd:
        yield _pass("tool", f"linkerd {situation.tool_version}")
    else:
        yield _warn(
            "tool",
            f"linkerd is {situation.tool_version}, versions.yaml says {situation.versions.linkerd}:"
            " it installs its own version, which nothing here was measured with",
            f"Get that version: LINKERD2_VERSION={situation.versions.linkerd}"
            " with Linkerd's install-edge script.",
        )


def gateway_api(situation: Situation) -> Iterable[Finding]:
    """The Gateway API's routes are there, in the version of versions.yaml."""
    wanted, supported = situation.versions.gateway_api, situation.versions.gateway_api_range
    remedy = (
        "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api"
        f"/releases/download/{wanted}/standard-install.yaml"
    )
    routes = situation.cluster.routes
    missing = [f"{kind}.{GATEWAY_GROUP}" for kind in ROUTE_KINDS if kind not in routes]
    if missing:
        yield _fail("gateway-api", f"the CRDs {', '.join(missing)} are missing", remedy)
        return
    for kind in routes.values():
        if "v1" not in kind.served:
            yield _fail("gateway-api", f"{kind.name} has no version v1", remedy)
            return
    versions = sorted({kind.version for kind in routes.values()})
    said = f"{' and '.join(version or 'of unknown version' for version in versions)}"
    if versions == [wanted]:
        yield _pass("gateway-api", said)
    elif "" in versions or any(supported.compare(version) for version in versions):
        yield _warn("gateway-api", f"{said}; Linkerd is tested with {supported}", remedy)
    else:
        yield _warn("gateway-api", f"{said}; versions.yaml says {wanted}", remedy)


def support_ends(situation: Situation) -> Iterable[Finding]:
    """Nothing that versions.yaml pins is past its end of support, or near it."""
    near = [end for end in situation.versions.ends if end.day <= situation.today + SOON]
    for end in sorted(near, key=lambda end: end.day):
        verb = "ended" if end.day < situation.today else "ends"
        yield _warn(
            "support",
            f"support of {end.name} {end.version} {verb} on {end.day.isoformat()}",
            "versions.yaml says why this version; look for one that has support and fits the others.",
        )
    if not near:
        yield _pass("support", "no version in versions.yaml is near its end")


def certificates(situation: Situation) -> Iterable[Finding]:
    """Anchor and issuer are there, stay valid for a while, and nobody else can read the keys."""
    chain = situation.chain
    if chain is None:
        error = situation.chain_error
        assert error is not None  # noqa: S101 - one of the two is set
        if situation.cluster.installed and situation.tool == "linkerd":
            yield _pass("certificates", "none given: the installation keeps those that it has")
        else:
            yield _fail("certificates", error.message, error.remedy)
        return
    for name, end, remedy in (
        ("trust anchor", chain.anchors_end, "Plan a new one: docs/mesh.md, certificates."),
        ("issuer", chain.issuer_end, "make mesh-cert ARGS=--rotate-issuer, then make mesh."),
    ):
        left = end.date() - situation.today
        said = f"{name} is valid until {end.date().isoformat()}, {left.days} days"
        if left <= timedelta():
            yield _fail("certificates", f"{name} ended on {end.date().isoformat()}", remedy)
        elif left < SOON:
            yield _warn("certificates", said, remedy)
        else:
            yield _pass("certificates", said)
    if chain.readable_by_others:
        names = " ".join(chain.path(name) for name in chain.readable_by_others)
        yield _warn(
            "certificates", "others on this machine can read the keys", f"chmod 600 {names}"
        )


def same_anchor(situation: Situation) -> Iterable[Finding]:
    """An upgrade keeps the anchors that running proxies trust."""
    installed = situation.cluster.installed
    if situation.chain is None or installed is None or not installed.anchors:
        return
    ours, theirs = fingerprints(situation.chain.anchors), fingerprints(installed.anchors)
    lost = theirs.keys() - ours.keys()
    moved = installed.issuer and signed_by(installed.issuer, situation.chain.anchors)
    if lost and moved:
        # The last step of a change of anchors.
        yield _warn(
            "anchor",
            f"{len(lost)} anchor(s) that the cluster trusts will be dropped",
            "Right if every meshed workload was restarted since the new issuer came.",
        )
    elif lost:
        yield _fail(
            "anchor",
            f"the cluster trusts {len(lost)} anchor(s) that '{situation.chain.directory}' doesn't"
            " hold: running proxies would refuse each other",
            "Give the folder that it was installed with: --certificates DIR. For a new anchor,"
            " first install a ca.crt with both: docs/mesh.md, certificates.",
        )
    elif len(ours) > len(theirs):
        yield _warn(
            "anchor",
            f"{len(ours) - len(theirs)} new anchor(s) beside the cluster's",
            "Restart every meshed workload before an issuer of the new one is installed.",
        )
    else:
        yield _pass("anchor", "the one that the cluster trusts")


def installation(situation: Situation) -> Iterable[Finding]:
    """A Linkerd that is there can be upgraded by the tool that was chosen."""
    installed = situation.cluster.installed
    if installed is None:
        yield _pass("linkerd", f"not installed: {situation.versions.linkerd} will be")
        return
    said = f"{installed.version}, installed with {installed.by or 'an unknown tool'}"
    if installed.by and installed.by != situation.tool:
        yield _fail(
            "linkerd",
            f"{said}; {situation.tool} can't upgrade it",
            f"Use the tool that has its values: --with {installed.by}",
        )
        return
    if not installed.with_cni:
        yield _warn(
            "linkerd",
            f"{said}, with linkerd-init: it will change to linkerd-cni",
            "Pods that run keep linkerd-init until they are restarted: kubectl rollout restart.",
        )
        return
    yield _pass("linkerd", f"{said}; an upgrade")


def namespace(situation: Situation) -> Iterable[Finding]:
    """The namespace linkerd, where it is there, is marked as the control plane's."""
    labels = situation.cluster.labels
    if labels is None:
        return
    wrong = [f"{key}={value}" for key, value in _LABELS.items() if labels.get(key) != value]
    if wrong:
        yield _warn(
            "namespace",
            f"'{NAMESPACE}' lacks {', '.join(wrong)}",
            f"kubectl label namespace {NAMESPACE} --overwrite {' '.join(wrong)}",
        )
    else:
        yield _pass("namespace", f"'{NAMESPACE}' has its labels")


def nodes(situation: Situation) -> Iterable[Finding]:
    """High availability has a node for each replica."""
    if not situation.highly_available:
        return
    there = situation.cluster.schedulable_nodes
    if there < 3:
        yield _fail(
            "nodes",
            f"{there} node(s) take pods; high availability wants 3, one for each replica",
            "Add nodes, or install without --ha.",
        )
    else:
        yield _pass("nodes", f"{there} take pods")


CHECKS: tuple[Check, ...] = (
    kubernetes,
    tool,
    gateway_api,
    support_ends,
    certificates,
    same_anchor,
    installation,
    namespace,
    nodes,
)


def run(situation: Situation, checks: Iterable[Check] = CHECKS) -> list[Finding]:
    """Run checks and say what each found, remedies included."""
    found = [finding for check in checks for finding in check(situation)]
    for finding in found:
        say(f"    {finding.outcome.value:<4} {finding.name:<12} {finding.message}")
        if finding.remedy:
            say(f"    {'':<17} {finding.remedy}")
    return found


def require(findings: Iterable[Finding]) -> None:
    """Raise ChopstickError for the first finding that failed, naming how many there are."""
    failed = [finding for finding in findings if finding.outcome is Outcome.FAIL]
    if failed:
        more = f" (and {len(failed) - 1} more above)" if len(failed) > 1 else ""
        raise ChopstickError(
            f"preflight, {failed[0].name}: {failed[0].message}{more}", failed[0].remedy
        )


def today() -> date:
    """Today, in UTC as the certificates' dates are."""
    return datetime.now(UTC).date()


def _pass(name: str, message: str) -> Finding:
    return Finding(name, Outcome.PASS, message)


def _warn(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, Outcome.WARN, message, remedy)


def _fail(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, Outcome.FAIL, message, remedy)
