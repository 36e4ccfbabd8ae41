"""Where images are built and kept: docker, podman or buildah, found by itself.

IMAGE_BUILD replaces the command that builds; the image is then looked for in the store that is found,
or in the one that IMAGE_STORE names.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from scripts.images import run
from scripts.images.catalog import full_name
from scripts.images.oci import unpack
from serving.errors import ChopstickError

_BLOB = re.compile(r"[0-9a-f]{64}")
# Layers of fewer bytes are compressed in a second.
_LARGE = 64_000_000
_INSTALL = "Install one of docker, podman and buildah"


class Store(ABC):
    """A local image store and the program that keeps it. References are full names."""

    program: str

    @abstractmethod
    def build_command(self) -> list[str]:
        """The command that takes `--tag … --file … CONTEXT`, as words."""

    def timestamp_flags(self, seconds: int) -> list[str]:
        """Flags that give layers and image this time instead of now."""
        return ["--timestamp", str(seconds)]

    @abstractmethod
    def exists(self, reference: str) -> bool:
        """Whether the image is in the store."""

    @abstractmethod
    def export(self, references: Sequence[str], folder: Path) -> None:
        """Write images into one OCI layout, uncompressed, shared layers once.

        Raises ChopstickError when one is not there or the program can't.
        """

    @abstractmethod
    def push(self, reference: str, target: str, *, insecure: bool) -> str:
        """Push an image under another name; the digest (`sha256:…`) that the registry knows it by.

        Raises ChopstickError with the program's words.
        """

    @abstractmethod
    def labels(self, reference: str) -> dict[str, str]:
        """The image's labels; raises ChopstickError when it is not there."""


class Buildah(Store):
    """buildah, without a daemon."""

    program = "buildah"

    def build_command(self) -> list[str]:
        """With a cache of layers, which is off by default."""
        return ["buildah", "bud", "--layers"]

    def exists(self, reference: str) -> bool:
        """Ask for its description."""
        return run.works(["buildah", "inspect", "--type", "image", reference])

    def export(self, references: Sequence[str], folder: Path) -> None:
        """Push each into the same layout, where a layer that is there is not written again.

        buildah compresses what it pushes into a layout, 50 s for a gigabyte that the cluster unpacks
        again; not into its own `dir` format, whose files are a layout's blobs.
        """
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        for reference in references:
            if self._missing(reference, blobs) > _LARGE:
                with tempfile.TemporaryDirectory(dir=folder.parent) as work:
                    run.output(["buildah", "push", "-q", "-D", reference, f"dir:{work}/image"])
                    for file in Path(work, "image").iterdir():
                        if _BLOB.fullmatch(file.name):
                            file.replace(blobs / file.name)
            run.output(["buildah", "push", "-q", "-D", reference, f"oci:{folder}:{reference}"])

    def _missing(self, reference: str, blobs: Path) -> int:
        """Bytes of an image's layers that are not among `blobs`."""
        text = run.output(["buildah", "inspect", "--type", "image", reference])
        layers = json.loads(json.loads(text)["Manifest"])["layers"]
        return sum(
            layer["size"]
            for layer in layers
            if not (blobs / layer["digest"].removeprefix("sha256:")).exists()
        )

    def push(self, reference: str, target: str, *, insecure: bool) -> str:
        """Without tagging; the digest comes in a file."""
        return _push_with_digest_file(["buildah", "push", "-q"], reference, target, insecure)

    def labels(self, reference: str) -> dict[str, str]:
        """From the image's configuration."""
        text = run.output(["buildah", "inspect", "--type", "image", reference])
        return json.loads(text)["OCIv1"]["config"].get("Labels") or {}


class Podman(Store):
    """podman; its store is buildah's."""

    program = "podman"

    def build_command(self) -> list[str]:
        """As it comes: layers are cached."""
        return ["podman", "build"]

    def exists(self, reference: str) -> bool:
        """Ask."""
        return run.works(["podman", "image", "exists", reference])

    def export(self, references: Sequence[str], folder: Path) -> None:
        """Save each into a layout of its own and put them together: podman can't into one."""
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        index = {"schemaVersion": 2, "manifests": []}
        for number, reference in enumerate(references):
            part = folder / f"part-{number}"
            command = ["podman", "save", "-q", "--format", "oci-dir", "--uncompressed"]
            run.output([*command, "-o", str(part), reference])
            (entry,) = json.loads((part / "index.json").read_text(encoding="utf-8"))["manifests"]
            entry["annotations"] = {"org.opencontainers.image.ref.name": reference}
            index["manifests"].append(entry)  # type: ignore[attr-defined]
            for blob in (part / "blobs" / "sha256").iterdir():
                blob.replace(folder / "blobs" / "sha256" / blob.name)
            (part / "oci-layout").replace(folder / "oci-layout")
            shutil.rmtree(part)
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")

    def push(self, reference: str, target: str, *, insecure: bool) -> str:
        """Without tagging; the digest comes in a file."""
        return _push_with_digest_file(["podman", "push", "-q"], reference, target, insecure)

    def labels(self, reference: str) -> dict[str, str]:
        """From the image's configuration."""
        text = run.output(["podman", "image", "inspect", reference])
        return json.loads(text)[0].get("Labels") or {}


