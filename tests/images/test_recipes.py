"""Dockerfiles, locks and contexts: what can be held without a builder."""

import hashlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from scripts.images import catalog, context, locks
from serving.errors import ChopstickError
from tests.images.conftest import ROOT

VERSIONS = yaml.safe_load((ROOT / "versions.yaml").read_text())
OURS = list(catalog.IMAGES.values())
ALL = [*OURS, catalog.STAND_IN]
ARGUMENTS = {"MODEL_NAME": "chopstick", "MODEL_VERSION": "1"}


def text_of(image: catalog.Image) -> str:
    return (ROOT / image.dockerfile).read_text()


def final_stage(image: catalog.Image) -> str:
    return re.split(r"^FROM ", text_of(image), flags=re.MULTILINE)[-1]


# ── Dockerfiles ──


def test_every_dockerfile_is_in_the_catalog() -> None:
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "serving/images").rglob("Dockerfile*")}
    assert there == {image.dockerfile for image in OURS}


@pytest.mark.parametrize("image", ALL, ids=lambda image: image.name)
def test_bases_are_build_arguments_with_a_version(image: catalog.Image) -> None:
    text = text_of(image)
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
    for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        if base in stages:
            continue
        argument = re.fullmatch(r"\$\{(\w+)\}", base)
        assert argument, f"{base} is not a build argument"
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", context.default(text, argument[1]))
    assert "latest" not in text


def test_bases_are_the_versions_that_are_pinned() -> None:
    serving = VERSIONS["cluster"]["tensorflow-serving"]["version"]
    assert context.default(text_of(catalog.CLASSIFIER), "BASE") == f"tensorflow/serving:{serving}"
    assert f"tensorflow/serving:{serving}" == catalog.STAND_IN_TAG
    for image in OURS:
        python = context.default(text_of(image), "PYTHON")
        assert python == f"python:{VERSIONS['python']['minimum']}-slim"
    embedded = f"chopstick-embedded:{catalog.project_version()}"
    assert context.default(text_of(catalog.STAND_IN), "BASE") == embedded


@pytest.mark.parametrize("image", OURS, ids=lambda image: image.name)
def test_what_runs_is_neither_root_nor_the_proxy_nor_behind_a_shell(image: catalog.Image) -> None:
    stage = final_stage(image)
    assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["65532:65532"]
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", stage, re.MULTILINE)
    assert re.match(r'\["/', entry), "not an absolute path in exec form"
    assert "RUN" not in stage, "a step in the final stage is a layer that depends on the clock"
    assert not re.search(r"^(ADD|VOLUME|HEALTHCHECK) ", stage, re.MULTILINE)


@pytest.mark.parametrize("image", OURS, ids=lambda image: image.name)
def test_packages_come_with_hashes_and_without_resolution(image: catalog.Image) -> None:
    text = text_of(image).replace("\\\n", " ")
    for command in re.findall(r"pip [^\n&]*install[^\n&]*", text):
        assert "--no-deps" in command
        assert "--require-hashes" in command or "--no-index" in command


def test_embedded_server_starts_as_tensorflow_serving_does() -> None:
    stage = final_stage(catalog.EMBEDDED)
    assert "MODEL_NAME=model MODEL_BASE_PATH=/models" in stage
    script = (ROOT / "serving/images/embedded/tf_serving_entrypoint.sh").read_text()
    assert "exec /usr/bin/tensorflow_model_server --port=8500 --rest_api_port=8501" in script


# ── locks ──

LOCK = """\
app-a==1.0 \\
    --hash=sha256:aa
    # via chopstick-serving (pyproject.toml)
deep==3.0 ; python_full_version < '3.12' \\
    --hash=sha256:dd
    # via
    #   app-a
    #   other
deep==4.0 ; python_full_version >= '3.12' \\
    --hash=sha256:d4
    # via app-a
other==2.0 \\
    --hash=sha256:bb
    # via chopstick-serving (pyproject.toml:dev)
tool==9.0 \\
    --hash=sha256:cc
    # via deep
"""


def test_subset_is_what_is_reached_letter_for_letter() -> None:
    entries = locks.parse(LOCK)
    text = locks.subset(entries, ["app-a"], unused=["tool"])
    assert text == locks.HEADER + (
        "app-a==1.0 \\\n    --hash=sha256:aa\n"
        "deep==3.0 ; python_full_version < '3.12' \\\n    --hash=sha256:dd\n"
        "deep==4.0 ; python_full_version >= '3.12' \\\n    --hash=sha256:d4\n"
    )
    assert "tool==9.0" in locks.subset(entries, ["other"])
    with pytest.raises(ChopstickError, match="'absent' is not in"):
        locks.subset(entries, ["absent"])


