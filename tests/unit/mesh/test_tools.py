"""How `linkerd`, `helm` and `kubectl` are called, and that no key is ever said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.mesh import certificates as certs
from scripts.mesh import command, tools, versions
from scripts.mesh.install import Plan, rehearse
from scripts.mesh.tools import Part, Wishes
from serving.errors import ChopstickError

ROOT = Path(__file__).resolve().parents[3]
PINNED = versions.read()
VALUES = {path.stem: yaml.safe_load(path.read_text()) for path in tools.VALUES.glob("values*.yaml")}


@pytest.fixture
def chain(tmp_path: Path) -> certs.Chain:
    return certs.make(tmp_path / "certificates", days=365, anchor_days=3650)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


# ── which tool ──


def test_linkerd_comes_first_and_helm_where_charts_are_given(programs: Path) -> None:
    for name, version in (("kubectl", ""), ("linkerd", "edge-1.2.3"), ("helm", "v3.1")):
        program(programs, name, f"echo {version}")
    found = tools.find(None, PINNED)
    assert (found.name, found.version) == ("linkerd", "edge-1.2.3")
    assert tools.find("helm", PINNED).name == "helm"
    assert tools.find(None, PINNED, programs).name == "helm"
    (programs / "linkerd").unlink()
    assert tools.find(None, PINNED).name == "helm"


def test_missing_programs_are_named(programs: Path) -> None:
    with pytest.raises(ChopstickError, match="kubectl is not on PATH"):
        tools.find(None, PINNED)
    program(programs, "kubectl", "")
    with pytest.raises(ChopstickError, match="linkerd and helm are not on PATH") as caught:
        tools.find(None, PINNED)
    assert PINNED.linkerd in caught.value.remedy
    with pytest.raises(ChopstickError, match="helm is not on PATH"):
        tools.find("helm", PINNED)


# ── what is said ──


def test_what_kubectl_quotes_of_an_object_is_not_shown(programs: Path) -> None:
    program(
        programs,
        "kubectl",
        'cat >/dev/null; { echo "Error from server: error when applying patch:";'
        """ echo '{"data":{"key.pem":"c2VjcmV0"}}'; echo "to:"; } >&2; exit 1""",
    )
    with pytest.raises(ChopstickError, match="error when applying patch") as caught:
        command.apply("kind: Secret", "mend it")
    assert "c2VjcmV0" not in str(caught.value)
    assert caught.value.remedy == "mend it"


def test_an_error_of_linkerd_is_shown_without_its_flags(programs: Path) -> None:
    flags = "\n".join(f"  --flag-{number} string" for number in range(60))
    program(programs, "linkerd", f"printf 'Error: no such thing\\nUsage:\\n{flags}' >&2; exit 1")
    with pytest.raises(ChopstickError, match="Error: no such thing") as caught:
        command.output(["linkerd", "install"])
    assert "--flag" not in caught.value.message


def test_manifests_go_through_standard_input(programs: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program(
        programs,
        "kubectl",
        f'echo "$@" >{seen}; /bin/cat >>{seen}; echo a created; echo b unchanged',
    )
    assert command.apply("kind: Secret\nkey: c2VjcmV0\n", "") == (2, 1)
    assert seen.read_text() == "apply -f -\nkind: Secret\nkey: c2VjcmV0\n"


def test_helm_gets_files_and_no_key(
    programs: Path, tmp_path: Path, chain: certs.Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen"
    program(programs, "helm", f'echo "$@" >>{seen}; echo "kind: Secret"')
    plan = Plan(PINNED, tools.Helm("v3", PINNED), Wishes(settings=("a=b",), chain=chain))
    rehearse(plan)
    crds, cni, control_plane = seen.read_text().splitlines()
    assert f"--repo {tools.CHART_REPOSITORY} --version {PINNED.chart}" in control_plane
    assert f"--set-file identity.issuer.tls.keyPEM={chain.path('issuer.key')}" in control_plane
    assert "--set a=b" in control_plane
    assert "--namespace linkerd-cni" in cni
    assert "issuer" not in crds + cni
    key = (tmp_path / "certificates" / "issuer.key").read_text().splitlines()[1]
    said = capsys.readouterr()
    assert key not in seen.read_text() + said.out + said.err


def test_a_folder_without_the_chart_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChopstickError, match="no chart linkerd-crds"):
        tools.Helm("v3", PINNED, tmp_path).render(Part.CRDS, Wishes())


# ── the command line ──


def run(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.mesh", *words],
        cwd=ROOT,
        env={**os.environ, **({"PATH": str(path)} if path else {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_certificates_are_made_and_no_key_is_printed(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    made = run("certificates", "--directory", str(folder))
    again = run("certificates", "--directory", str(folder))
    assert (made.returncode, again.returncode) == (0, 1)
    assert again.stderr.startswith("error: ")
    for said in (made.stdout, made.stderr, again.stdout, again.stderr):
        assert "PRIVATE" not in said
        for name in certs.FILES:
            assert (folder / name).read_text().splitlines()[1] not in said


def test_a_cluster_that_does_not_answer_is_an_error_with_a_remedy(
    programs: Path, tmp_path: Path, chain: certs.Chain
) -> None:
    program(
        programs,
        "kubectl",
        'case "$*" in *current-context*) echo far ;; *) echo "connection refused" >&2; exit 1 ;; esac',
    )
    program(programs, "linkerd", f"echo {PINNED.linkerd}")
    done = run("install", "--certificates", str(chain.directory), path=programs)
    assert done.returncode == 1
    assert "preflight in context far" in done.stderr
    assert "connection refused" in done.stderr
    assert "kubectl config current-context" in done.stderr


# ── values ──


def test_values_meet_the_contracts_of_the_components() -> None:
    plain = VALUES["values"]
    # Pod Security `restricted` holds for the models' namespaces, and linkerd-init would break it.
    assert plain["cniEnabled"] is True
    assert plain["proxy"]["nativeSidecar"] is True
    assert plain["disableHeartBeat"] is True
    assert VALUES["values-crds"] == {"installGatewayAPI": False}
    assert VALUES["values-ha"]["webhookFailurePolicy"] == "Fail"
    # Both are set by the installation; a second place would win or lose against it.
    assert "linkerdVersion" not in plain
    assert "identityTrustAnchorsPEM" not in plain


def rendered(part: Part, wishes: Wishes) -> list[dict[str, Any]]:
    """What the user's linkerd makes of the values, without a cluster.

    Which keys a chart knows, only the chart can tell, and it ignores the others: so their effect
    is looked at.
    """
    if shutil.which("linkerd") is None:
        pytest.skip("missing tool: linkerd")
    manifest = tools.LinkerdCommand("").render(part, wishes)
    return [each for each in yaml.safe_load_all(manifest) if each]


def test_linkerd_renders_the_control_plane_as_the_values_say(chain: certs.Chain) -> None:
    for available in (False, True):
        objects = rendered(Part.CONTROL_PLANE, Wishes(highly_available=available, chain=chain))
        deployments = [each for each in objects if each["kind"] == "Deployment"]
        assert {each["spec"]["replicas"] for each in deployments} == {3 if available else 1}
        for each in deployments:
            names = [init["name"] for init in each["spec"]["template"]["spec"]["initContainers"]]
            assert "linkerd-init" not in names
            assert "linkerd-network-validator" in names
        kinds = [each["kind"] for each in objects]
        assert "CronJob" not in kinds
        assert ("PodDisruptionBudget" in kinds) == available
        policies = {
            hook["failurePolicy"]
            for each in objects
            if each["kind"] == "MutatingWebhookConfiguration"
            for hook in each["webhooks"]
        }
        assert policies == {"Fail" if available else "Ignore"}
        config = next(
            each
            for each in objects
            if (each["kind"], each["metadata"]["name"]) == ("ConfigMap", "linkerd-config")
        )
        values = yaml.safe_load(config["data"]["values"])
        assert values["proxy"]["resources"]["cpu"]["request"] == "100m"
        assert bool(values.get("highAvailability")) == available


def test_namespaces_for_helm_are_those_of_linkerd(chain: certs.Chain) -> None:
    ours = list(yaml.safe_load_all((tools.VALUES / "namespaces.yaml").read_text()))
    theirs = [
        each
        for part in (Part.CONTROL_PLANE, Part.CNI)
        for each in rendered(part, Wishes(chain=chain))
        if each["kind"] == "Namespace"
    ]
    assert ours == theirs


def test_linkerd_installs_the_cni_plugin_of_versions_yaml() -> None:
    daemon = next(each for each in rendered(Part.CNI, Wishes()) if each["kind"] == "DaemonSet")
    containers = daemon["spec"]["template"]["spec"]["containers"]
    pinned = yaml.safe_load(versions.FILE.read_text())["cluster"]["linkerd-cni"]["version"]
    assert {each["image"].rpartition(":")[2] for each in containers} == {pinned}
    assert [each["name"] for each in containers] == ["install-cni", "repair-controller"]
