"""`chopstick overlay new`, from outside the checkout: what it writes builds and keeps the rules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving.overlay import files
from serving.overlay.model import from_directory
from tests.manifests import rules
from tests.manifests.build import MANIFESTS, build
from tests.manifests.rules import workload
from tests.manifests.rules.stack import name_of
from tests.support.skips import ROOT, require_tool

EXAMPLE = MANIFESTS / "overlays" / "example-half-plus-two"


def chopstick(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serving.cli", "overlay", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def new(*arguments: str | Path, cwd: Path) -> str:
    done = chopstick("new", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved_model(version: Path) -> Path:
    """A directory that looks like a SavedModel of somebody else, without a manifest."""
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"\x08\x01")
    return version


def test_an_image_becomes_an_overlay_that_keeps_the_rules(tmp_path: Path) -> None:
    out = new("iris", "--model", "registry.example/team/iris:3", cwd=tmp_path)
    assert out == "kubectl apply -k iris\n"
    assert sorted(path.name for path in (tmp_path / "iris").iterdir()) == [
        "README.md",
        "kustomization.yaml",
        "model.env",
    ]
    objects = build(tmp_path / "iris")
    assert rules.findings(objects) == []
    stack = rules.Stack(objects)
    assert stack.server["image"] == "registry.example/team/iris:3"
    assert stack.model == {"MODEL_NAME": "iris", "MODEL_VERSION": "3", "MODEL_DIGEST": ""}
    assert name_of(stack.one("Namespace")) == "iris"


def test_the_example_is_what_the_command_writes(tmp_path: Path) -> None:
    """By the same base from the same place, so that every byte has to be the same."""
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    overlays = tmp_path / "manifests" / "overlays"
    shutil.rmtree(overlays / "example-half-plus-two")
    new(
        *("example-half-plus-two", "--model", "half-plus-two:1", "--model-name", "half_plus_two"),
        *("--namespace", "half-plus-two", "--base", "../base"),
        cwd=overlays,
    )
    there = {path.name: path.read_text() for path in EXAMPLE.iterdir()}
    made = {path.name: path.read_text() for path in (overlays / EXAMPLE.name).iterdir()}
    assert made == there


def test_a_directory_gets_a_dockerfile(chopstick_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a b" / "overlays"
    folder.mkdir(parents=True)
    out = new("sticks", "--model", chopstick_models, "--dest", "a b/overlays", cwd=tmp_path)
    made = folder / "sticks"
    context = os.path.relpath(chopstick_models, tmp_path)
    assert out.splitlines()[0] == (
        f"docker build --tag sticks:1 --file 'a b/overlays/sticks/Dockerfile' {context}"
    )
    dockerfile = (made / "Dockerfile").read_text()
    assert "\nCOPY 1 /models/chopstick/1\n" in dockerfile
    assert f"BASE=tensorflow/serving:{workload.SERVING}\n" in dockerfile
    objects = build(made)
    assert rules.findings(objects) == []
    assert len(rules.Stack(objects).model["MODEL_DIGEST"]) == 64
    assert str(tmp_path) not in "".join(path.read_text() for path in made.iterdir())


def test_the_newest_version_is_taken_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    for version in ("9", "10", "0007", "draft"):
        saved_model(tmp_path / "iris" / version)
    assert from_directory(tmp_path / "iris", "iris", None, None).version == 10
    assert from_directory(tmp_path / "iris" / "9", "iris", None, None).version == 9
    served = from_directory(tmp_path / "iris", "iris", "flower", 9)
    assert (served.name, served.version, served.tag) == ("flower", 9, "9")
    # TensorFlow Serving reads 0007 as 7.
    served = from_directory(tmp_path / "iris" / "0007", "iris", None, None)
    assert (served.version, served.tag) == (7, "7")


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """A repository with the manifests, at a tag, as a URL of its base."""
    git = require_tool("git")
    repository = tmp_path / "repository"
    shutil.copytree(MANIFESTS, repository / "manifests")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "-q", "."],
        ["add", "."],
        [*identity, "commit", "-q", "-m", "manifests"],
        ["tag", "v1"],
    ):
        subprocess.run([git, *command], cwd=repository, check=True, capture_output=True)
    # What is there after the tag must not be seen.
    (repository / "manifests" / "base" / "kustomization.yaml").unlink()
    return f"file://{repository}//manifests/base?ref=v1"


def test_the_base_may_be_in_a_repository(remote: str, tmp_path: Path) -> None:
    new("iris", "--model", "iris:3", "--base", remote, cwd=tmp_path)
    assert rules.findings(build(tmp_path / "iris")) == []


def test_components_of_a_url_are_beside_its_base(tmp_path: Path) -> None:
    url = "https://github.com/OWNER/REPO//manifests/base?ref=v1&timeout=90s"
    new("iris", "--model", "iris:3", "--base", url, cwd=tmp_path)
    made = yaml.safe_load((tmp_path / "iris" / "kustomization.yaml").read_text())
    assert made["resources"] == [url]
    assert made["components"] == [url.replace("base", "components/namespace")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Iris", "--model", "iris:3"], "NAME 'Iris'"),
        (["../iris", "--model", "iris:3"], "NAME '../iris'"),
        (["iris", "--model", "iris:3", "--namespace", "a_b"], "--namespace 'a_b'"),
        (["iris", "--model", "iris"], "image 'iris' has no tag"),
        (["iris", "--model", "iris:latest"], "no tag that stays"),
        (["iris", "--model", "iris:v3"], "'v3' is not a whole number"),
        (["iris", "--model", "iris@sha256:00"], "by a digest"),
        (["iris", "--model", ":3"], "has no tag"),
        (["iris", "--model", f"iris:{2**63}"], "is not a whole number"),
        (["iris", "--model", "iris:3", "--model-name", "a/b"], "'a/b' is no model name"),
        (["iris", "--model", "./nothing"], "'nothing' is not a directory"),
        (["iris", "--model", "./empty"], "no saved_model.pb and no version"),
        (["iris", "--model", "./named/v1"], "'v1' is not a whole number"),
        (["iris", "--model", "./good", "--version", "2"], "has no version 2"),
        (["iris", "--model", "./good/1", "--version", "2"], "is not version 2"),
        (["iris", "--model", "./hollow"], "holds no saved_model.pb"),
        (["iris", "--model", "iris:3", "--base", "nowhere"], "base 'nowhere' has no kustom"),
        (["iris", "--model", "iris:3", "--base", "https://x/o/r//manifests/base"], "fixed version"),
        (["iris", "--model", "iris:3", "--base", "https://x/o/r?ref=v1"], "no folder of a repos"),
        (["iris", "--model", "iris:3", "--base", "https://x/o/r//k8s?ref=v1"], "not the folder"),
        (["taken", "--model", "iris:3"], "'taken' exists already"),
        (["iris", "--model", "iris:3", "--dest", "file"], "'file' is a file"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    saved_model(tmp_path / "named" / "v1")
    saved_model(tmp_path / "good" / "1")
    (tmp_path / "hollow" / "1").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    done = chopstick("new", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_changed_model_is_refused(chopstick_models: Path, tmp_path: Path) -> None:
    shutil.copytree(chopstick_models, tmp_path / "chopstick")
    with (tmp_path / "chopstick" / "1" / "saved_model.pb").open("ab") as stream:
        stream.write(b"x")
    done = chopstick("new", "iris", "--model", "chopstick", cwd=tmp_path)
    assert done.returncode != 0
    assert "not as it was exported: saved_model.pb (differs)" in done.stderr
    assert not (tmp_path / "iris").exists()


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "iris", {"a": "b"})
    assert list(tmp_path.iterdir()) == []


def test_the_base_image_is_the_one_in_versions_yaml() -> None:
    assert f"tensorflow/serving:{workload.SERVING}" == files.SERVING
