from __future__ import annotations

import json
from pathlib import Path

import pytest

from model import manifest
from model.manifest import Difference
from serving.errors import ChopstickError


@pytest.fixture
def version(tmp_path: Path) -> Path:
    directory = tmp_path / "1"
    for name in ["saved_model.pb", "variables/variables.index", "assets.extra/warmup"]:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    manifest.write(directory, {"seed": 1})
    return directory


def kinds(directory: Path) -> list[tuple[str, str]]:
    return [(found.path, found.kind) for found in manifest.verify(directory).differences]


def test_untouched_version_is_ok(version: Path) -> None:
    report = manifest.verify(version)
    assert report.ok
    assert report.files == 3
    assert report.manifest_sha256 == manifest.sha256_of(version / manifest.MANIFEST)


def test_manifest_does_not_depend_on_when_or_where(version: Path) -> None:
    before = (version / manifest.MANIFEST).read_bytes()
    (version / manifest.MANIFEST).unlink()
    moved = version.rename(version.with_name("2"))
    manifest.write(moved, {"seed": 1})
    assert (moved / manifest.MANIFEST).read_bytes() == before


def test_every_kind_of_difference_at_once(version: Path) -> None:
    path = version / "saved_model.pb"
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    (version / "assets.extra/warmup").unlink()
    (version / "variables/extra").touch()
    assert kinds(version) == [
        ("assets.extra/warmup", "missing"),
        ("saved_model.pb", "differs"),
        ("variables/extra", "extra"),
    ]


def test_links_and_special_names_are_seen(version: Path) -> None:
    (version / "link").symlink_to(version / "variables")
    (version / ".hidden").touch()
    assert kinds(version) == [(".hidden", "extra"), ("link", "extra")]


def test_file_that_became_a_directory(version: Path) -> None:
    (version / "saved_model.pb").unlink()
    (version / "saved_model.pb").mkdir()
    assert kinds(version) == [("saved_model.pb", "missing")]


def test_dangling_link_in_place_of_a_file(version: Path) -> None:
    (version / "saved_model.pb").unlink()
    (version / "saved_model.pb").symlink_to("nowhere")
    assert manifest.verify(version).differences == (
        Difference("saved_model.pb", "unreadable", "No such file or directory"),
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "format version None"),
        ('{"format_version": 2}', "format version 2, this program reads 1"),
        ('{"format_version": 1}', "'files' is not a list"),
        ('{"format_version": 1, "files": {"a": "short"}}', "'files' is not a list"),
    ],
)
def test_damaged_manifest(version: Path, content: str, expected: str) -> None:
    (version / manifest.MANIFEST).write_text(content)
    with pytest.raises(ChopstickError, match=expected):
        manifest.verify(version)


@pytest.mark.parametrize("name", ["/etc/hostname", "../2/saved_model.pb", ""])
def test_manifest_may_not_point_outside(version: Path, name: str) -> None:
    body = json.loads((version / manifest.MANIFEST).read_text())
    body["files"][name] = "0" * 64
    (version / manifest.MANIFEST).write_text(json.dumps(body))
    with pytest.raises(ChopstickError, match="relative paths"):
        manifest.verify(version)


def test_no_manifest_and_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ChopstickError, match=r"has no assets\.extra/manifest\.json"):
        manifest.verify(tmp_path)
    with pytest.raises(ChopstickError, match="is not a directory"):
        manifest.verify(tmp_path / "none")


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    for name in ["10", "9", ".tmp-1", "latest"]:
        (tmp_path / name).mkdir()
    (tmp_path / "11").touch()
    assert [path.name for path in manifest.versions(tmp_path)] == ["9", "10"]
