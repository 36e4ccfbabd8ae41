"""The project's own files agree with each other and with what the README promises of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.skips import require_tool

ROOT = Path(__file__).resolve().parents[2]
GIT, MAKE = str(shutil.which("git")), str(shutil.which("make"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSIONS = yaml.safe_load((ROOT / "versions.yaml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
# A package that dropped a Python version is there twice, with markers.
LOCKED: dict[str, list[str]] = {}
for _name, _version in re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", LOCK, re.MULTILINE):
    LOCKED.setdefault(canonicalize_name(_name), []).append(_version)


def requirements() -> list[Requirement]:
    """Every requirement in pyproject.toml, whatever extra or group it is in."""
    groups = [
        PROJECT["project"]["dependencies"],
        PROJECT["build-system"]["requires"],
        *PROJECT["project"]["optional-dependencies"].values(),
        *PROJECT["dependency-groups"].values(),
    ]
    found = [Requirement(item) for group in groups for item in group if isinstance(item, str)]
    return [requirement for requirement in found if requirement.name != "chopstick-serving"]


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MAKE, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# ── versions ──


def test_lock_satisfies_every_requirement_of_the_project() -> None:
    for requirement in requirements():
        locked = LOCKED.get(canonicalize_name(requirement.name))
        assert locked, f"{requirement.name} is not in requirements.lock: run make lock"
        for version in locked:
            assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


def test_every_locked_package_has_hashes() -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) == sum(map(len, LOCKED.values())) > 50
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_exact_requirements_and_versions_yaml_name_the_same_packages_and_versions() -> None:
    exact = {
        requirement.name: specifier.version
        for requirement in requirements()
        for specifier in requirement.specifier
        if specifier.operator == "=="
    }
    assert exact.pop("tensorflow-cpu") == exact["tensorflow"]
    assert exact == {name: entry["version"] for name, entry in VERSIONS["pypi"].items()}


def test_python_versions_agree() -> None:
    python = VERSIONS["python"]
    assert PROJECT["project"]["requires-python"] == f">={python['minimum']}"
    assert PROJECT["tool"]["mypy"]["python_version"] == python["minimum"]
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{python['minimum'].replace('.', '')}"
    assert f"--python-version {python['minimum']} " in (ROOT / "Makefile").read_text()
    setup = (ROOT / "scripts" / "setup.sh").read_text()
    assert f'supported="{" ".join(python["supported"])}"' in setup


def test_every_pinned_version_says_when_its_support_ends_and_who_says_so() -> None:
    entries = {
        name: entry
        for section in ("pypi", "cluster", "tools")
        for name, entry in VERSIONS[section].items()
    }
    for name, entry in {**entries, "python": VERSIONS["python"]}.items():
        assert name == "python" or isinstance(entry["version"], str), f"quote {name}'s version"
        assert entry["eol"] is None or entry["source"], name


@pytest.mark.parametrize(
    ("name", "flag"), [("promtool", "--version"), ("grpcurl", "-help"), ("crane", "--help")]
)
def test_tool_runs(name: str, flag: str) -> None:
    done = subprocess.run(
        [require_tool(name), flag], capture_output=True, text=True, check=False, timeout=30
    )
    assert name in done.stdout + done.stderr


# ── make ──


def test_bare_make_lists_every_target_in_one_line() -> None:
    done = make()
    assert done.returncode == 0, done.stderr
    makefile = (ROOT / "Makefile").read_text()
    targets = {
        target
        for line in re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
        for target in line.split()
    } - {"help"}
    assert targets == set(re.findall(r"^([a-z][a-z0-9_-]*):", makefile, re.MULTILINE)) - {"help"}
    for target in targets:
        assert len(re.findall(rf"^  {target} +\S", done.stdout, re.MULTILINE)) == 1, target
    for variable in re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE):
        assert re.search(rf"^  {variable} +\S", done.stdout, re.MULTILINE), variable
    assert max(map(len, done.stdout.splitlines())) <= 110


@pytest.fixture
def bare_tree(tmp_path: Path) -> Path:
    """A tree that has not been set up, on a machine with no Python of its own."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for program in (
        "awk",
        "bash",
        "cat",
        "cksum",
        "cut",
        "dirname",
        "env",
        "grep",
        "make",
        "rm",
        "sh",
    ):
        (tmp_path / "bin" / program).symlink_to(str(shutil.which(program)))
    return tmp_path


def fake_python(folder: Path, version: str, *, has_venv: bool) -> None:
    """An interpreter as `scripts/setup.sh` sees one: it is only asked these two questions."""
    program = folder / "bin" / "python3"
    program.write_text(
        "#!/bin/sh\ncase $2 in\n"
        f"  *version_info*) echo {version} ;;\n"
        f"  *ensurepip*) exit {0 if has_venv else 1} ;;\n"
        "  *) exit 1 ;;\nesac\n"
    )
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("version", "has_venv", "message", "remedy"),
    [
        ("3.9", True, "python3 is Python 3.9", "make setup PYTHON="),
        ("3.14", True, "python3 is Python 3.14", "make setup PYTHON="),
        ("3.11", False, "its venv module is not", "apt-get install python3.11-venv"),
        ("3.12", True, "could not create .venv", "make again"),
    ],
)
def test_setup_says_what_is_wrong_with_python_and_leaves_no_stamp(
    bare_tree: Path, version: str, has_venv: bool, message: str, remedy: str
) -> None:
    fake_python(bare_tree, version, has_venv=has_venv)
    done = subprocess.run(
        [MAKE, "setup"],
        cwd=bare_tree,
        env={"PATH": str(bare_tree / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert remedy in done.stderr
    assert not list(bare_tree.glob(".venv/.installed-*"))


# ── what may be committed ──


def grep(pattern: str) -> list[str]:
    """Lines that match in files that are committed or would be."""
    done = subprocess.run(
        [GIT, "grep", "-nIE", "--untracked", "-e", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def checkout() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")


# Written in pieces, so that this file does not match itself.
INDEX_HOSTS = ["pythonhosted" + r"\.org", "pypi" + r"\.org/simple", "registry" + r"\.npmjs\.org"]
INDEX_HOSTS += ["proxy" + r"\.golang\.org", "deb" + r"\.debian\.org", "static" + r"\.crates\.io"]
MACHINE_PATHS = ["/" + "(home|Users)/[a-z]+/", "/" + "root/", "/" + "work/(main|shared)"]


@pytest.mark.parametrize("pattern", [*INDEX_HOSTS, *MACHINE_PATHS, "--(extra-)?index" + "-url[ =]"])
@pytest.mark.usefixtures("checkout")
def test_no_file_names_a_package_index_or_a_place_on_a_machine(pattern: str) -> None:
    assert grep(pattern) == []


@pytest.mark.parametrize(
    "path", [".venv/bin/python", ".tools/bin/x", "models/chopstick/1/x", ".mypy_cache/x"]
)
@pytest.mark.usefixtures("checkout")
def test_what_is_built_is_ignored(path: str) -> None:
    assert subprocess.run([GIT, "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", [".ci/run", "scripts/setup.sh"])
def test_scripts_can_be_run(path: str) -> None:
    assert os.access(ROOT / path, os.X_OK)
