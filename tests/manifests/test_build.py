"""Everything builds, the same in every tool, and as three Kubernetes versions have it."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.manifests.build import (
    CHOICES,
    MANIFESTS,
    OVERLAYS,
    BuildError,
    build,
    combine,
    overlay,
    subsets,
)
from tests.support.skips import ROOT

NEWEST = yaml.safe_load((ROOT / "versions.yaml").read_text())["cluster"]["kubernetes"]["version"]
# The cluster's version and the two before it: what is supported upstream at any time.
MINOR = int(NEWEST.partition(".")[2])
VERSIONS = [f"1.{minor}" for minor in range(MINOR - 2, MINOR + 1)]


@cache
def checked(text: str, version: str) -> None:
    """Hold one object, as JSON, to the strict schema of a version; an unknown field fails."""
    kubernetes_validate.validate(json.loads(text), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_overlays_fit_the_schemas(version: str) -> None:
    for item in (item for name in OVERLAYS for item in overlay(name)):
        assert kubernetes_validate.validate(item, version, strict=True) == version


def test_combinations_fit_the_schemas(tmp_path: Path) -> None:
    for number, subset in enumerate(subsets()):
        for item in combine(tmp_path / str(number), subset):
            for version in VERSIONS:
                checked(json.dumps(item, sort_keys=True), version)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_field_and_a_wrong_type_fail(version: str) -> None:
    deployment = next(item for item in overlay("unmeshed") if item["kind"] == "Deployment")
    for field, value in (("repicas", 3), ("minReadySeconds", "5")):
        broken = {**deployment, "spec": {**deployment["spec"], field: value}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(broken, version, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubectl_builds_the_same(name: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("missing tool: kubectl")
    folder = MANIFESTS / "overlays" / name
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert list(yaml.safe_load_all(done.stdout)) == build(folder)


def test_a_missing_resource_does_not_build(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"nothing\.yaml"):
        combine(tmp_path, resources=["nothing.yaml"])


# ── how the files are laid out ──

FILES = sorted(MANIFESTS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_a_file_holds_one_object_and_has_its_kind_as_name(path: Path) -> None:
    (item,) = yaml.safe_load_all(path.read_text())
    if path.name == "kustomization.yaml":
        assert item["kind"] in {"Kustomization", "Component"}
    else:
        # Of several of a kind in a folder, the name follows.
        assert path.stem in {
            item["kind"].lower(),
            f"{item['kind'].lower()}-{item['metadata']['name']}",
        }


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_reads_in_one_screen(name: str) -> None:
    lines = (MANIFESTS / "overlays" / name / "kustomization.yaml").read_text().splitlines()
    assert len(lines) <= 30


def test_the_base_names_no_namespace() -> None:
    assert all("namespace" not in item["metadata"] for item in build(MANIFESTS / "base"))


@pytest.mark.parametrize("pair", [("unmeshed", "prod")], ids="-".join)
def test_overlays_differ_by_components_alone(pair: tuple[str, str]) -> None:
    first, second = (
        yaml.safe_load((MANIFESTS / "overlays" / name / "kustomization.yaml").read_text())
        if name in OVERLAYS
        else None
        for name in pair
    )
    # Until there is a mesh to bring, `unmeshed` must at least be all that `prod` may differ in.
    assert first.keys() <= {"apiVersion", "kind", "namespace", "resources", "components"}
    if second is not None:
        own, others = first.pop("components"), second.pop("components")
        assert second == first
        assert [name for name in others if name in own] == own


def test_every_component_says_what_it_is_for() -> None:
    for name in CHOICES:
        first = (MANIFESTS / "components" / name / "kustomization.yaml").read_text()
        assert first.startswith("# ")
