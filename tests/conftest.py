"""Fixtures that most tests share: a trained model and a server that serves it."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import ModelServer

pytest_plugins = ["tests.support.skips"]

# No test needs TensorFlow's notes about the CPU, and no test process may fill the machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all xdist workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(version: Path, *module_and_arguments: str) -> Path:
    """The base path of a version that `python -m …` makes, by one xdist worker for all."""
    base = version.parent
    base.mkdir(exist_ok=True)
    with base.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not version.exists():
            command = [sys.executable, "-m", *module_and_arguments]
            subprocess.run(command, check=True, capture_output=True)
    return base


@pytest.fixture(scope="session")
def chopstick_models(run_folder: Path) -> Path:
    """Base path with version 1 by the softmax trainer, made once per run. Not to be changed."""
    base = run_folder / "chopstick"
    return made_once(base / "1", "serving.cli", "train", "--out", str(base), "--version", "1")


@pytest.fixture(scope="session")
def busy_models(run_folder: Path) -> Path:
    """Base path of a model whose Predict takes as long as it is asked to. Not to be changed."""
    version = run_folder / "busy" / "1"
    return made_once(version, "tests.support.models", "busy", str(version))


@pytest.fixture(scope="session")
def half_plus_two_models(run_folder: Path) -> Path:
    """Base path of half_plus_two with Predict, Regress and Classify. Not to be changed."""
    version = run_folder / "half_plus_two" / "1"
    return made_once(version, "tests.support.models", "regress", str(version))


@pytest.fixture(scope="session")
def model_server(
    chopstick_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    """A server with the trained model, one per worker. Tests that stop or reload take their own."""
    with ModelServer(tmp_path_factory.mktemp("server"), chopstick_models) as server:
        yield server
