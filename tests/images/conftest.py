"""Image layouts made by hand, and commands with a PATH of their own."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Before a test takes PATH away.
LINKS = {name: str(shutil.which(name)) for name in ("sh", "cp")}


def run_images(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m scripts.images …`; an empty value takes a variable away."""
    merged = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "scripts.images", *arguments],
        cwd=ROOT,
        env={key: value for key, value in merged.items() if value},
        capture_output=True,
        text=True,
        check=False,
    )


class LayoutMaker:
    """Writes an OCI layout; `layer` and `image` return digests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifests: list[dict] = []
        (folder / "blobs" / "sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs" / "sha256" / digest).write_bytes(content)
        return f"sha256:{digest}"

    def layer(self, files: dict[str, bytes]) -> tuple[str, int]:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return self.blob(stream.getvalue()), len(stream.getvalue())

    def image(self, reference: str, layers: list[tuple[str, int]], **config: object) -> None:
        body = {"config": config, "rootfs": {"diff_ids": [digest for digest, _ in layers]}}
        manifest = {
            "schemaVersion": 2,
            "config": {"digest": self.blob(json.dumps(body).encode())},
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": digest,
                    "size": size,
                }
                for digest, size in layers
            ],
        }
        self.manifests.append(
            {
                "digest": self.blob(json.dumps(manifest).encode()),
                "annotations": {"org.opencontainers.image.ref.name": reference},
            }
        )
        index = {"schemaVersion": 2, "manifests": self.manifests}
        (self.folder / "index.json").write_text(json.dumps(index))


@pytest.fixture
def layout_maker(tmp_path: Path) -> LayoutMaker:
    return LayoutMaker(tmp_path / "layout")


class Programs:
    """A PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.add("sh", link=True)

    def add(self, name: str, script: str = "exit 0", *, link: bool = False) -> None:
        path = self.folder / name
        if link:
            path.symlink_to(LINKS[name])
            return
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    found = Programs(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(found.folder))
    for variable in ("IMAGE_BUILD", "IMAGE_LOAD", "IMAGE_STORE"):
        monkeypatch.delenv(variable, raising=False)
    return found
