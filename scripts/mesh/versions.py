"""What versions.yaml says of the mesh: versions, ranges and the days on which support ends."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from serving.errors import ChopstickError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "versions.yaml"
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Range:
    """The oldest and the newest version that Linkerd is tested with, both included."""

    oldest: str
    newest: str

    def compare(self, version: str) -> int:
        """-1 for a version below the range, 1 for one above it, 0 for one inside.

        Counts as many parts as the range's ends have: 1.35.4 is inside 1.31 to 1.35.
        """
        if _parts(version, like=self.oldest) < _parts(self.oldest):
            return -1
        return 1 if _parts(version, like=self.newest) > _parts(self.newest) else 0

    def __str__(self) -> str:
        return f"{self.oldest} to {self.newest}"


@dataclass(frozen=True)
class End:
    """The day on which support of `name` in `version` ends."""

    name: str
    version: str
    day: date


@dataclass(frozen=True)
class Versions:
    """The part of versions.yaml that concerns the mesh."""

    linkerd: str
    release: str
    gateway_api: str
    kubernetes_range: Range
    gateway_api_range: Range
    ends: tuple[End, ...]

    @property
    def chart(self) -> str:
        """Version of the Helm charts of an edge release: edge-26.6.3 has 2026.6.3."""
        return f"20{self.linkerd.removeprefix('edge-')}"


def read(path: Path = FILE) -> Versions:
    """Read versions.yaml; raises ChopstickError naming what is missing in it."""
    try:
        cluster = yaml.safe_load(path.read_text(encoding="utf-8"))["cluster"]
        linkerd = cluster["linkerd"]
        return Versions(
            linkerd=linkerd["version"],
            release=linkerd["release"],
            gateway_api=cluster["gateway-api"]["version"],
            kubernetes_range=Range(*linkerd["kubernetes"]),
            gateway_api_range=Range(*linkerd["gateway-api"]),
            ends=tuple(
                End(name, entry["version"], last_day(entry["eol"]))
                for name, entry in cluster.items()
                if entry["eol"] is not None
            ),
        )
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ChopstickError(
            f"{path.name} can't be used: {error!r}", "Restore it: git checkout versions.yaml"
        ) from None


def last_day(eol: Any) -> date:
    """A day as YAML reads one, or the last day of a month written 2027-10."""
    if isinstance(eol, date):
        return eol
    year, month = map(int, str(eol).split("-"))
    return date(year, month, monthrange(year, month)[1])


def _parts(version: str, like: str | None = None) -> tuple[int, ...]:
    numbers = tuple(map(int, _NUMBERS.findall(version)[:3]))
    return numbers if like is None else numbers[: len(_parts(like))]
