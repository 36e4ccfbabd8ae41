"""Ports, processes, tables and model directories of the desk."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.desk import ports, servables, table
from serving.desk.process import Child, describe_exit, tail
from serving.desk.replica import parse_request_counts
from serving.desk.supervisor import Row, until
from serving.errors import ChopstickError


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_in_use_is_refused_with_its_number_its_holder_and_the_way_out(listener):
    with pytest.raises(ChopstickError) as caught:
        ports.require_free(listener, "127.0.0.1", "--rest-port")
    assert f"port {listener} (--rest-port) is in use" in caught.value.message
    assert f"(pid {os.getpid()})" in caught.value.message
    assert "--rest-port" in caught.value.remedy


def test_a_free_port_is_accepted():
    ports.require_free(ports.free_ports(1)[0], "127.0.0.1", "--port")


def test_a_port_that_only_closed_connections_remember_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    assert ports.is_free(port)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_an_error_about_the_host(host):
    with pytest.raises(ChopstickError) as caught:
        ports.require_free(ports.free_ports(1)[0], host, "--port")
    assert host in caught.value.message
    assert "127.0.0.1" in caught.value.remedy


def test_free_ports_are_different_and_leave_out_those_in_use(monkeypatch):
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    monkeypatch.setattr(ports, "_RANGE", range(found[0], found[0] + 1))
    with socket.create_server(("127.0.0.1", found[0])), pytest.raises(ChopstickError):
        ports.free_ports(1)


def test_a_missing_model_directory_says_train_first(tmp_path):
    with pytest.raises(ChopstickError, match="no directory") as caught:
        servables.require_versions(tmp_path / "none")
    assert f"chopstick train --out {tmp_path / 'none'}" in caught.value.remedy


def test_a_directory_without_a_numbered_version_is_no_model(tmp_path):
    (tmp_path / "v1").mkdir()
    with pytest.raises(ChopstickError, match="no numbered version"):
        servables.require_versions(tmp_path)


def test_a_version_given_as_base_path_is_recognised(tmp_path):
    version = tmp_path / "1"
    version.mkdir()
    (version / "saved_model.pb").touch()
    with pytest.raises(ChopstickError) as caught:
        servables.require_versions(version)
    assert str(tmp_path) in caught.value.remedy
    servables.require_versions(tmp_path)


def test_an_empty_newest_version_is_named(tmp_path):
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    (tmp_path / "1" / "saved_model.pb").touch()
    with pytest.raises(ChopstickError, match=r"2, the newest version, holds no saved_model\.pb"):
        servables.require_versions(tmp_path)


def test_a_file_is_no_model_directory(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ChopstickError, match="is no directory"):
        servables.require_versions(file)


def test_table_cells():
    row = Row("replica-0", "127.0.0.1:20001", 7, "ready", (2, 1), 12345, 0.3333, 0.00123, 0.25)
    assert table.cells(row) == (
        "replica-0",
        "127.0.0.1:20001",
        "7",
        "ready",
        "2, 1",
        "12,345",
        "33.3%",
        "1.23 ms",
        "250 ms",
    )


def test_table_cells_of_a_replica_that_has_just_died():
    row = Row("replica-0", "127.0.0.1:20001", None, "restarting", (), 0, None, None, None)
    assert table.cells(row)[2:] == ("-", "restarting", "-", "0", "-", "-", "-")


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, ""), (None, ""), (0.001, "▏"), (0.5, "██"), (1.0, "████")]
)
def test_bars(share, expected):
    assert table.bar(share, cells=4) == expected


def test_request_counts_of_one_model():
    page = (
        "# TYPE :tensorflow:serving:request_count counter\n"
        ':tensorflow:serving:request_count{model_name="chopstick",status="OK"} 41\n'
        ':tensorflow:serving:request_count{model_name="chopstick",status="NOT_FOUND"} 2\n'
        ':tensorflow:serving:request_count{model_name="other",status="OK"} 7\n'
    )
    assert parse_request_counts(page, "chopstick") == {"OK": 41, "NOT_FOUND": 2}


def test_exits_are_described():
    assert describe_exit(-signal.SIGKILL) == "was killed by SIGKILL"
    assert describe_exit(255) == "ended with exit code 255"


def gone(pid, seconds=5.0):
    """True once a process has ended; a zombie that nobody reaps here has ended too."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


async def logged(log):
    async def something():
        return bool(tail(log))

    await until(something)


async def test_a_child_logs_stops_and_says_how_it_ended(tmp_path):
    log = tmp_path / "log"
    script = "import time; print('started', flush=True); time.sleep(60)"
    child = await Child.start("sleeper", [sys.executable, "-c", script], log)
    await logged(log)
    await child.stop(5)
    assert child.exit_code == -signal.SIGTERM
    assert tail(log) == ["started"]


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path):
    log = tmp_path / "log"
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(60)"
    )
    child = await Child.start("deaf", [sys.executable, "-c", script], log)
    await logged(log)
    await child.stop(0.1)
    assert child.exit_code == -signal.SIGKILL


async def test_a_program_that_does_not_exist_says_so_in_the_log(tmp_path):
    child = await Child.start("none", [str(tmp_path / "none")], tmp_path / "log")
    assert await child.wait() == 127
    assert "cannot start" in tail(tmp_path / "log")[0]


PARENT = """
import asyncio, sys
from pathlib import Path
from serving.desk import launcher, process, supervisor
{fallback}
async def main():
    log = Path(sys.argv[1])
    script = "import time; print('runs', flush=True); time.sleep(60)"
    child = await process.Child.start("child", [sys.executable, "-c", script], log)
    # Once it runs: before, the launcher itself notices that its parent is gone.
    async def runs():
        return bool(process.tail(log))
    await supervisor.until(runs)
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""
# A launcher that believes it is not on Linux: the watched pipe instead of the kernel's signal.
WITHOUT_PRCTL = """
other = Path(sys.argv[1]).with_name("launcher.py")
other.write_text(Path(launcher.__file__).read_text().replace('"linux"', '"elsewhere"'))
process._LAUNCHER = other
"""


@pytest.mark.parametrize("fallback", ["", WITHOUT_PRCTL], ids=["prctl", "pipe"])
def test_a_child_dies_with_its_parent(fallback, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(fallback=fallback), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    assert gone(child)
