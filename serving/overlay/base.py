"""Where an overlay finds the project's base and components: a path beside it, or a repository."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from serving.errors import ChopstickError

# Of this checkout; an installed package has none.
CHECKOUT = Path(__file__).resolve().parents[2] / "manifests" / "base"
# What Kustomize takes for a repository: REPOSITORY//FOLDER?ref=TAG
_REMOTE = re.compile(r"(?P<repository>.+?)//(?P<folder>[^?]+)\?(?P<query>.+)")
_EXAMPLE = "https://github.com/OWNER/REPO//manifests/base?ref=TAG"


@dataclass(frozen=True)
class Base:
    """References for kustomization.yaml: the base and, beside it, the components."""

    base: str
    components: str

    def component(self, name: str) -> str:
        """Return the reference of a component."""
        return self.components.replace("*", name)


def find(given: str | None, overlay: Path) -> Base:
    """Return the references as `overlay`, a folder that need not exist yet, has to write them.

    `given` is a path to manifests/base or a URL of it; without it this checkout's is taken.
    Raises ChopstickError where there is no base, and for a URL that pins no version.
    """
    if given is not None and _is_remote(given):
        return _remote(given)
    path = CHECKOUT if given is None else Path(given)
    if not (path / "kustomization.yaml").is_file():
        if given is None:
            raise ChopstickError(
                "this installation has no manifests", f"Name them with --base {_EXAMPLE}."
            )
        raise ChopstickError(
            f"base '{given}' has no kustomization.yaml",
            f"Give a path to manifests/base, or a URL such as {_EXAMPLE}.",
        )
    # Kustomize resolves links before it goes up, and takes no absolute path.
    base = Path(os.path.relpath(path.resolve(), overlay.resolve())).as_posix()
    return Base(base, os.path.normpath(f"{base}/../components/*"))


def _is_remote(given: str) -> bool:
    return "://" in given or "?ref=" in given or given.startswith("git@")


def _remote(url: str) -> Base:
    scheme, mark, rest = url.rpartition("://")
    parts = _REMOTE.fullmatch(rest)
    if parts is None or not re.search(r"(^|&)ref=[^&]+", parts["query"]):
        raise ChopstickError(
            f"base '{url}' names no folder of a repository at a fixed version",
            f"Write it as {_EXAMPLE}: without ref= the overlay changes with every commit.",
        )
    folder = parts["folder"].strip("/")
    if folder.rpartition("/")[2] != "base":
        raise ChopstickError(
            f"base '{url}' is not the folder 'base'", "The components are looked for beside it."
        )
    beside = folder[: -len("base")] + "components/*"
    return Base(url, f"{scheme}{mark}{parts['repository']}//{beside}?{parts['query']}")
