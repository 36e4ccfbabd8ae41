"""Kustomize as a function: what to build in, Kubernetes objects out."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import cache
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import yaml

from tests.support.skips import ROOT, require_tool

MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in MANIFESTS.glob("components/*/kustomization.yaml"))
LINKERD = ROOT / "mesh" / "linkerd"
# Helm values, no objects.
VALUES = LINKERD / "control-plane"

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
# Components of mesh/linkerd, in the order in which an overlay has to list them, each with those that
# it stands on.
MESH: dict[str, tuple[str, ...]] = {
    "inject": (),
    "traffic": ("inject",),
    "policy": ("inject",),
    "policy-audit": ("policy",),
    "ingress": ("inject",),
    "ingress-cert-manager": ("ingress",),
    "ingress-jwt": ("ingress",),
}
# Pairs that make no sense, and why.
EXCLUSIVE = {
    frozenset({"model-volume", "model-image-volume"}): "both mount the models at /models",
    frozenset({"model-volume", "no-sidecar"}): "the sidecar is what copies new versions in",
    frozenset({"no-sidecar", "policy"}): "the kubelet would ask a port that is for named callers",
}
# What the mesh is crossed with: every component alone would be hundreds of builds, and what they
# change is in different places.
BESIDE_MESH = (
    (),
    ("network-policy", "autoscaling", "model-volume", "embedded-server"),
    ("no-sidecar",),
)
# The largest of them all.
EVERYTHING = ("network-policy", "autoscaling", "inject", "traffic", "policy", "ingress")

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
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


@cache
def _overlay(name: str) -> list[Object]:
    return build(MANIFESTS / "overlays" / name)


def overlay(name: str) -> list[Object]:
    """The objects of one of the project's overlays, to keep; it is built once."""
    return deepcopy(_overlay(name))


def combine(folder: Path, components: Sequence[str] = (), **more: Any) -> list[Object]:
    """The objects of the base with components, as an overlay in `folder` would have them.

    `more` are further fields of its kustomization.yaml; `resources` replaces the base.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def reference(path: Path) -> str:
        return os.path.relpath(path, folder.resolve())

    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "combined",
        "resources": [reference(MANIFESTS / "base")],
        "components": [reference(component(name)) for name in (ALWAYS, *components)],
        **more,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return build(folder)


@cache
def _combined(components: tuple[str, ...]) -> list[Object]:
    with tempfile.TemporaryDirectory() as folder:
        return combine(Path(folder), components)


def combined(components: Iterable[str] = ()) -> list[Object]:
    """The objects of the base with components, to keep; each set is built once."""
    return deepcopy(_combined(tuple(components)))


def component(name: str) -> Path:
    """The folder of a component, of the mesh's or of the others."""
    return LINKERD / name if name in MESH else MANIFESTS / "components" / name


def sensible(components: Iterable[str]) -> bool:
    """Whether no two of them exclude each other, and each has what it stands on."""
    given = set(components)
    stands = all(given.issuperset(MESH.get(name, ())) for name in given)
    return stands and not any(pair <= given for pair in EXCLUSIVE)


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    sizes = (combinations(names, size) for size in range(len(names) + 1))
    return [subset for subset in chain.from_iterable(sizes) if sensible(subset)]


def subsets() -> list[tuple[str, ...]]:
    """Every set of components that makes sense, in the order in which an overlay lists them."""
    return _subsets(CHOICES)


def meshed() -> list[tuple[str, ...]]:
    """Every set of the mesh's components that makes sense, with some of the others."""
    last = CHOICES[-1]
    crossed = [
        (
            *(name for name in others if name != last),
            *mesh,
            *(name for name in others if name == last),
        )
        for mesh in _subsets(tuple(MESH))
        if mesh
        for others in BESIDE_MESH
    ]
    return [subset for subset in crossed if sensible(subset)]


def named(subset: Sequence[str]) -> str:
    """A test's name for a set of components."""
    return "+".join(subset) or "base"
