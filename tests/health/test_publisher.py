"""From a volume to the server's directory: only whole, verified versions, never none."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import manifest
from serving.health.publisher import COPYING, Publisher
from tests.health.processes import Sidecar
from tests.support.ports import free_port
from tests.support.waiting import wait_for


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume" / "chopstick"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models" / "chopstick"


def add(volume: Path, number: int, size: int = 1000) -> Path:
    """A version with a manifest; its files are no model, which nobody here asks for."""
    version = volume / str(number)
    (version / "variables").mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(os.urandom(size))
    (version / "variables" / "variables.index").write_bytes(b"index")
    seal(version)
    return version


def seal(version: Path) -> None:
    """Write a manifest of the files as they are."""
    (version / manifest.MANIFEST).unlink(missing_ok=True)
    manifest.write(version, {})


def spoil(version: Path) -> None:
    (version / "saved_model.pb").write_bytes(b"other")


def numbered(models: Path) -> list[str]:
    return sorted(entry.name for entry in models.iterdir() if entry.name.isdecimal())


@pytest.fixture
def publisher(volume: Path, models: Path) -> Publisher:
    publisher = Publisher(volume, models, None)
    publisher.prepare()
    return publisher


def test_the_newest_verified_version_is_copied(
    volume: Path, models: Path, publisher: Publisher
) -> None:
    for number in (1, 2):
        add(volume, number)
    found = publisher.look()
    assert (found.copied, found.published, found.refused) == ((2,), (2,), ())
    assert manifest.verify(models / "2").ok
    assert publisher.digest(2) == manifest.verify(models / "2").manifest_sha256
    assert publisher.look().copied == ()


def test_an_unverified_one_is_refused_until_it_changes_and_the_old_goes_on(
    volume: Path, models: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(volume, 1)
    publisher.look()
    spoil(add(volume, 2))
    found = publisher.look()
    assert found.published == (1,)
    assert found.newly_refused == found.refused
    assert (
        "version 2 is not as it was exported: 1 of 2 files; saved_model.pb" in found.refused[0][1]
    )
    assert [entry.name for entry in models.iterdir()] == ["1"]
    # Looked at again only when a file of it changed.
    reads = []
    monkeypatch.setattr("shutil.copytree", lambda *_: reads.append(1))
    again = publisher.look()
    assert (again.refused, again.newly_refused, reads) == (found.refused, (), [])
    monkeypatch.undo()
    seal(volume / "2")
    healed = publisher.look()
    assert (healed.copied, healed.published, healed.refused) == ((2,), (1, 2), ())


@pytest.mark.parametrize(
    "fault", ["no manifest", "missing file", "extra file", "pipe", "loop", "empty", "file"]
)
def test_whatever_is_not_whole_is_refused(
    volume: Path, models: Path, publisher: Publisher, fault: str
) -> None:
    version = add(volume, 1)
    match fault:
        case "no manifest":
            (version / manifest.MANIFEST).unlink()
        case "missing file":
            (version / "saved_model.pb").unlink()
        case "extra file":
            (version / "extra").write_text("x")
        case "pipe":
            os.mkfifo(version / "pipe")
        case "loop":
            (version / "loop").symlink_to(version)
        case "empty":
            shutil.rmtree(version)
            version.mkdir()
        case "file":
            (volume / "7").write_text("no directory")
            spoil(version)
    found = publisher.look()
    assert found.published == ()
    assert [number for number, _ in found.refused] == [1]
    assert list(models.iterdir()) == []


def test_a_version_that_is_removed_goes_but_never_the_last(
    volume: Path, models: Path, publisher: Publisher
) -> None:
    for number in (1, 2):
        add(volume, number)
    publisher.look()
    # Rolling back is removing the newest: the one before has to be there first.
    shutil.rmtree(volume / "2")
    found = publisher.look()
    assert (found.copied, found.removed, numbered(models)) == ((1,), (2,), ["1"])
    shutil.rmtree(volume / "1")
    assert publisher.look().removed == ()
    assert numbered(models) == ["1"]
    shutil.rmtree(volume)
    with pytest.raises(OSError, match="chopstick"):
        publisher.look()
    assert numbered(models) == ["1"]


def test_removal_waits_for_a_successor_that_verifies(
    volume: Path, models: Path, publisher: Publisher
) -> None:
    add(volume, 2)
    publisher.look()
    shutil.rmtree(volume / "2")
    spoil(add(volume, 1))
    found = publisher.look()
    assert (found.removed, found.published) == ((), (2,))


def test_the_required_version_alone_is_published(volume: Path, models: Path) -> None:
    for number in (1, 2, 3):
        add(volume, number)
    publisher = Publisher(volume, models, 2)
    publisher.prepare()
    assert publisher.look().published == (2,)


def test_what_a_cut_off_run_left_is_cleared(volume: Path, models: Path) -> None:
    left = models / f"{COPYING}1"
    left.mkdir(parents=True)
    (left / "saved_model.pb").write_text("half")
    Publisher(volume, models, None).prepare()
    assert list(models.iterdir()) == []


def command(volume: Path, models: Path, *flags: str) -> list[str]:
    return [
        *(sys.executable, "-m", "serving.health", "publish", "--volume", str(volume.parent)),
        *("--models", str(models.parent), *flags),
    ]


def test_publish_exits_0_with_a_version_and_1_with_a_reason(volume: Path, models: Path) -> None:
    def publish(*flags: str) -> subprocess.CompletedProcess[str]:
        words = command(volume, models, *flags)
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)

    ended = publish()
    assert (ended.returncode, numbered(models)) == (1, [])
    assert "no verified version in" in ended.stderr
    spoil(add(volume, 1))
    ended = publish()
    assert ended.returncode == 1
    assert "version 1 is not as it was exported" in ended.stderr
    assert '"event": "version refused"' in ended.stdout
    add(volume, 2)
    assert publish().returncode == 0
    assert numbered(models) == ["2"]
    assert publish("--version", "1").returncode == 1
    ended = publish("--version", "3")
    assert (ended.returncode, "no verified version 3" in ended.stderr) == (1, True)
    ended = publish("--model", "other")
    assert (ended.returncode, "cannot read" in ended.stderr) == (1, True)
    assert "Traceback" not in ended.stderr


def test_a_copy_that_is_killed_leaves_no_version(volume: Path, models: Path) -> None:
    add(volume, 1, 300 << 20)
    process = subprocess.Popen(command(volume, models), stdout=subprocess.DEVNULL)
    wait_for(lambda: (models / f"{COPYING}1" / "saved_model.pb").exists(), "the copy to begin")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert numbered(models) == []
    shutil.rmtree(volume / "1")
    add(volume, 1)
    assert subprocess.run(command(volume, models), check=False, timeout=30).returncode == 0
    assert [entry.name for entry in models.iterdir()] == ["1"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; where none can be mounted, the caller limits file sizes instead."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    yield disk
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_told_and_the_old_version_goes_on(volume: Path, small_disk: Path) -> None:
    models = small_disk / "chopstick"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def publish(*flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(volume, models, *flags),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            preexec_fn=limited,
        )

    add(volume, 1)
    assert publish().returncode == 0
    add(volume, 2, 2 << 20)
    assert publish().returncode == 0
    ended = publish("--version", "2")
    assert ended.returncode == 1
    assert "version 2 could not be copied: " in ended.stderr
    assert [entry.name for entry in models.iterdir()] == ["1"]


def test_beside_a_server_it_publishes_refuses_and_says_so(
    volume: Path, models: Path, tmp_path: Path
) -> None:
    add(volume, 1)
    flags = ("--volume", str(volume.parent), "--models", str(models.parent))
    server = f"127.0.0.1:{free_port()}"
    with Sidecar(tmp_path, server, *flags) as newest:
        wait_for(lambda: (models / "1").is_dir(), "version 1")
        spoil(add(volume, 2))
        refused = "chopstick_health_unverified_versions"
        wait_for(lambda: newest.metric(refused) == 1, "version 2 to be refused")
        # What is served has nothing to do with what was refused.
        assert newest.page().status == 503
        assert [line["version"] for line in newest.logged("version published")] == [1]
        assert [line["version"] for line in newest.logged("version refused")] == [2]
        assert newest.stop() == 0
    with Sidecar(tmp_path, server, *flags, "--version", "2") as required:
        page = required.wait(409)
        assert page.body["reason"] == "unverified"
        assert "version 2 is not as it was exported" in page.body["message"]
        seal(volume / "2")
        wait_for(lambda: (models / "2").is_dir(), "version 2")
        required.wait(503)
