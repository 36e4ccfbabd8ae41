"""OCI image layouts on disk: what is in them, how large it is, and one tar of several images.

Source: the OCI image specification 1.1, image-layout.md and layer.md.
"""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scripts.images.catalog import short_name
from serving.errors import ChopstickError

_NAME = "org.opencontainers.image.ref.name"
# Where containerd looks for the full name.
_CONTAINERD_NAME = "io.containerd.image.name"
_WANTED = re.compile(r"index\.json|oci-layout|blobs/sha256/[0-9a-f]{64}")
_CHUNK = 1 << 20
# Of a file's content: more than any list of packages has, less than a model server's program.
_AT_MOST = 1 << 24


@dataclass(frozen=True)
class Layer:
    """One layer: the digest of what is stored, and of its content uncompressed."""

    digest: str
    diff_id: str
    media_type: str


@dataclass(frozen=True)
class Image:
    """One image of a layout: its full name, the digest of its manifest, its layers from the base up."""

    reference: str
    digest: str
    config: dict[str, Any]
    config_digest: str
    layers: tuple[Layer, ...]


class Layout:
    """An OCI image layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, digest: str) -> Path:
        """Where the content of a digest is."""
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def images(self) -> list[Image]:
        """The images in it; raises ChopstickError for one without a name."""
        index = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
        return [self._image(entry) for entry in index["manifests"]]

    def _image(self, entry: dict[str, Any]) -> Image:
        notes = entry.get("annotations", {})
        reference = notes.get(_CONTAINERD_NAME) or notes.get(_NAME)
        if not reference:
            raise ChopstickError(
                f"image {entry['digest']} has no name", f"It is in {self.folder}/index.json."
            )
        manifest = self._json(entry["digest"])
        if "manifests" in manifest:  # docker keeps one index per image, with its attestations
            return self._image({**_platform_image(manifest), "annotations": notes})
        config_digest = manifest["config"]["digest"]
        config = self._json(config_digest)
        layers = tuple(
            Layer(layer["digest"], diff_id, layer["mediaType"])
            for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
        )
        return Image(reference, entry["digest"], config, config_digest, layers)

    def _json(self, digest: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.blob(digest).read_text(encoding="utf-8"))
        return body

    def compressed_size(self, layer: Layer) -> int:
        """The bytes that a registry would send for a layer: as stored if that is compressed, else gzip's."""
        path = self.blob(layer.digest)
        if not layer.media_type.endswith("tar"):
            return path.stat().st_size
        packer = zlib.compressobj(wbits=31)
        size = 0
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                size += len(packer.compress(chunk))
        return size + len(packer.flush())

    def files(self, image: Image, wanted: Callable[[str], bool]) -> dict[str, bytes]:
        """The first 16 MiB of an image's files whose path (without a leading /) is `wanted`.

        Layers are laid over each other, with what the upper ones delete.
        """
        found: dict[str, bytes] = {}
        for layer in image.layers:
            added: dict[str, bytes] = {}
            for member, content in self._members(layer):
                path = member.name.removeprefix("./").rstrip("/")
                folder, _, name = path.rpartition("/")
                if name == ".wh..wh..opq":
                    _remove(found, folder, keep_itself=True)
                elif name.startswith(".wh."):
                    _remove(found, f"{folder}/{name.removeprefix('.wh.')}".lstrip("/"))
                elif member.isfile() and wanted(path):
                    added[path] = content()
            found.update(added)
        return found

    def _members(self, layer: Layer) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
        with tarfile.open(self.blob(layer.digest), "r:*") as tar:
            for member in tar:

                def read(member: tarfile.TarInfo = member) -> bytes:
                    stream = tar.extractfile(member)
                    return stream.read(_AT_MOST) if stream else b""

                yield member, read

    def name_for_clusters(self) -> None:
        """Write each image's name where containerd, and docker's and podman's `load`, look for it."""
        path = self.folder / "index.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        images = self.images()
        for entry, image in zip(index["manifests"], images, strict=True):
            tag = image.reference.rpartition(":")[2]
            entry["annotations"] = {_CONTAINERD_NAME: image.reference, _NAME: tag}
        path.write_text(json.dumps(index), encoding="utf-8")
        docker = [
            {
                "Config": f"blobs/sha256/{image.config_digest.removeprefix('sha256:')}",
                "RepoTags": [short_name(image.reference)],
                "Layers": [
                    f"blobs/sha256/{layer.digest.removeprefix('sha256:')}" for layer in image.layers
                ],
            }
            for image in images
        ]
        (self.folder / "manifest.json").write_text(json.dumps(docker), encoding="utf-8")

    def pack(self, archive: Path) -> None:
        """Write the layout as one tar, which takes its place only when complete."""
        part = archive.with_name(f"{archive.name}.part")
        with tarfile.open(part, "w") as tar:
            for path in sorted(self.folder.rglob("*")):
                if path.is_file():
                    tar.add(path, arcname=str(path.relative_to(self.folder)))
        part.replace(archive)


def unpack(archive: Path, folder: Path) -> None:
    """Take the files of an OCI layout, and no others, out of a tar."""
    with tarfile.open(archive) as tar:
        for member in tar:
            stream = tar.extractfile(member) if _WANTED.fullmatch(member.name) else None
            if stream:
                _write(stream, folder / member.name)


def _write(stream: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file)


def _platform_image(index: dict[str, Any]) -> dict[str, Any]:
    """The image of an index that holds one, beside attestations of platform `unknown`."""
    entries: list[dict[str, Any]] = index["manifests"]
    return next(
        entry for entry in entries if entry.get("platform", {}).get("os", "linux") != "unknown"
    )


def _remove(found: dict[str, bytes], path: str, *, keep_itself: bool = False) -> None:
    for name in [name for name in found if name.startswith(f"{path}/")]:
        del found[name]
    if not keep_itself:
        found.pop(path, None)
