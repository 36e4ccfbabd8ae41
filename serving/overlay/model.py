"""What an overlay is to serve: a SavedModel in a directory, or an image that holds one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from model import manifest
from serving.errors import ChopstickError

# What can stand in a path, in an environment file and in a flag without quoting.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# TensorFlow Serving reads a version as a signed 64-bit number.
_LARGEST = 2**63 - 1
_FILES = ("saved_model.pb", "saved_model.pbtxt")


@dataclass(frozen=True)
class Served:
    """A model as an overlay names it.

    `image` and `tag` are what the pods run. `directory` is the version's when the image is still
    to be built, else None. `digest` is the SHA-256 of the version's manifest, empty without one.
    """

    name: str
    version: int
    image: str
    tag: str
    directory: Path | None = None
    digest: str = ""


def from_directory(path: Path, image: str, name: str | None, version: int | None) -> Served:
    """Describe a version's directory, or the base path that holds it, for an image to be built.

    The model is called `name`, else as its base path; without `version` it is the newest there.
    Raises ChopstickError for what is no SavedModel that TensorFlow Serving would load, and for
    one whose files differ from its manifest.
    """
    if not path.is_dir():
        raise ChopstickError(
            f"model '{path}' is not a directory",
            "Give a SavedModel's version such as models/chopstick/1, or models/chopstick.",
        )
    directory = _version_directory(path, version)
    number = _number(directory.name, f"'{directory}'")
    if not any((directory / file).is_file() for file in _FILES):
        raise ChopstickError(
            f"'{directory}' holds no saved_model.pb: it is not a SavedModel",
            "Export with tf.saved_model.save(model, '.../<name>/<version>').",
        )
    return Served(
        name=_checked_name(directory.absolute().parent.name if name is None else name),
        version=number,
        image=image,
        tag=str(number),
        directory=directory,
        digest=_digest(directory),
    )


def from_image(reference: str, name: str, version: int | None) -> Served:
    """Describe an image that holds `/models/<name>/<version>`.

    Without `version` the tag is the version. Raises ChopstickError for an image without a tag,
    or with one that says nothing about the version.
    """
    repository, _, last = reference.rpartition("/")
    if "@" in last:
        raise ChopstickError(
            f"image '{reference}' is named by a digest, which says nothing about the version",
            "Write it as NAME:TAG; a digest can be added to kustomization.yaml.",
        )
    image, _, tag = last.partition(":")
    if not image or tag in {"", "latest"}:
        raise ChopstickError(
            f"image '{reference}' has no tag that stays with one version",
            "Write it as NAME:VERSION, such as registry.example/iris:3. "
            "A directory is meant? There is none of that name.",
        )
    if version is None:
        version = _number(tag, f"the tag of '{reference}'")
    return Served(
        name=_checked_name(name),
        version=_number(str(version), "--version"),
        image=f"{repository}/{image}" if repository else image,
        tag=tag,
    )


def _version_directory(path: Path, version: int | None) -> Path:
    """Return the directory of the version; `path` may be it, or hold it."""
    if any((path / file).exists() for file in _FILES):
        found = path.resolve()
        if version is not None and found.name != str(version):
            raise ChopstickError(
                f"'{path}' is not version {version}", "Leave --version out, or name the other."
            )
        # Its own name matters, not that of a link to it.
        return path if path.name == found.name else found
    versions = manifest.versions(path)
    if not versions:
        raise ChopstickError(
            f"'{path}' holds no saved_model.pb and no version (a directory whose name is a number)",
            "TensorFlow Serving wants <name>/<version>/saved_model.pb: export to such a directory.",
        )
    if version is None:
        return versions[-1]
    for found in versions:
        if int(found.name) == version:
            return found
    there = ", ".join(found.name for found in versions)
    raise ChopstickError(f"'{path}' has no version {version}", f"It has {there}.")


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= _LARGEST):
        raise ChopstickError(
            f"{what} is no version: '{text}' is not a whole number",
            "TensorFlow Serving's versions are numbers: rename the directory, or for an image "
            "say which with --version.",
        )
    return int(text)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ChopstickError(
            f"'{name}' is no model name", "Use letters, digits, '.', '_' and '-': --model-name."
        )
    return name


def _digest(directory: Path) -> str:
    """Return the digest of a version's manifest, '' without one; raises ChopstickError if it differs."""
    if not (directory / manifest.MANIFEST).exists():
        return ""
    report = manifest.verify(directory)
    if not report.ok:
        first = report.differences[0]
        raise ChopstickError(
            f"'{directory}' is not as it was exported: {first.path} ({first.kind})",
            f"`chopstick verify {directory}` lists every difference. Export it again.",
        )
    return report.manifest_sha256
