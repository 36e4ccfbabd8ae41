"""Kustomize as a function: what to build in, Kubernetes objects out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import yaml

from tests.support.skips import ROOT, require_tool

MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in MANIFESTS.glob("components/*/kustomization.yaml"))

# Part of every overlay, so that it is no choice.
ALWAYS = "namespace"
# In the order in which an overlay has to list them: `embedded-server` replaces what others name.
CHOICES = (
    "network-policy",
    "autoscaling",
    "model-volume",
    "model-image-volume",
    "no-sidecar",
    "embedded-server",
)
# Pairs that make no sense, and why.
EXCLUSIVE = {
    frozenset({"model-volume", "model-image-volume"}): "both mount the models at /models",
    frozenset({"model-volume", "no-sidecar"}): "the sidecar is what copies new versions in",
}

Object = dict[str, Any]


class BuildError(Exception):
    """Kustomize refused; the message is its own."""


def build(folder: Path) -> list[Object]:
    """The objects that `kustomize build` makes of a folder; raises BuildError."""
    done = subprocess.run(
        [require_tool("kustomize"), "build", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode or done.stderr:
        raise BuildError(done.stderr.strip())
    return list(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> list[Object]:
    """The objects of one of the project's overlays."""
    return build(MANIFESTS / "overlays" / name)


def combine(folder: Path, components: Sequence[str] = (), **more: Any) -> list[Object]:
    """The objects of the base with components, as an overlay in `folder` would have them.

    `more` are further fields of its kustomization.yaml; `resources` replaces the base.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def reference(path: str) -> str:
        return os.path.relpath(MANIFESTS / path, folder.resolve())

    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "combined",
        "resources": [reference("base")],
        "components": [reference(f"components/{name}") for name in (ALWAYS, *components)],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return build(folder)


def sensible(components: Iterable[str]) -> bool:
    """Whether no two of them exclude each other."""
    return not any(pair <= set(components) for pair in EXCLUSIVE)


def subsets() -> list[tuple[str, ...]]:
    """Every set of components that makes sense, in the order in which an overlay lists them."""
    sizes = (combinations(CHOICES, size) for size in range(len(CHOICES) + 1))
    return [subset for subset in chain.from_iterable(sizes) if sensible(subset)]


def named(subset: Sequence[str]) -> str:
    """A test's name for a set of components."""
    return "+".join(subset) or "base"
