"""The images themselves: `make test-images`, with buildah, docker or podman, or IMAGE_BUILD.

They are built as `make build_image` builds them, on the stand-in where TensorFlow Serving's image can't
be had (STAND_IN=1). What is cached stays cached.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from scripts.images import build, catalog, cluster, context, models, pin, registry, run, stores
from scripts.images.oci import Image, Layout
from scripts.images.sbom import bill
from scripts.images.size import sizes
from serving.errors import ChopstickError
from tests.support.ports import free_port
from tests.support.skips import require_tool
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.builder, pytest.mark.timeout(900)]
STAND_IN = os.environ.get("STAND_IN") == "1"


@pytest.fixture(scope="module")
def store() -> stores.Store:
    try:
        return stores.find_store()
    except ChopstickError as error:
        pytest.skip(f"missing tool: {error.message}")


@pytest.fixture(scope="module")
def model(chopstick_models: Path) -> models.Version:
    return models.find(directory=chopstick_models / "1")


@pytest.fixture(scope="module")
def references(store: stores.Store, model: models.Version) -> dict[str, str]:
    """The full name of each image, built."""
    order = [catalog.EMBEDDED, *([catalog.STAND_IN] if STAND_IN else []), *catalog.IMAGES.values()]
    return {image.name: build.build(store, image, model) for image in dict.fromkeys(order)}


@pytest.fixture(scope="module")
def layout(
    store: stores.Store, references: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Layout:
    folder = tmp_path_factory.mktemp("images") / "layout"
    return cluster.export(store, [references[name] for name in catalog.IMAGES], folder)


@pytest.fixture(scope="module")
def images(layout: Layout) -> dict[str, Image]:
    return {image.reference.split("/")[-1].split(":")[0]: image for image in layout.images()}


def test_images_are_within_their_limits(layout: Layout, images: dict[str, Image]) -> None:
    chosen = [images["chopstick-health"], images["chopstick-tools"]]
    found = sizes(layout, chosen)
    assert [size.limit for size in found] == [90_000_000, 160_000_000]
    assert [size for size in found if not size.fits] == []


def test_images_say_who_runs_what_and_what_they_are(
    images: dict[str, Image], model: models.Version
) -> None:
    for name, image in images.items():
        body = image.config["config"]
        assert body["User"] == "65532:65532", name
        assert body["Labels"]["org.opencontainers.image.title"] == name
        assert body["Labels"]["org.opencontainers.image.revision"]
    classifier = images["chopstick-classifier"].config["config"]
    assert classifier["Entrypoint"] == ["/usr/bin/tensorflow_model_server"]
    assert (
        classifier["Labels"]["dev.chopstick.model.digest"]
        == (model.labels()["dev.chopstick.model.digest"])
    )
    assert set(images["chopstick-embedded"].config["config"]["ExposedPorts"]) == {
        "8500/tcp",
        "8501/tcp",
    }


def test_bills_of_materials_are_valid_and_name_what_matters(
    layout: Layout, images: dict[str, Image]
) -> None:
    parts = {
        name: {part["name"] for part in json.loads(bill(layout, image))["components"]}
        for name, image in images.items()
    }
    assert all("libc6" in found for found in parts.values())
    assert "chopstick" in parts["chopstick-classifier"]
    assert {"prometheus_client", "chopstick-serving"} <= parts["chopstick-health"]
    assert not parts["chopstick-health"] & {"numpy", "kubernetes", "click", "rich", "hatchling"}
    assert "tensorflow_cpu" in {part.replace("-", "_") for part in parts["chopstick-embedded"]}


def test_the_model_s_layer_is_the_same_from_another_tree_at_another_time(
    store: stores.Store,
    references: dict[str, str],
    images: dict[str, Image],
    model: models.Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copied = tmp_path / "deep" / "chopstick" / "1"
    shutil.copytree(model.directory, copied)
    for path in copied.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    command, own = stores.build_command(store)
    wrapper = tmp_path / "build-without-cache"
    flags = " ".join(store.timestamp_flags(build.EPOCH) if own else [])
    wrapper.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@" {flags} --no-cache\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("IMAGE_BUILD", str(wrapper))
    monkeypatch.setenv("IMAGE_STORE", store.program)
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    again = build.build(
        store, catalog.CLASSIFIER, models.find(directory=copied), reference="chopstick-again:1"
    )
    layout = cluster.export(store, [again], tmp_path / "layout")
    (second,) = layout.images()
    first = images["chopstick-classifier"]
    assert second.layers[-1].diff_id == first.layers[-1].diff_id
    assert len(second.layers) == len(first.layers)


def test_a_model_that_is_damaged_on_its_way_fails_the_build(
    store: stores.Store,
    references: dict[str, str],
    model: models.Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laid_out = context.lay_out

    def damaged(folder: Path, *arguments: object) -> None:
        laid_out(folder, *arguments)  # type: ignore[arg-type]
        (folder / "models/chopstick/1/saved_model.pb").write_bytes(b"damaged")

    monkeypatch.setattr(context, "lay_out", damaged)
    monkeypatch.setattr(build, "BUILD", tmp_path)
    with pytest.raises(ChopstickError, match=r"saved_model\.pb \(differs\)"):
        build.build(store, catalog.CLASSIFIER, model, reference="chopstick-damaged:1")
    assert not store.exists(catalog.full_name("chopstick-damaged:1"))


@contextmanager
def loopback_registry(log: Path) -> Iterator[str]:
    """A registry for as long as it is needed: `host:port`."""
    crane, port = require_tool("crane"), free_port()
    address = f"127.0.0.1:{port}"
    with log.open("wb") as output:
        command = [crane, "registry", "serve", "--address", address]
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(lambda: run.works([crane, "catalog", "--insecure", address]), address)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_what_is_pushed_is_pinned_by_the_registry_s_own_digest(
    store: stores.Store, references: dict[str, str], tmp_path: Path
) -> None:
    chosen = [references["chopstick-health"], references["chopstick-classifier"]]
    overlay = tmp_path / "overlays" / "prod"
    overlay.mkdir(parents=True)
    tags = {name.rpartition("/")[2].partition(":")[0]: name.rpartition(":")[2] for name in chosen}
    entries = "".join(f'  - name: {name}\n    newTag: "{tag}"\n' for name, tag in tags.items())
    (overlay / pin.FILE).write_text(f"images:\n{entries}")
    with loopback_registry(tmp_path / "registry.log") as address:
        registry.push(store, chosen, f"{address}/team", tmp_path / "pushed.json")
        pin.pin("prod", registry.recorded(tmp_path / "pushed.json"), overlay.parent)
        body = yaml.safe_load((overlay / pin.FILE).read_text())
        crane = require_tool("crane")
        for entry in body["images"]:
            name = f"{entry['newName']}:{entry['newTag']}"
            assert run.output([crane, "digest", "--insecure", name]).strip() == entry["digest"]
    assert len(body["images"]) == 2


# ── started, as the cluster's user, where buildah can do without a runtime ──


@contextmanager
def container(reference: str) -> Iterator[list[str]]:
    """The words before a command that runs in an image."""
    if not shutil.which("buildah") or os.geteuid() != 0:
        pytest.skip("missing tool: buildah, as root (starts images without a container runtime)")
    name = run.output(["buildah", "from", "--pull-never", reference]).strip()
    try:
        yield ["buildah", "run", "--isolation", "chroot", "--user", "65532:65532", name, "--"]
    finally:
        run.output(["buildah", "rm", name])


@pytest.mark.parametrize(
    ("name", "command", "said"),
    [
        ("chopstick-health", ["/opt/chopstick/bin/python", "-m", "serving.health", "-h"], "--poll"),
        ("chopstick-tools", ["chopstick", "--version"], "chopstick, version"),
        ("chopstick-tools", ["chopstick", "load", "--help"], "--json"),
        ("chopstick-embedded", ["tensorflow_model_server", "--version"], "ModelServer: 2.21.0"),
    ],
)
def test_an_image_s_program_starts(
    references: dict[str, str], name: str, command: list[str], said: str
) -> None:
    with container(references[name]) as words:
        assert said in run.output([*words, *command])


def test_bytecode_is_there_for_a_root_that_can_t_be_written(references: dict[str, str]) -> None:
    script = "import sys, serving.protocol as p; print(open(p.__cached__, 'rb').read(8)[4])"
    for name in ("chopstick-health", "chopstick-tools", "chopstick-embedded"):
        with container(references[name]) as words:
            # 1: by hash, and not checked (PEP 552).
            assert run.output([*words, "/opt/chopstick/bin/python", "-c", script]) == "1\n", name


def test_the_tools_say_which_extra_is_not_in_their_image(references: dict[str, str]) -> None:
    with container(references["chopstick-tools"]) as words:
        done = subprocess.run([*words, "chopstick", "train"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "chopstick-serving[model]" in done.stderr


def test_no_image_keeps_its_own_installer(references: dict[str, str]) -> None:
    for name in ("chopstick-health", "chopstick-tools", "chopstick-embedded"):
        with container(references[name]) as words:
            done = subprocess.run(
                [*words, "/opt/chopstick/bin/python", "-m", "pip"], capture_output=True, text=True
            )
        assert "No module named pip" in done.stderr, name
