"""What one sidecar costs, since every pod has one: memory, processor, imports, its end."""

import subprocess
import sys
import time
from pathlib import Path

import grpc

from tests.health.processes import Scripted, Sidecar
from tests.support.resources import usage
from tests.support.waiting import wait_for

MIB = 45
MILLICORES = 10

IMPORTS = """
import sys
import serving.health.__main__, serving.health.sidecar, serving.health.publishing, model.manifest
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_nothing_heavy_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "serving" in loaded
    heavy = {"tensorflow", "numpy", "kubernetes", "click", "rich", "structlog", "uvicorn"}
    assert not loaded & heavy


def test_memory_and_processor_at_work(tmp_path: Path) -> None:
    # Fifty polls in 5 s, each followed by a probe, are fifty seconds' work at the defaults.
    polls, probes = 50, 50
    with (
        Scripted([grpc.StatusCode.OK]) as server,
        Sidecar(tmp_path, server.address) as sidecar,
    ):
        sidecar.wait(200)
        answered = 'chopstick_health_polls_total{result="answered"}'
        before = sidecar.metric(answered)
        began, used = time.monotonic(), cpu_seconds(sidecar.process.pid)
        for _ in range(probes):
            sidecar.page()
        wait_for(lambda: time.monotonic() - began > polls * 0.1, "five seconds", 10)
        used = cpu_seconds(sidecar.process.pid) - used
        assert sidecar.metric(answered) - before > polls * 0.5
        assert used / polls * 1000 < MILLICORES
        assert usage(sidecar.process.pid).rss < MIB


def cpu_seconds(pid: int) -> float:
    """Seconds on a processor, all threads; /proc's own unit is too coarse for so little."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def test_the_publisher_s_part_stays_within_the_budget(
    tmp_path: Path, chopstick_models: Path
) -> None:
    volume, models = tmp_path / "volume", tmp_path / "models"
    volume.mkdir()
    (volume / "chopstick").symlink_to(chopstick_models)
    flags = ("--volume", str(volume), "--models", str(models))
    with (
        Scripted([grpc.StatusCode.OK]) as server,
        Sidecar(tmp_path, server.address, *flags) as sidecar,
    ):
        sidecar.wait(200)
        wait_for(lambda: (models / "chopstick" / "1").is_dir(), "version 1")
        assert usage(sidecar.process.pid).rss < MIB
