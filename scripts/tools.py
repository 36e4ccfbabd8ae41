"""Brings what checks and is not on PyPI into `.tools/`, as versions.yaml pins it.

Programs go to `.tools/bin/`, custom resource definitions, which are schemas, to `.tools/crds/`.

Nothing is installed outside `.tools/`. A tool that cannot be had here is named with the way to
get it; that fails the run only with CI=true, since tests that need it say that they were skipped.
"""

# ruff: noqa: T201 - a script that talks to the person who runs it
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".tools" / "bin"
CRDS = ROOT / ".tools" / "crds"


class NotAvailableError(Exception):
    """This machine cannot get the tool; the message says what would help."""


def say(message: str) -> None:
    """Print at once, in order with what the called programs print."""
    print(message, flush=True)


def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it says for the case that it fails."""
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")


def from_go(name: str, tool: dict[str, str]) -> None:
    """Build a pinned Go module.

    Raises NotAvailableError without Go, or when the build fails.
    """
    go = shutil.which("go")
    if go is None:
        raise NotAvailableError(f"needs Go: install it, or put {name} {tool['version']} on PATH")
    say(f"==> {name}: building {tool['go']}@{tool['version']} (a minute the first time)")
    # Built beside and moved, so that an interrupted build leaves nothing that looks complete.
    with tempfile.TemporaryDirectory(dir=BIN) as folder:
        done = run(
            [go, "install", f"{tool['go']}@{tool['version']}"], env={**os.environ, "GOBIN": folder}
        )
        if done.returncode:
            raise NotAvailableError(f"go install failed: {last_line(done.stderr)}")
        Path(folder, name).replace(BIN / name)


def from_debian(name: str, tool: dict[str, str]) -> None:
    """Take one file out of a Debian package, without installing the package.

    Raises NotAvailableError where apt is missing or does not offer the version.
    """
    hint = f"put {name} {tool['version']} on PATH"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NotAvailableError(f"needs apt-get (Debian 12): {hint}")
    # Any Debian revision of the pinned version: a security fix replaces the one before it.
    package = f"{tool['debian']}={tool['version']}*"
    say(f"==> {name}: from Debian's {package}")
    with tempfile.TemporaryDirectory(dir=BIN) as folder:
        # The folder is root's alone: without this apt complains that its own user can't write.
        command = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
        done = run(command, cwd=folder)
        if done.returncode and os.geteuid() == 0:
            say("    apt does not know it; refreshing its lists")
            run(["apt-get", "-q", "update"])
            done = run(command, cwd=folder)
        if done.returncode:
            update = "" if os.geteuid() == 0 else "run `apt-get update` as root once, or "
            raise NotAvailableError(f"{last_line(done.stderr)}; {update}{hint}")
        (archive,) = Path(folder).glob("*.deb")
        run(["dpkg-deb", "-x", str(archive), f"{folder}/files"]).check_returncode()
        Path(folder, "files", tool["file"]).replace(BIN / name)


def from_lock(name: str, tool: dict[str, str]) -> None:
    """Install a Python program into an environment of its own, as its lock says.

    Raises NotAvailableError when the lock is of another version, or the installation fails.
    """
    lock = ROOT / tool["lock"]
    if f"{name}=={tool['version']}" not in lock.read_text(encoding="utf-8").split():
        raise NotAvailableError(f"{tool['lock']} does not hold {name} {tool['version']}")
    uv = str(Path(sys.executable).with_name("uv"))
    home = BIN.parent / name
    python = str(home / "bin" / "python")
    say(f"==> {name}: installing {tool['version']}")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
        [uv, "pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", str(lock)],
    ):
        done = run(command)
        if done.returncode:
            raise NotAvailableError(f"{Path(uv).name} failed: {last_line(done.stderr)}")
    program = BIN / name
    program.unlink(missing_ok=True)
    program.symlink_to(os.path.relpath(home / "bin" / name, BIN))


def from_go_module(name: str, tool: dict[str, str]) -> None:
    """Copy the files of one folder out of a pinned Go module; nothing is built.

    Raises NotAvailableError without Go, when the module can't be had, or has no such folder.
    """
    go = shutil.which("go")
    if go is None:
        raise NotAvailableError(f"needs Go: install it, and run `make tools` for {name}")
    say(f"==> {name}: from {tool['module']}@{tool['version']}")
    # Copied beside and moved, so that an interrupted copy leaves nothing that looks complete.
    with tempfile.TemporaryDirectory(dir=CRDS) as folder:
        # From a folder without a go.mod, which would have a say in what is downloaded.
        command = [go, "mod", "download", "-json", f"{tool['module']}@{tool['version']}"]
        done = run(command, cwd=folder)
        if done.returncode:
            # Go's own word is in the JSON, if it got as far as writing any.
            said = json.loads(done.stdout or "{}").get("Error") or last_line(done.stderr)
            raise NotAvailableError(f"go mod download failed: {said}")
        source = Path(json.loads(done.stdout)["Dir"], tool["crds"])
        files = sorted(source.glob("*.yaml"))
        if not files:
            raise NotAvailableError(f"{tool['module']} has no YAML files in {tool['crds']}")
        copy = Path(folder, name)
        copy.mkdir()
        for file in files:
            # Content alone: Go keeps its files read-only.
            shutil.copyfile(file, copy / file.name)
        shutil.rmtree(CRDS / name, ignore_errors=True)
        copy.replace(CRDS / name)


def product(name: str, tool: dict[str, str]) -> Path:
    """Where a tool is once it was brought."""
    return (CRDS if "crds" in tool else BIN) / name


def way_to(tool: dict[str, str]) -> Callable[[str, dict[str, str]], None]:
    """Return what brings a tool of this kind."""
    if "crds" in tool:
        return from_go_module
    if "go" in tool:
        return from_go
    return from_lock if "lock" in tool else from_debian


def main() -> int:
    """Bring what is missing or of another version; 1 with CI=true if a tool is not there."""
    tools = yaml.safe_load((ROOT / "versions.yaml").read_text(encoding="utf-8"))["tools"]
    for folder in (BIN, CRDS):
        folder.mkdir(parents=True, exist_ok=True)
    missing = 0
    for name, tool in tools.items():
        stamp = BIN.parent / f"{name}.version"
        if product(name, tool).exists() and stamp.exists() and stamp.read_text() == tool["version"]:
            say(f"{name} {tool['version']}: there")
            continue
        stamp.unlink(missing_ok=True)
        try:
            way_to(tool)(name, tool)
        except NotAvailableError as error:
            missing += 1
            print(f"skipped: {name}: {error}", file=sys.stderr)
        else:
            stamp.write_text(tool["version"])
            say(f"{name} {tool['version']}: installed")
    return 1 if missing and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
