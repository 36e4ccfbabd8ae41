"""No linter finds anything that is not left on purpose, and every exclusion is still needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.manifests import linters
from tests.manifests.build import CHOICES, OVERLAYS, Object, combine, overlay, sensible
from tests.manifests.linters import Finding
from tests.manifests.test_build import NEWEST

EXCLUSIONS = yaml.safe_load(Path(__file__).with_name("lint_exclusions.yaml").read_text())
# All that has components of its own choice has a network policy, as `unmeshed` has.
COMBINED = "unmeshed"


def written(folder: Path, name: str, objects: list[Object]) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return path


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The overlays, and under `unmeshed` every component as added to it."""
    folder = tmp_path_factory.mktemp("lint")
    files = {name: [written(folder, name, overlay(name))] for name in OVERLAYS}
    for component in CHOICES[1:]:
        together = [CHOICES[0], component, "embedded-server"]
        subset = [name for name in CHOICES if name in together and sensible(together)]
        objects = combine(folder / component, subset)
        files[COMBINED].append(written(folder, f"with-{component}", objects))
    return files


def unexcused(found: dict[str, list[Finding]]) -> list[Finding]:
    """Findings that no exclusion covers where they were found."""
    return sorted(
        {
            item
            for name, items in found.items()
            for item in items
            if name not in places(item.linter).get(item.check, ())
        }
    )


def stale(found: dict[str, list[Finding]], linter: str) -> set[tuple[str, str]]:
    """Exclusions, as check and overlay, for which there is no finding."""
    seen = {(item.check, name) for name, items in found.items() for item in items}
    return {
        (check, name)
        for check, names in places(linter).items()
        for name in names
        if (check, name) not in seen
    }


def places(linter: str) -> dict[str, list[str]]:
    """Where each check of a linter may find something."""
    return {check: entry.get("only", OVERLAYS) for check, entry in EXCLUSIONS[linter].items()}


def test_kube_score(stacks: dict[str, list[Path]]) -> None:
    found = {
        name: [item for file in files for item in linters.kube_score(file, NEWEST)]
        for name, files in stacks.items()
    }
    assert unexcused(found) == []
    assert stale(found, "kube-score") == set()


def test_checkov(stacks: dict[str, list[Path]]) -> None:
    found = linters.checkov(stacks)
    assert unexcused(found) == []
    assert stale(found, "checkov") == set()


def test_linters_find_what_is_wrong(tmp_path: Path) -> None:
    objects = overlay("unmeshed")
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    server = deployment["spec"]["template"]["spec"]["containers"][0]
    server["image"] = "chopstick-classifier:latest"
    server["securityContext"] = {"privileged": True}
    file = written(tmp_path, "broken", objects)
    score = unexcused({"unmeshed": linters.kube_score(file, NEWEST)})
    assert {"container-image-tag", "container-security-context-privileged"} <= {
        item.check for item in score
    }
    found = unexcused(linters.checkov({"unmeshed": [file]}))
    assert {"CKV_K8S_14", "CKV_K8S_16"} <= {item.check for item in found}


def test_an_exclusion_holds_where_it_is_for_and_no_longer_than_needed() -> None:
    finding = Finding("kube-score", "horizontalpodautoscaler-replicas", "", "")
    assert unexcused({"local": [finding]}) == []
    assert unexcused({"unmeshed": [finding]}) == [finding]
    left = stale({"local": [finding]}, "kube-score")
    assert ("deployment-has-poddisruptionbudget", "local") in left
    assert ("horizontalpodautoscaler-replicas", "local") not in left


def test_every_exclusion_has_a_reason() -> None:
    assert all(entry["reason"] for checks in EXCLUSIONS.values() for entry in checks.values())
