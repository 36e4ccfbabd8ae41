"""`chopstick verify`: check model versions against the digests they were exported with."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from model import manifest
from serving.errors import ChopstickError


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(directory: Path, as_json: bool) -> None:
    """Check DIRECTORY, a model version or a base path with versions in it.

    Every file's SHA-256 is compared with the manifest of the export. Exit status 1 when a file
    differs, is missing or is extra.
    """
    reports = [manifest.verify(version) for version in _versions(directory)]
    if as_json:
        click.echo(json.dumps([_as_dict(report) for report in reports], indent=2))
    else:
        for report in reports:
            _print(report)
    if not all(report.ok for report in reports):
        sys.exit(1)


def _versions(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise ChopstickError(
            f"'{directory}' is not a directory",
            "Give a model version such as models/chopstick/1, or the base path models/chopstick.",
        )
    if (directory / manifest.MANIFEST).exists():
        return [directory]
    # With a SavedModel's own file it is a version without a manifest, which verify() says.
    found = [] if (directory / "saved_model.pb").exists() else manifest.versions(directory)
    return found or [directory]


def _as_dict(report: manifest.Report) -> dict[str, object]:
    return {
        "directory": str(report.directory),
        "ok": report.ok,
        "files": report.files,
        "manifest_sha256": report.manifest_sha256,
        "differences": [asdict(difference) for difference in report.differences],
    }


def _print(report: manifest.Report) -> None:
    if report.ok:
        click.echo(
            f"ok\t{report.directory}\t{report.files} files\tmanifest {report.manifest_sha256}"
        )
        return
    for difference in report.differences:
        click.echo(f"{difference.kind}\t{report.directory / difference.path}\t{difference.detail}")
    click.echo(
        f"error: {report.directory} is not as it was exported: "
        f"{len(report.differences)} of {report.files} files",
        err=True,
    )
    click.echo(
        "  Export it again with 'chopstick train', or restore the files that are named.", err=True
    )
