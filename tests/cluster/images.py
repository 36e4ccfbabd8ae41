"""The images of the suite, built by the project's own builder and loaded in one archive.

STAND_IN=1 builds the stand-in in the place of tensorflow/serving:2.21.0, for where that can't be had.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from serving.errors import ChopstickError
from tests.cluster import models
from tests.cluster.stack import ROOT

MODELS = ROOT / "build" / "e2e" / "models"
SERVING = "tensorflow/serving:2.21.0"
EMBEDDED = "chopstick-embedded:0.1.0"
PROGRAMS = [EMBEDDED, "chopstick-health:0.1.0", "chopstick-tools:0.1.0"]

# Of each model version its image; half_plus_two's has the name that the example overlay gives it.
VERSIONS: dict[tuple[str, int], str] = {
    (name, version): (
        "half-plus-two:1" if name == "half_plus_two" else f"chopstick-classifier:{version}"
    )
    for name, version in models.EVERY
}


def stand_in() -> bool:
    """Whether the embedded server takes the place of TensorFlow Serving."""
    return os.environ.get("STAND_IN", "") not in ("", "0")


def provide(say: Callable[[str], None]) -> None:
    """Make the models, build what has changed and load all of it; ChopstickError if that fails."""
    say("models")
    _run(sys.executable, "-m", "tests.cluster.models", str(MODELS))
    say("images: programs")
    programs = ["chopstick-embedded", "chopstick-health", "chopstick-tools"]
    _images("build", *programs, *(["stand-in"] if stand_in() else []))
    for (name, version), reference in VERSIONS.items():
        say(f"images: {reference}")
        directory = MODELS / name / str(version)
        _images("build", "chopstick-classifier", "--model", str(directory), "--tag", reference)
    say("images: into the cluster")
    _images("load", *PROGRAMS, SERVING, *VERSIONS.values())


def _images(*words: str) -> None:
    _run(sys.executable, "-m", "scripts.images", *words)


def _run(*words: str, folder: Path = ROOT) -> None:
    # Its own progress goes where the reader looks; what is loaded is cut from that.
    done = subprocess.run(words, cwd=folder, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise ChopstickError(
            f"{' '.join(words[1:])}: exit code {done.returncode}", "Its last words are above."
        )
