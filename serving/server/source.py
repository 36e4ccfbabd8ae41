"""Which versions of a model should be served: what is on disk, through the version policy."""

from __future__ import annotations

import os
import re

from serving.protocol import messages
from serving.protocol.status import ServingError, not_found
from serving.server.logs import log

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# What absl::SimpleAtoi takes.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*", re.ASCII)


def versions_on_disk(base_path: str) -> dict[int, str]:
    """Map version number to path for every child whose whole name is a number.

    A child counts whatever it is (TFS does not look inside): `1`, `00001`, `+1`; not `v1` or
    `.tmp-2`. Of two names for one number the last in lexical order wins. Raises ServingError
    (NOT_FOUND) when the base path can't be listed.
    """
    versions: dict[int, str] = {}
    for number, path in _numbered(base_path):
        if number in versions:
            log.warning(
                f"Duplicate version directories detected. Version {number} will be loaded from "
                f"{path}, {versions[number]} will be ignored."
            )
        versions[number] = path
    return versions


def _numbered(base_path: str) -> list[tuple[int, str]]:
    """(number, path) of every child whose name is a number, in lexical order of the names."""
    try:
        names = sorted(entry.name for entry in os.scandir(base_path))
    except FileNotFoundError:
        raise not_found(f"{base_path} not found") from None
    except OSError as error:
        raise not_found(f"{base_path}; {error.strerror}") from None
    folder = base_path.rstrip("/")
    found = [(int(name), f"{folder}/{name}") for name in names if _NUMBER.fullmatch(name)]
    return [(number, path) for number, path in found if INT64_MIN <= number <= INT64_MAX]


def aspired_versions(model: messages.ModelConfig) -> dict[int, str]:
    """Map the versions that the model's policy asks for to their paths; default: the latest one.

    Raises ServingError (NOT_FOUND) when the base path can't be listed, with TFS's words.
    """
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    try:
        if choice == "all":
            # Both names of a number are aspired, and the first one is managed.
            return dict(reversed(_numbered(model.base_path)))
        on_disk = versions_on_disk(model.base_path)
    except ServingError as error:
        raise not_found(
            f"Could not find base path {model.base_path} for servable {model.name} "
            f"with error {error.code.name}: {error.message}"
        ) from None
    if choice == "specific":
        return {v: on_disk[v] for v in policy.specific.versions if v in on_disk}
    newest = sorted(on_disk, reverse=True)[: max(policy.latest.num_versions, 1)]
    return {version: on_disk[version] for version in newest}
