"""The model version that goes into a classifier image: found, checked, described."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from model import manifest
from scripts.images.catalog import MODEL_NAME, ROOT
from scripts.say import say, timed
from serving.errors import ChopstickError


@dataclass(frozen=True)
class Version:
    """A version directory of a model, with the name that it is served under."""

    name: str
    directory: Path

    @property
    def number(self) -> str:
        """The version, which is also the image's tag."""
        return self.directory.name

    def labels(self) -> dict[str, str]:
        """What an image tells of its model; metrics as JSON, as trained."""
        facts = manifest.read(self.directory)
        return {
            "dev.chopstick.model.name": self.name,
            "dev.chopstick.model.version": self.number,
            "dev.chopstick.model.digest": "sha256:"
            + manifest.sha256_of(self.directory / manifest.MANIFEST),
            "dev.chopstick.model.trainer": str(facts.get("trainer", "")),
            "dev.chopstick.model.metrics": json.dumps(facts.get("metrics", {}), sort_keys=True),
        }


def find(number: str = "", directory: Path | None = None, name: str = "") -> Version:
    """The version to serve: `directory`, or number `number` of models/chopstick, or the newest there.

    Trains the first one if there is none. Raises ChopstickError, naming what there is, for one that
    does not exist or is not as it was exported.
    """
    if directory is not None:
        version = Version(name or directory.parent.name, directory)
        if number and number != directory.name:
            raise ChopstickError(
                f"version {number} is asked for, but the model is '{directory}'",
                "A model server takes the version from the directory's name: give one of the two.",
            )
        if not directory.name.isdecimal():
            raise ChopstickError(
                f"'{directory}' is not a model version: its name is not a number",
                "Give a version's directory such as models/chopstick/1.",
            )
    else:
        version = Version(name or MODEL_NAME, _of_checkout(number))
    report = manifest.verify(version.directory)
    if not report.ok:
        wrong = ", ".join(f"{found.path} ({found.kind})" for found in report.differences)
        raise ChopstickError(
            f"'{version.directory}' is not as it was exported: {wrong}",
            "Export it again, or restore the files that are named.",
        )
    return version


def _of_checkout(number: str) -> Path:
    base = ROOT / "models" / MODEL_NAME
    if not number and not _versions(base):
        with timed(f"there is no model in models/{MODEL_NAME}: training version 1"):
            subprocess.run(
                [sys.executable, "-m", "serving.cli", "train"],
                cwd=ROOT, check=True, stdout=sys.stderr,
            )  # fmt: skip
    there = _versions(base)
    wanted = base / number if number else max(there, key=lambda path: int(path.name))
    if wanted not in there:
        numbers = ", ".join(path.name for path in there) or "none"
        raise ChopstickError(
            f"models/{MODEL_NAME} has no version {number} (there are: {numbers})",
            "Train the next one: make train_classifier",
        )
    return wanted


def _versions(base: Path) -> list[Path]:
    return manifest.versions(base) if base.is_dir() else []


def adopt(directory: Path) -> None:
    """Write the manifest of a model that came without one: its files as they are now."""
    if (directory / manifest.MANIFEST).exists():
        return
    if not (directory / "saved_model.pb").exists():
        raise ChopstickError(
            f"'{directory}' is not a SavedModel: it has no saved_model.pb",
            "Give a version's directory such as models/half_plus_two/1.",
        )
    manifest.write(directory, {"trainer": "", "metrics": {}})
    say(f"==> {directory} has a manifest now, of its files as they are")
