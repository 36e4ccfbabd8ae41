"""The base path that replicas serve from: is there a version in it, and if not, make one."""

from __future__ import annotations

import sys
from pathlib import Path

from serving.desk.process import describe_exit, run_bound
from serving.errors import ChopstickError

DEFAULT_MODEL_DIR = Path("models/chopstick")


def versions(base_path: Path) -> list[int]:
    """Return the versions in a base path, newest first: children whose whole name is a number."""
    if not base_path.is_dir():
        return []
    return sorted(
        (int(child.name) for child in base_path.iterdir() if child.name.isdecimal()), reverse=True
    )


def require_versions(base_path: Path) -> None:
    """Raise ChopstickError unless `base_path` holds a version that looks like a SavedModel."""
    train = f"train one first: chopstick train --out {base_path}"
    if not base_path.exists():
        raise ChopstickError(f"no model: there is no directory {base_path}", train)
    if not base_path.is_dir():
        raise ChopstickError(
            f"{base_path} is no directory",
            "give the base path: the directory that holds the numbered versions",
        )
    found = versions(base_path)
    if not found:
        hint = train
        if (base_path / "saved_model.pb").exists() and base_path.name.isdecimal():
            hint = f"{base_path} is itself a version; give the directory above: {base_path.parent}"
        raise ChopstickError(f"no model: {base_path} holds no numbered version", hint)
    newest = base_path / str(found[0])
    if not any((newest / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise ChopstickError(
            f"{newest}, the newest version, holds no saved_model.pb",
            "export it again, or remove it so that the version before is served",
        )


def train(base_path: Path, *, quiet: bool = False) -> None:
    """Run `chopstick train --out base_path`; a process, so that TensorFlow stays out of this one.

    Progress goes to standard error unless `quiet`. Raises ChopstickError with its last words.
    """
    code, said = run_bound(
        [sys.executable, "-P", "-m", "serving.cli", "train", "--out", str(base_path)], quiet=quiet
    )
    if code != 0:
        words = said.strip().splitlines()
        raise ChopstickError(
            f"training {describe_exit(code)}" + (f": {words[-1]}" if words else ""),
            f"run it alone to see why: chopstick train --out {base_path}",
        )