class Docker(Store):
    """docker, with a daemon that answers."""

    program = "docker"

    def build_command(self) -> list[str]:
        """Plain progress, so that steps are lines."""
        return ["docker", "build", "--progress=plain"]

    def timestamp_flags(self, seconds: int) -> list[str]:  # noqa: ARG002
        """None: BuildKit takes the time from SOURCE_DATE_EPOCH."""
        return []

    def exists(self, reference: str) -> bool:
        """Ask for its description."""
        return run.works(["docker", "image", "inspect", reference])

    def export(self, references: Sequence[str], folder: Path) -> None:
        """Unpack what `docker save` writes, an OCI layout since Docker 25."""
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            archive = Path(work, "images.tar")
            run.output(["docker", "save", "-o", str(archive), *references])
            unpack(archive, folder)
        if not (folder / "index.json").exists():
            raise ChopstickError("this docker writes no OCI layouts", "Docker 25 and later do.")

    def push(self, reference: str, target: str, *, insecure: bool) -> str:  # noqa: ARG002
        """Tag, push, read the digest that it prints. Registries on loopback may speak HTTP anyway."""
        run.output(["docker", "tag", reference, target])
        said = run.output(["docker", "push", target], _LOGIN)
        found = re.findall(r"digest: (sha256:[0-9a-f]{64})", said)
        if not found:
            raise ChopstickError(f"`docker push {target}` told no digest", f"It said: {said}")
        return str(found[-1])

    def labels(self, reference: str) -> dict[str, str]:
        """From the image's configuration."""
        text = run.output(["docker", "image", "inspect", reference])
        return json.loads(text)[0]["Config"].get("Labels") or {}


_LOGIN = "Is the registry's address right, and are you logged in (`docker login`, `buildah login`)?"


def _push_with_digest_file(command: list[str], reference: str, target: str, insecure: bool) -> str:
    with tempfile.TemporaryDirectory() as work:
        file = Path(work, "digest")
        flags = ["--digestfile", str(file), *(["--tls-verify=false"] if insecure else [])]
        run.output([*command, *flags, reference, f"docker://{target}"], _LOGIN)
        return file.read_text(encoding="utf-8").strip()


# In the order in which they are looked for, with the question that only a usable one answers:
# a docker client is of no use without its daemon.
STORES: dict[str, tuple[type[Store], list[str]]] = {
    "docker": (Docker, ["docker", "version", "--format", "{{.Server.Version}}"]),
    "podman": (Podman, ["podman", "info"]),
    "buildah": (Buildah, ["buildah", "--version"]),
}


def find_store() -> Store:
    """The store that IMAGE_STORE or IMAGE_BUILD names, or the first that works here.

    Raises ChopstickError saying what was found unusable, and what to install.
    """
    named = os.environ.get("IMAGE_STORE") or _named_by_builder()
    if named and named not in STORES:
        raise ChopstickError(f"IMAGE_STORE={named} is no image store", f"{', '.join(STORES)} are.")
    unusable = []
    for name in [named] if named else STORES:
        store, question = STORES[name]
        if run.works(question):
            return store()
        if shutil.which(name):
            unusable.append(name)
    reasons = [
        f"{name} is installed, but {'its daemon does not answer' if name == 'docker' else 'fails'}"
        for name in unusable
    ]
    where = f" ({named} was asked for)" if named else ""
    raise ChopstickError(
        "; ".join([f"no usable image store{where}", *reasons]),
        "Start docker's daemon, or install podman or buildah."
        if "docker" in unusable
        else f"{_INSTALL}.",
    )


def _named_by_builder() -> str | None:
    words = shlex.split(os.environ.get("IMAGE_BUILD", ""))
    name = Path(words[0]).name if words else ""
    return name if name in STORES else None


def build_command(store: Store) -> tuple[list[str], bool]:
    """The command that builds, and whether it is the store's own."""
    replaced = shlex.split(os.environ.get("IMAGE_BUILD", ""))
    return (replaced, False) if replaced else (store.build_command(), True)


def require(store: Store, references: Sequence[str]) -> list[str]:
    """The full names of images that must be in the store; ChopstickError names the missing ones."""
    full = [full_name(reference) for reference in references]
    if missing := [reference for reference in full if not store.exists(reference)]:
        raise ChopstickError(
            f"not in {store.program}'s store: {', '.join(missing)}", "Build first: make build_image"
        )
    return full


def complete(command: Sequence[str], context: str, flags: Sequence[str]) -> list[str]:
    """The builder's command with its context and flags.

    buildah takes no flag after the context. A script of somebody's own gets the context first,
    where a shell finds it without parsing.
    """
    if Path(command[0]).name in STORES:
        return [*command, *flags, context]
    return [*command, context, *flags]