def test_locks_are_in_step_with_the_project_s() -> None:
    stale = [path for path, text in locks.all_locks() if (ROOT / path).read_text() != text]
    assert stale == [], "run: make lock"


def names_in(image: catalog.Image) -> set[str]:
    return {entry.name for entry in locks.parse((ROOT / str(image.lock)).read_text())}


def test_each_image_has_what_it_asks_for_and_no_more() -> None:
    health = names_in(catalog.HEALTH)
    assert {"grpcio", "prometheus-client", "protobuf"} <= health
    assert len(health) < 10
    heavy = {"tensorflow", "tensorflow-cpu"}
    assert heavy <= names_in(catalog.EMBEDDED)
    for image in (catalog.HEALTH, catalog.TOOLS):
        assert not names_in(image) & (heavy | {"keras", "pytest", "setuptools"})
    assert not health & {"numpy", "kubernetes", "click", "rich"}


def test_requirements_of_every_extra_are_in_the_lock_of_its_image() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for image in (catalog.HEALTH, catalog.TOOLS, catalog.EMBEDDED):
        for extra in image.extras:
            wanted = map(Requirement, project["project"]["optional-dependencies"][extra])
            own = {found.name for found in wanted if found.name != "chopstick-serving"}
            assert own <= names_in(image) | {"tensorflow"}


def test_an_extra_that_is_gone_is_told() -> None:
    project = {"project": {"dependencies": ["click>=8"], "optional-dependencies": {"a": []}}}
    with pytest.raises(ChopstickError, match="no extra 'health'"):
        locks.roots(project, ["health"])


# ── contexts ──


@pytest.mark.parametrize("image", ALL, ids=lambda image: image.name)
def test_what_a_dockerfile_copies_is_there(image: catalog.Image) -> None:
    for path in context.copied(text_of(image), ARGUMENTS):
        assert path.startswith("models/") or (ROOT / path).exists(), path


def test_copied_fills_arguments_and_leaves_other_stages_out() -> None:
    text = "ARG A=x\nCOPY --chmod=755 one ${A} /to/\nCOPY --from=stage two /\nCOPY ${B}/c /\n"
    assert context.copied(text, {"B": "b"}) == ["one", "x", "b/c"]


def lay_out_tools(folder: Path) -> dict[str, str]:
    context.lay_out(folder, catalog.TOOLS.dockerfile, {}, {})
    return {
        f"{path.relative_to(folder)} {path.stat().st_mode:o} {path.stat().st_mtime:.0f}": (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )
        for path in context.walk(folder)
    }


def test_a_context_holds_the_copied_alone_and_is_the_same_everywhere(tmp_path: Path) -> None:
    first = lay_out_tools(tmp_path / "one")
    (tmp_path / "deep").mkdir()
    second = lay_out_tools(tmp_path / "deep" / "two")
    assert first == second
    names = {line.split()[0] for line in first}
    assert {"serving/cli/predict.py", "model/manifest.py", "pyproject.toml"} <= names
    top = {name.split("/")[0] for name in names} - {"."}
    assert top == {"LICENSE", "README.md", "model", "pyproject.toml", "serving"}
    assert not [name for name in names if "__pycache__" in name or "Dockerfile" in name]
    assert {line.split()[2] for line in first} == {"0"}
    assert {line.split()[1] for line in first} <= {"100644", "100755", "40755"}


def test_a_context_does_not_keep_what_was_there_before(tmp_path: Path) -> None:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "secret").write_text("left over")
    context.lay_out(folder, catalog.TOOLS.dockerfile, {}, {})
    assert not (folder / "secret").exists()


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChopstickError, match="models/chopstick/77"):
        context.lay_out(
            tmp_path / "context",
            catalog.CLASSIFIER.dockerfile,
            {**ARGUMENTS, "MODEL_VERSION": "77"},
            {},
        )


def test_a_build_by_hand_sends_nothing_that_is_not_named() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    needed = {path for image in ALL for path in context.copied(text_of(image), ARGUMENTS)}
    assert let_in == {path.split("/")[0] for path in needed}


# ── names ──


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("chopstick-health:0.1.0", "docker.io/library/chopstick-health:0.1.0"),
        ("tensorflow/serving:2.21.0", "docker.io/tensorflow/serving:2.21.0"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        ("registry.example/b:1", "registry.example/b:1"),
    ],
)
def test_full_names_are_the_kubelet_s(given: str, full: str) -> None:
    assert catalog.full_name(given) == full
    assert catalog.short_name(full) == given


@pytest.mark.parametrize("given", ["chopstick-health", "localhost:5000/a", "a/b"])
def test_a_name_without_a_tag_is_refused(given: str) -> None:
    with pytest.raises(ChopstickError, match="no tag"):
        catalog.full_name(given)
