"""What it costs to import the parts that sidecars and clients are made of."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

# What is held once the import is done: ru_maxrss, where there is /proc, would count the pages of
# the process that forked this one.
PROBE = """
import json, pathlib, resource, sys
import {modules}
status = pathlib.Path("/proc/self/status")
if status.exists():
    kib = next(int(l.split()[1]) for l in status.read_text().splitlines() if l.startswith("VmRSS"))
else:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({{"mib": kib / 1024, "loaded": sorted(sys.modules)}}))
"""
PROTOCOL = "serving.protocol.messages, serving.protocol.services, grpc.aio"


def cost(modules: str) -> tuple[float, float, list[str]]:
    """Seconds (start of the interpreter included), MiB and loaded modules; the best of three."""
    runs = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", PROBE.format(modules=modules)],
            check=True,
            capture_output=True,
            text=True,
        )
        runs.append((time.perf_counter() - began, json.loads(done.stdout)))
    seconds, result = min(runs, key=lambda run: run[0])
    return seconds, result["mib"], result["loaded"]


@pytest.mark.parametrize(
    ("modules", "mib_budget"),
    [(PROTOCOL, 45), ("serving.client", 60)],
    ids=["protocol", "client"],
)
def test_import_stays_within_its_budget(modules: str, mib_budget: int) -> None:
    seconds, mib, loaded = cost(modules)
    heavy = {"tensorflow", "keras", "sklearn", "matplotlib"} & {m.partition(".")[0] for m in loaded}
    assert not heavy
    assert mib < mib_budget
    assert seconds < 0.6


def test_messages_need_no_numpy() -> None:
    assert "numpy" not in cost(PROTOCOL)[2]
