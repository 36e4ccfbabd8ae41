"""Everything builds, the same in every tool, and as three Kubernetes versions have it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.manifests.build import (
    CHOICES,
    LINKERD,
    MANIFESTS,
    MESH,
    OVERLAYS,
    VALUES,
    BuildError,
    build,
    combine,
    component,
    overlay,
    sensible,
)
from tests.manifests.schemas import SchemaError, check
from tests.support.skips import ROOT

NEWEST = yaml.safe_load((ROOT / "versions.yaml").read_text())["cluster"]["kubernetes"]["version"]
# The cluster's version and the two before it: what is supported upstream at any time.
MINOR = int(NEWEST.partition(".")[2])
VERSIONS = [f"1.{minor}" for minor in range(MINOR - 2, MINOR + 1)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_fits_the_schemas(name: str, version: str) -> None:
    for item in overlay(name):
        check(item, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_field_and_a_wrong_type_fail(version: str) -> None:
    deployment = next(item for item in overlay("unmeshed") if item["kind"] == "Deployment")
    for field, value in (("repicas", 3), ("minReadySeconds", "5")):
        broken = {**deployment, "spec": {**deployment["spec"], field: value}}
        with pytest.raises(SchemaError, match="Deployment"):
            check(broken, version)


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

FILES = sorted(
    path
    for folder in (MANIFESTS, LINKERD)
    for path in folder.rglob("*.yaml")
    if not path.is_relative_to(VALUES)
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
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
    first, second = (kustomization(MANIFESTS / "overlays" / name) for name in pair)
    assert first.keys() <= {"apiVersion", "kind", "namespace", "resources", "components"}
    own, others = first.pop("components"), second.pop("components")
    assert second == first
    assert [name for name in others if name in own] == own


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_lists_components_of_the_mesh_that_go_together_in_their_order(name: str) -> None:
    folder = MANIFESTS / "overlays" / name
    listed = [(folder / path).resolve() for path in kustomization(folder).get("components", [])]
    mesh = [path.name for path in listed if path.is_relative_to(LINKERD)]
    assert mesh == [part for part in MESH if part in mesh]
    assert sensible(mesh)


def kustomization(folder: Path) -> dict[str, object]:
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


@pytest.mark.parametrize("name", [*CHOICES, *MESH])
def test_a_component_says_what_it_is_for(name: str) -> None:
    assert (component(name) / "kustomization.yaml").read_text().startswith("# ")


def test_every_file_of_a_component_is_used() -> None:
    for name in (*CHOICES, *MESH):
        folder = component(name)
        text = (folder / "kustomization.yaml").read_text()
        for path in folder.glob("*.yaml"):
            assert path.name in text or path.name == "kustomization.yaml", path
