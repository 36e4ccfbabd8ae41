"""Which builder, which store, which cluster: found by itself, or told what to do."""

import json
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.images import build, catalog, cluster, run, stores
from scripts.images.oci import Layout
from serving.errors import ChopstickError
from tests.images.conftest import LayoutMaker, Programs, run_images

A, B = "docker.io/library/a:1", "docker.io/library/b:1"


# ── stores ──


def test_without_a_program_the_error_says_what_to_install(programs: Programs) -> None:
    with pytest.raises(ChopstickError) as caught:
        stores.find_store()
    assert "no usable image store" in caught.value.message
    assert "docker, podman and buildah" in caught.value.remedy


def test_a_docker_client_without_a_daemon_does_not_count(programs: Programs) -> None:
    programs.add("docker", "exit 1")
    with pytest.raises(ChopstickError) as caught:
        stores.find_store()
    assert "docker is installed, but its daemon does not answer" in caught.value.message
    assert "Start docker's daemon" in caught.value.remedy
    programs.add("buildah")
    assert stores.find_store().program == "buildah"


def test_the_first_that_works_is_taken_and_a_name_overrides(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("buildah", "podman", "docker"):
        programs.add(name)
        assert stores.find_store().program == name
    monkeypatch.setenv("IMAGE_BUILD", "/opt/bin/podman build --squash")
    assert stores.find_store().program == "podman"
    monkeypatch.setenv("IMAGE_STORE", "buildah")
    assert stores.find_store().program == "buildah"
    monkeypatch.setenv("IMAGE_STORE", "crio")
    with pytest.raises(ChopstickError, match="IMAGE_STORE=crio"):
        stores.find_store()


def test_a_replaced_builder_is_called_with_the_agreed_words(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = tmp_path / "words"
    programs.add("buildah")
    programs.add("my-build", f'printf "%s\\n" "$SOURCE_DATE_EPOCH" "$@" > {words}')
    monkeypatch.setenv("IMAGE_BUILD", "my-build first")
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    built = build.build(stores.find_store(), catalog.TOOLS, None)
    assert built == catalog.full_name(f"chopstick-tools:{catalog.project_version()}")
    epoch, first, folder, *flags = words.read_text().splitlines()
    assert (epoch, first) == ("0", "first")
    assert Path(folder, "pyproject.toml").exists()
    assert flags[:4] == ["--tag", built, "--file", str(catalog.ROOT / catalog.TOOLS.dockerfile)]
    assert set(flags[4::2]) == {"--label"}


@pytest.mark.parametrize("replaced", ["", "buildah bud --isolation chroot"])
def test_buildah_gets_its_context_last(
    replaced: str, programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It refuses flags after the context."""
    words = tmp_path / "words"
    programs.add("buildah", f'[ "$1" != bud ] || printf "%s\\n" "$@" > {words}')
    monkeypatch.setenv("IMAGE_BUILD", replaced)
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    build.build(stores.find_store(), catalog.TOOLS, None)
    assert Path(words.read_text().splitlines()[-1]) == tmp_path / "build" / "chopstick-tools"


def test_a_failing_builder_is_told_with_the_end_of_its_log(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs.add("buildah")
    programs.add("my-build", "echo no space left; exit 3")
    monkeypatch.setenv("IMAGE_BUILD", "my-build")
    monkeypatch.setattr(build, "BUILD", tmp_path)
    with pytest.raises(ChopstickError, match=r"(?s)ended with 3.*no space left"):
        build.build(stores.find_store(), catalog.HEALTH, None)
    assert "no space left" in (tmp_path / "chopstick-health.log").read_text()
    monkeypatch.setenv("IMAGE_BUILD", "absent-builder")
    with pytest.raises(ChopstickError, match="cannot run 'absent-builder'"):
        build.build(stores.find_store(), catalog.HEALTH, None)


def test_an_image_that_landed_in_another_store_is_told(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs.add("podman", '[ "$1" = info ]')
    programs.add("my-build")
    monkeypatch.setenv("IMAGE_BUILD", "my-build")
    monkeypatch.setattr(build, "BUILD", tmp_path)
    with pytest.raises(ChopstickError, match="not in podman's store") as caught:
        build.build(stores.find_store(), catalog.HEALTH, None)
    assert "IMAGE_STORE" in caught.value.remedy


def test_the_stand_in_spares_the_real_image(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = {"OCIv1": {"config": {"Labels": {}}}}
    programs.add("buildah", f"echo '{json.dumps(body)}'")
    monkeypatch.setattr(build, "BUILD", tmp_path)
    with pytest.raises(ChopstickError, match="is not our stand-in"):
        build.build(stores.find_store(), catalog.STAND_IN, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "chopstick-helth"], "no image 'chopstick-helth'"),
        (["build", "--tag", "a:1"], "--tag and --base are for one image"),
        (["load", "absent:1"], "absent:1"),
        (["push", "--registry", "https://x", "absent:1"], "absent:1"),
        (["pin", "nope"], "no overlay 'nope'"),
        (["pin"], "OVERLAY is not set"),
    ],
)
def test_a_wrong_word_is_named_with_a_remedy(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    buildah = tmp_path / "buildah"
    buildah.write_text('#!/bin/sh\n[ "$1" = --version ]\n')
    buildah.chmod(0o755)
    done = run_images(*arguments, PATH=str(tmp_path), IMAGE_STORE="buildah", IMAGE_BUILD="")
    assert done.returncode != 0
    error, remedy = done.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: ")
    assert message in error
    assert remedy.startswith("  ")


# ── clusters ──


def kubectl(programs: Programs, context: str, provider: str = "") -> None:
    body = {
        "current-context": context,
        "contexts": [{"context": {"extensions": [{"extension": {"provider": provider}}]}}],
    }
    programs.add("kubectl", f"echo {shlex.quote(json.dumps(body))}")


@pytest.mark.parametrize(
    ("context", "provider", "command"),
    [
        ("kind-demo", "", ["kind", "load", "image-archive", "ARCHIVE", "--name", "demo"]),
        (
            "mine",
            "minikube.sigs.k8s.io",
            ["minikube", "image", "load", "ARCHIVE", "--profile", "mine"],
        ),
    ],
)
def test_kind_and_minikube_are_told_from_the_context(
    programs: Programs, context: str, provider: str, command: list[str]
) -> None:
    kubectl(programs, context, provider)
    with pytest.raises(ChopstickError, match=f"{command[0]} is not on PATH"):
        cluster.load_command()
    programs.add(command[0])
    assert cluster.load_command() == command


def test_another_cluster_needs_to_be_told_how(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ChopstickError, match="kubectl is not on PATH"):
        cluster.load_command()
    programs.add("kubectl", "exit 1")
    with pytest.raises(ChopstickError, match="no current context"):
        cluster.load_command()
    kubectl(programs, "prod-eu")
    with pytest.raises(ChopstickError, match="neither kind's nor minikube's") as caught:
        cluster.load_command()
    assert "IMAGE_LOAD" in caught.value.remedy
    monkeypatch.setenv("IMAGE_LOAD", "my-load --node 1")
    assert cluster.load_command() == ["my-load", "--node", "1", "ARCHIVE"]


class MadeStore(stores.Buildah):
    """A store whose images are made by a test."""

    def __init__(self, fill) -> None:
        self.fill = fill

    def export(self, references: Sequence[str], folder: Path) -> None:
        self.fill(folder)


def two_images(folder: Path) -> None:
    folder.rmdir()
    maker = LayoutMaker(folder)
    base = maker.layer({"etc/os-release": b"ID=debian\n" * 1000})
    maker.image(A, [base, maker.layer({"a": b"a"})])
    maker.image(B, [base, maker.layer({"b": b"b"})])


def test_images_are_loaded_as_one_archive_with_shared_layers_once(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs.add("cp", link=True)
    monkeypatch.setenv("IMAGE_LOAD", f"sh -c 'cp \"$0\" {tmp_path}/got.tar'")
    monkeypatch.setattr(cluster, "BUILD", tmp_path / "build")
    cluster.load(MadeStore(two_images), [A, B])
    with tarfile.open(tmp_path / "got.tar") as tar:
        names = tar.getnames()
        assert len(names) == len(set(names))
        # Two manifests, two configurations, a shared layer and one of each.
        assert len([name for name in names if name.startswith("blobs/")]) == 7
        index = json.load(tar.extractfile("index.json"))
        docker = json.load(tar.extractfile("manifest.json"))
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]] == [
        A,
        B,
    ]
    assert [image["RepoTags"] for image in docker] == [["a:1"], ["b:1"]]
    assert docker[0]["Layers"][0] == docker[1]["Layers"][0]
    assert set(docker[0]["Layers"]) <= set(names)
    assert list((tmp_path / "build").iterdir()) == [], "the archive was left behind"


def test_a_cluster_that_refuses_is_told(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMAGE_LOAD", "sh -c 'exit 4'")
    monkeypatch.setattr(cluster, "BUILD", tmp_path / "build")
    with pytest.raises(ChopstickError, match="ended with 4"):
        cluster.load(MadeStore(two_images), [A, B])
    assert list((tmp_path / "build").iterdir()) == []


def test_docker_s_archive_becomes_a_layout(
    programs: Programs, layout_maker: LayoutMaker, tmp_path: Path
) -> None:
    layout_maker.image(A, [layout_maker.layer({"a": b"a"})])
    saved = tmp_path / "saved.tar"
    with tarfile.open(saved, "w") as tar:
        tar.add(layout_maker.folder, arcname=".", recursive=False)
        for path in layout_maker.folder.rglob("*"):
            tar.add(path, arcname=str(path.relative_to(layout_maker.folder)), recursive=False)
        tar.add(__file__, arcname="../escaped")
    programs.add("cp", link=True)
    programs.add("docker", f'cp {saved} "$3"')
    folder = tmp_path / "unpacked"
    folder.mkdir()
    stores.Docker().export([A], folder)
    assert [image.reference for image in Layout(folder).images()] == [A]
    assert not (tmp_path / "escaped").exists()


def test_an_old_docker_is_told(programs: Programs, tmp_path: Path) -> None:
    saved = tmp_path / "saved.tar"
    with tarfile.open(saved, "w") as tar:
        tar.add(__file__, arcname="manifest.json")
    programs.add("cp", link=True)
    programs.add("docker", f'cp {saved} "$3"')
    folder = tmp_path / "unpacked"
    folder.mkdir()
    with pytest.raises(ChopstickError, match="no OCI layouts"):
        stores.Docker().export([A], folder)


def test_docker_s_digest_is_read_from_what_it_prints(programs: Programs) -> None:
    digest = f"sha256:{'ab' * 32}"
    programs.add("docker", f'[ "$1" = tag ] || echo "1: digest: {digest} size: 1234"')
    assert stores.Docker().push(A, "registry.example/a:1", insecure=False) == digest
    programs.add("docker", "exit 0")
    with pytest.raises(ChopstickError, match="told no digest"):
        stores.Docker().push(A, "registry.example/a:1", insecure=False)


def test_a_failing_program_is_quoted(programs: Programs) -> None:
    programs.add("buildah", "echo 'unauthorized' >&2; exit 1")
    with pytest.raises(ChopstickError, match="unauthorized") as caught:
        stores.Buildah().push(A, "registry.example/a:1", insecure=False)
    assert "logged in" in caught.value.remedy


def test_absent_programs_do_not_work(programs: Programs) -> None:
    assert not run.works(["absent-program"])
