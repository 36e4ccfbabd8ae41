"""Layouts read back: sizes, files over each other, bills of materials."""

import gzip
import json
from pathlib import Path

import pytest

from scripts.images.catalog import HEALTH
from scripts.images.oci import Layer, Layout
from scripts.images.sbom import bill
from scripts.images.size import sizes, table
from serving.errors import ChopstickError
from tests.images.conftest import LayoutMaker

REFERENCE = "docker.io/library/chopstick-health:1"


def test_upper_layers_replace_and_delete(layout_maker: LayoutMaker) -> None:
    lower = layout_maker.layer(
        {"./a": b"old", "gone": b"x", "gone-too": b"y", "folder/one": b"1", "kept/two": b"2"}
    )
    upper = layout_maker.layer(
        {"a": b"new", ".wh.gone": b"", "folder/.wh..wh..opq": b"", "folder/three": b"3"}
    )
    layout_maker.image(REFERENCE, [lower, upper])
    layout = Layout(layout_maker.folder)
    (image,) = layout.images()
    assert layout.files(image, lambda _: True) == {
        "a": b"new",
        "gone-too": b"y",
        "folder/three": b"3",
        "kept/two": b"2",
    }


def test_a_shared_layer_is_nobody_s_own(layout_maker: LayoutMaker) -> None:
    base = layout_maker.layer({"base": bytes(1_000_000)})
    layout_maker.image(REFERENCE, [base, layout_maker.layer({"a": b"a"})])
    layout_maker.image("docker.io/library/b:1", [base])
    layout = Layout(layout_maker.folder)
    ours, other = sizes(layout, layout.images())
    assert other.own == 0
    assert 0 < ours.own < other.compressed < 10_000
    assert ours.compressed == ours.own + other.compressed
    assert (ours.limit, other.limit) == (90_000_000, None)
    assert "| `chopstick-health:1` |" in table([ours])


def test_a_compressed_layer_counts_as_it_is(layout_maker: LayoutMaker) -> None:
    packed = gzip.compress(b"content")
    digest = layout_maker.blob(packed)
    layout = Layout(layout_maker.folder)
    kind = "application/vnd.oci.image.layer.v1.tar"
    assert layout.compressed_size(Layer(digest, digest, f"{kind}+gzip")) == len(packed)


def test_an_image_over_its_limit_does_not_fit(
    layout_maker: LayoutMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout_maker.image(REFERENCE, [layout_maker.layer({"a": b"a"})])
    layout = Layout(layout_maker.folder)
    (size,) = sizes(layout, layout.images())
    assert size.fits
    assert HEALTH.limit == 90
    assert not type(size)(size.reference, 90_000_001, 0, size.limit).fits


def test_docker_s_index_of_one_image_is_followed(layout_maker: LayoutMaker) -> None:
    layout_maker.image(REFERENCE, [layout_maker.layer({"a": b"a"})])
    (entry,) = layout_maker.manifests
    nested = {
        "manifests": [
            {"digest": "sha256:0", "platform": {"os": "unknown"}},
            {"digest": entry["digest"], "platform": {"os": "linux"}},
        ]
    }
    entry["digest"] = layout_maker.blob(json.dumps(nested).encode())
    index = {"manifests": layout_maker.manifests}
    (layout_maker.folder / "index.json").write_text(json.dumps(index))
    (image,) = Layout(layout_maker.folder).images()
    assert (image.reference, len(image.layers)) == (REFERENCE, 1)


def test_an_image_without_a_name_is_told(layout_maker: LayoutMaker) -> None:
    layout_maker.image("", [layout_maker.layer({"a": b"a"})])
    with pytest.raises(ChopstickError, match="has no name"):
        Layout(layout_maker.folder).images()


# ── bills of materials ──

STATUS = b"""\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
"""
SYSTEM = b'ID=debian\nVERSION_ID="12"\n'
MANIFEST = b'{"trainer": "softmax", "metrics": {"training": {"accuracy": 0.6}}}'


def parts_of(layout: Layout) -> dict[str, dict]:
    (image,) = layout.images()
    text = bill(layout, image)
    body = json.loads(text)
    assert body["specVersion"] == "1.6"
    assert body["metadata"]["component"]["name"] == "chopstick-classifier"
    return {part.get("purl", part["bom-ref"]): part for part in body["components"]}


@pytest.fixture
def files() -> dict[str, bytes]:
    return {
        "usr/lib/os-release": SYSTEM,
        "var/lib/dpkg/status": STATUS,
        "opt/lib/Some_Package-1.2.dist-info/METADATA": (
            b"Name: Some_Package\nVersion: 1.2\nLicense-Expression: MIT\n\nName: not this\n"
        ),
        "models/chopstick/3/assets.extra/manifest.json": MANIFEST,
        "models/chopstick/3/saved_model.pb": b"graph",
        "usr/bin/tensorflow_model_server": b"\x7fELF" + bytes(10),
    }


def write(layout_maker: LayoutMaker, files: dict[str, bytes]) -> Layout:
    layout_maker.image(
        "docker.io/library/chopstick-classifier:3",
        [layout_maker.layer(files)],
        Labels={"org.opencontainers.image.base.name": "tensorflow/serving:2.21.0"},
        Env=["PATH=/bin", "PYTHON_VERSION=3.11.14"],
    )
    return Layout(layout_maker.folder)


def test_a_bill_names_packages_server_and_model(
    layout_maker: LayoutMaker, files: dict[str, bytes]
) -> None:
    parts = parts_of(write(layout_maker, files))
    libc = "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12"
    assert set(parts) == {
        "os:debian",
        libc,
        "pkg:pypi/some-package@1.2",
        "model:chopstick@3",
        "pkg:generic/tensorflow-serving@2.21.0",
        "pkg:generic/python@3.11.14",
    }
    model = parts["model:chopstick@3"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"][0]["alg"] == "SHA-256"
    assert {"name": "model:trainer", "value": "softmax"} in model["properties"]


def test_the_embedded_server_does_not_pass_for_tensorflow_serving(
    layout_maker: LayoutMaker, files: dict[str, bytes]
) -> None:
    files["usr/bin/tensorflow_model_server"] = b"#!/opt/chopstick/bin/python\n"
    assert "pkg:generic/tensorflow-serving@2.21.0" not in parts_of(write(layout_maker, files))


def test_the_same_package_twice_is_one_part(
    layout_maker: LayoutMaker, files: dict[str, bytes], tmp_path: Path
) -> None:
    files["usr/lib/x.dist-info/METADATA"] = b"Name: some.package\nVersion: 1.2\n\n"
    assert len(parts_of(write(layout_maker, files))) == 6
