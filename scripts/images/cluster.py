"""Putting images into a cluster without a registry: kind, minikube, or the command IMAGE_LOAD."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.images import run
from scripts.images.catalog import BUILD, short_name
from scripts.images.oci import Layout
from scripts.images.stores import Store
from scripts.say import say, timed
from serving.errors import ChopstickError

_MINIKUBE = "minikube.sigs.k8s.io"


def load(store: Store, references: Sequence[str]) -> None:
    """Put images (full names) into every node, as one archive in which a shared layer is once.

    Raises ChopstickError when no way into the cluster is found, or it fails.
    """
    command = load_command()
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="load-") as work:
        archive = Path(work, "images.tar")
        with timed(f"{', '.join(map(short_name, references))}: into one archive"):
            layout = export(store, references, Path(work, "layout"))
            layout.pack(archive)
            shutil.rmtree(layout.folder)
            say(f"    {archive.stat().st_size / 1e6:,.0f} MB, shared layers once")
        with timed(f"{' '.join(command)}: into the cluster"):
            done = subprocess.run(
                [archive if word == "ARCHIVE" else word for word in command], check=False
            )
        if done.returncode:
            raise ChopstickError(
                f"`{' '.join(command)}` ended with {done.returncode}", "Is the cluster running?"
            )


def export(store: Store, references: Sequence[str], folder: Path) -> Layout:
    """The images of a store as an OCI layout, named as a cluster looks for them."""
    folder.mkdir(parents=True)
    store.export(references, folder)
    layout = Layout(folder)
    layout.name_for_clusters()
    return layout


def load_command() -> list[str]:
    """The command that loads an archive, with the word ARCHIVE in the archive's place."""
    if replaced := shlex.split(os.environ.get("IMAGE_LOAD", "")):
        return [*replaced, "ARCHIVE"]
    remedy = (
        "Set IMAGE_LOAD to a command that takes an image archive, or push to a registry instead."
    )
    if not shutil.which("kubectl"):
        raise ChopstickError("kubectl is not on PATH, so that the cluster is unknown", remedy)
    if not run.works(["kubectl", "config", "current-context"]):
        raise ChopstickError(
            "kubectl has no current context: no cluster is chosen",
            "Start kind or minikube, or choose one: kubectl config use-context NAME",
        )
    config = json.loads(run.output(["kubectl", "config", "view", "--minify", "-o", "json"]))
    command = _command_for(config)
    if command is None:
        raise ChopstickError(
            f"context '{config['current-context']}' is neither kind's nor minikube's", remedy
        )
    if not shutil.which(command[0]):
        raise ChopstickError(
            f"context '{config['current-context']}' is {command[0]}'s, but {command[0]} is not on PATH",
            remedy,
        )
    return command


def _command_for(config: dict[str, Any]) -> list[str] | None:
    """The command for a kubeconfig that was reduced to its current context."""
    context: str = config["current-context"]
    # kind names its contexts so; minikube's can have any name, and say whose they are.
    if context.startswith("kind-"):
        name = context.removeprefix("kind-")
        return ["kind", "load", "image-archive", "ARCHIVE", "--name", name]
    extensions = config["contexts"][0]["context"].get("extensions") or []
    if any(item.get("extension", {}).get("provider") == _MINIKUBE for item in extensions):
        return ["minikube", "image", "load", "ARCHIVE", "--profile", context]
    return None
