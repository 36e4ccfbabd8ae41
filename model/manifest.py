"""The list of a model version's files and digests: written at export, checked by `verify`.

No TensorFlow here: a deploy step checks a model without being able to run it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from serving.errors import ChopstickError

FORMAT_VERSION = 1
# assets.extra is the directory that TensorFlow leaves to others.
MANIFEST = PurePosixPath("assets.extra/manifest.json")
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Difference:
    """One file that is not as exported; `kind` is `differs`, `missing`, `extra` or `unreadable`."""

    path: str
    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """The outcome for one version: how many files the manifest lists and what is wrong."""

    directory: Path
    files: int
    manifest_sha256: str
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        """True when every file is as it was exported and there is no other."""
        return not self.differences


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex; raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write(directory: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of all files below `directory` together with `facts`.

    The bytes depend on the files and the facts alone: sorted keys, no time, no version number.
    """
    files = {name: sha256_of(directory / name) for name in _files(directory)}
    body = {"format_version": FORMAT_VERSION, **facts, "files": files}
    path = directory / MANIFEST
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps(body, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8"
    )


def read(directory: Path) -> dict[str, Any]:
    """Read and check a version's manifest; raises ChopstickError when there is none that is valid."""
    path = directory / MANIFEST
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ChopstickError(
            f"'{directory}' has no {MANIFEST}: not a version that 'chopstick train' exported",
            "Give a version's directory such as models/chopstick/1, or export again.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ChopstickError(f"cannot read '{path}': {error}", "Export the model again.") from None
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ChopstickError(
            f"manifest '{path}' is not JSON: {error}",
            "It was changed or cut off after the export; export the model again.",
        ) from None
    if not isinstance(body, dict) or body.get("format_version") != FORMAT_VERSION:
        found = body.get("format_version") if isinstance(body, dict) else None
        raise ChopstickError(
            f"manifest '{path}' has format version {found!r}, this program reads {FORMAT_VERSION}",
            "Use the version of this program that exported the model.",
        )
    files = body.get("files")
    if not isinstance(files, dict) or not all(
        _is_inside(name) and _is_digest(digest) for name, digest in files.items()
    ):
        raise ChopstickError(
            f"manifest '{path}': 'files' is not a list of relative paths with SHA-256 digests",
            "It was changed after the export; export the model again.",
        )
    return body


def verify(directory: Path) -> Report:
    """Compare a version's files with its manifest.

    Raises ChopstickError when the directory or a valid manifest is missing.
    """
    if not directory.is_dir():
        raise ChopstickError(
            f"model version '{directory}' is not a directory",
            "Give a version's directory such as models/chopstick/1.",
        )
    expected: dict[str, str] = read(directory)["files"]
    present = set(_files(directory)) - {str(MANIFEST)}
    differences = []
    for name in sorted(expected.keys() | present):
        if name not in expected:
            differences.append(Difference(name, "extra", "not in the manifest"))
        elif name not in present:
            differences.append(Difference(name, "missing", "in the manifest, not on disk"))
        else:
            try:
                found = sha256_of(directory / name)
            except OSError as error:
                differences.append(Difference(name, "unreadable", error.strerror or str(error)))
                continue
            if found != expected[name]:
                detail = f"SHA-256 {found[:12]}…, exported as {expected[name][:12]}…"
                differences.append(Difference(name, "differs", detail))
    return Report(directory, len(expected), sha256_of(directory / MANIFEST), tuple(differences))


def versions(base: Path) -> list[Path]:
    """Return the version directories of a base path (names that are numbers), lowest first."""
    found = [
        entry
        for entry in base.iterdir()
        if entry.name.isascii() and entry.name.isdecimal() and entry.is_dir()
    ]
    return sorted(found, key=lambda entry: int(entry.name))


def _files(directory: Path) -> list[str]:
    """Every file below, as relative POSIX paths, sorted; a link to a directory counts as a file."""
    return sorted(
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def _is_inside(name: object) -> bool:
    """Tell whether a manifest's path stays below the version's directory."""
    if not isinstance(name, str) or not name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_digest(digest: object) -> bool:
    return isinstance(digest, str) and len(digest) == 64 and set(digest) <= _HEX
