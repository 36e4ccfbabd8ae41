"""Verify a model version and lay it out for its image: the same bytes wherever it is built.

A step of the Dockerfile beside it, with the standard library alone.
"""

# ruff: noqa: INP001, T201 - a build step, not a package
from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from model import manifest
from serving.errors import ChopstickError

# What a checkout, an umask or a clock would put in: everything has this one time and these modes.
TIME = 0
DIRECTORY, FILE = 0o755, 0o644


def prepare(source: Path, root: Path, name: str, version: str) -> manifest.Report:
    """Copy the version at `source` to `root`/models/`name`/`version`, with a models.config beside.

    Raises ChopstickError, and copies nothing, unless the files are those of the manifest.
    """
    if not version.isascii() or not version.isdecimal():
        raise ChopstickError(
            f"MODEL_VERSION '{version}' is not a number",
            "A model server serves directories whose names are numbers: --build-arg MODEL_VERSION=1",
        )
    report = manifest.verify(source)
    if not report.ok:
        wrong = ", ".join(f"{found.path} ({found.kind})" for found in report.differences)
        raise ChopstickError(
            f"model {name} version {version} is not as it was exported: {wrong}",
            "Export it again, or restore the files that are named; then build again.",
        )
    models = root / "models"
    shutil.copytree(source, models / name / version)
    # For `docker run IMAGE` without arguments: a Dockerfile's CMD can't name the model.
    (models / "models.config").write_text(
        f'model_config_list {{ config {{ name: "{name}" base_path: "/models/{name}" '
        'model_platform: "tensorflow" } }\n',
        encoding="utf-8",
    )
    normalise(root)
    return report


def normalise(root: Path) -> None:
    """Give everything below `root`, and itself, the same times and modes."""
    for folder, _, files in os.walk(root, topdown=False):
        for path in [*(Path(folder, file) for file in files), Path(folder)]:
            path.chmod(DIRECTORY if path.is_dir() else FILE)
            os.utime(path, (TIME, TIME))


if __name__ == "__main__":
    try:
        done = prepare(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    except ChopstickError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"verified: {done.files} files, manifest {done.manifest_sha256}")
