"""The model version in a classifier image: found, refused, laid out."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from model import manifest
from scripts.images import build, catalog, models
from serving.errors import ChopstickError
from serving.protocol import messages
from serving.server import config
from tests.images.conftest import ROOT


@pytest.fixture(scope="module")
def step() -> ModuleType:
    """The Dockerfile's build step; it is no package."""
    path = ROOT / "serving/images/classifier/prepare.py"
    spec = importlib.util.spec_from_file_location("prepare", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version that verifies; no TensorFlow is needed for that."""
    folder = tmp_path / "given" / "chopstick" / "7"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    manifest.write(folder, {"trainer": "softmax", "metrics": {"training": {"accuracy": 0.6}}})
    return folder


def test_a_version_is_laid_out_with_one_time_and_one_owner_s_modes(
    step: ModuleType, version: Path, tmp_path: Path
) -> None:
    (version / "saved_model.pb").chmod(0o600)
    step.prepare(version, tmp_path / "out", "chopstick", "7")
    found = [path.stat() for path in (tmp_path / "out").rglob("*")]
    assert {stat.st_mtime for stat in found} == {0}
    assert {oct(stat.st_mode) for stat in found} == {"0o40755", "0o100644"}
    assert manifest.verify(tmp_path / "out/models/chopstick/7").ok
    listed = config.read_text_proto(
        str(tmp_path / "out/models/models.config"), messages.ModelServerConfig
    )
    (model,) = listed.model_config_list.config
    assert (model.name, model.base_path) == ("chopstick", "/models/chopstick")


def corrupt(version: Path) -> None:
    (version / "saved_model.pb").write_bytes(b"other")


def extra(version: Path) -> None:
    (version / "added").write_bytes(b"")


def unlisted(version: Path) -> None:
    shutil.rmtree(version / "assets.extra")


@pytest.mark.parametrize("damage", [corrupt, extra, unlisted], ids=lambda damage: damage.__name__)
def test_a_damaged_version_is_refused_before_and_in_the_build(
    step: ModuleType, version: Path, tmp_path: Path, damage
) -> None:
    damage(version)
    with pytest.raises(ChopstickError):
        step.prepare(version, tmp_path / "out", "chopstick", "7")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ChopstickError):
        models.find(directory=version)


def test_a_version_that_is_no_number_is_refused(
    step: ModuleType, version: Path, tmp_path: Path
) -> None:
    with pytest.raises(ChopstickError, match="not a number"):
        step.prepare(version, tmp_path / "out", "chopstick", "new")
    renamed = version.rename(version.parent / "new")
    with pytest.raises(ChopstickError, match="not a number"):
        models.find(directory=renamed)


def test_the_image_tells_its_model(version: Path) -> None:
    found = models.find(directory=version)
    labels = build.labels(catalog.CLASSIFIER, found, "tensorflow/serving:2.21.0")
    digest = manifest.sha256_of(version / manifest.MANIFEST)
    assert labels["dev.chopstick.model.digest"] == f"sha256:{digest}"
    assert labels["dev.chopstick.model.metrics"] == '{"training": {"accuracy": 0.6}}'
    assert labels["org.opencontainers.image.version"] == "7"
    assert labels["org.opencontainers.image.base.name"] == "tensorflow/serving:2.21.0"
    assert build.tag_of(catalog.CLASSIFIER, found).endswith("/chopstick-classifier:7")
    assert not [key for key in build.labels(catalog.HEALTH, found) if "model" in key]


def test_a_number_that_is_not_the_directory_s_is_refused(version: Path) -> None:
    with pytest.raises(ChopstickError, match="version 8 is asked for"):
        models.find("8", version)


def test_an_absent_version_is_told_with_those_that_are_there(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ROOT", tmp_path)
    shutil.copytree(version.parent, tmp_path / "models" / "chopstick")
    shutil.copytree(version, tmp_path / "models" / "chopstick" / "10")
    assert models.find().number == "10"
    assert models.find("7").number == "7"
    with pytest.raises(ChopstickError, match=r"no version 8 \(there are: 7, 10\)"):
        models.find("8")


def test_a_model_is_trained_when_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Path
) -> None:
    monkeypatch.setattr(models, "ROOT", tmp_path)
    trainer = tmp_path / "trainer"
    trainer.write_text(
        f"#!/bin/sh\nmkdir -p models/chopstick\ncp -r '{version}' models/chopstick/1\n"
    )
    trainer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(trainer))
    assert models.find().number == "1"


def test_a_model_without_a_manifest_is_adopted_once(version: Path) -> None:
    unlisted(version)
    models.adopt(version)
    assert models.find(directory=version).name == "chopstick"
    corrupt(version)
    models.adopt(version)
    with pytest.raises(ChopstickError, match="not as it was exported"):
        models.find(directory=version)


def test_only_a_saved_model_is_adopted(tmp_path: Path) -> None:
    with pytest.raises(ChopstickError, match="not a SavedModel"):
        models.adopt(tmp_path)
