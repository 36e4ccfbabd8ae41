"""Pushing images to a registry, and the record of the digests that it knows them by."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.images.catalog import BUILD, short_name
from scripts.images.stores import Store
from scripts.say import timed
from serving.errors import ChopstickError

RECORD = BUILD / "pushed.json"
# Host, optional port, path in lower case: what a reference may begin with.
_REGISTRY = re.compile(
    r"(?P<host>\[[0-9a-f:]+\]|[a-zA-Z0-9.-]+)(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
)
_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|\[::1\]")


@dataclass(frozen=True)
class Pushed:
    """An image in a registry: `name` without a tag, such as registry.example/team/chopstick-health."""

    name: str
    tag: str
    digest: str


def push(
    store: Store, references: Sequence[str], registry: str, record: Path = RECORD
) -> list[Pushed]:
    """Push images (full names) to `registry`/NAME:TAG and note their digests in `record`.

    Raises ChopstickError for what is no registry's address, and when a push fails.
    """
    insecure = _is_loopback(registry)
    pushed = []
    for reference in references:
        name, _, tag = reference.rpartition("/")[2].partition(":")
        target = f"{registry}/{name}"
        with timed(f"{short_name(reference)}: to {target}:{tag}"):
            digest = store.push(reference, f"{target}:{tag}", insecure=insecure)
        pushed.append(Pushed(target, tag, digest))
        # After each, so that what was pushed is known when a later one fails.
        known = {**recorded(record), f"{name}:{tag}": pushed[-1]}
        record.parent.mkdir(parents=True, exist_ok=True)
        body = {key: asdict(value) for key, value in sorted(known.items())}
        record.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return pushed


def recorded(record: Path = RECORD) -> dict[str, Pushed]:
    """What was pushed last, by `NAME:TAG`; empty before the first push."""
    if not record.exists():
        return {}
    body = json.loads(record.read_text(encoding="utf-8"))
    return {key: Pushed(**value) for key, value in body.items()}


def _is_loopback(registry: str) -> bool:
    """Whether HTTP will do; raises ChopstickError for what is no registry's address."""
    found = _REGISTRY.fullmatch(registry)
    if not found:
        raise ChopstickError(
            f"'{registry}' is no registry's address" if registry else "REGISTRY is not set",
            "Give host and path, without a scheme: make push REGISTRY=registry.example/team",
        )
    return bool(_LOOPBACK.fullmatch(found["host"]))
