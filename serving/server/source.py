"""Which versions of a model should be served: what is on disk, through the version policy."""

from __future__ import annotations

import os

from serving.protocol import messages
from serving.protocol.status import ServingError, not_found

INT64_MAX = 2**63 - 1


def versions_on_disk(base_path: str) -> dict[int, str]:
    """Map version number to path for every child whose whole name is a number.

    A child counts whatever it is (TFS does not look inside): `1`, `00001`; not `v1` or `.tmp-2`.
    Of two names for one number the first in lexical order wins. Raises ServingError (NOT_FOUND)
    when the base path can't be listed.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(base_path))
    except OSError as error:
        raise not_found(f"Could not find base path {base_path}: {error.strerror}") from None
    versions: dict[int, str] = {}
    for name in names:
        if name.isascii() and name.isdigit() and int(name) <= INT64_MAX:
            versions.setdefault(int(name), f"{base_path.rstrip('/')}/{name}")
    return versions


def aspired_versions(model: messages.ModelConfig) -> dict[int, str]:
    """Map the versions that the model's policy asks for to their paths; default: the latest one.

    Raises ServingError (NOT_FOUND) when the base path can't be listed, with TFS's words.
    """
    try:
        on_disk = versions_on_disk(model.base_path)
    except ServingError as error:
        raise not_found(
            f"Could not find base path {model.base_path} for servable {model.name} "
            f"with error {error.message}"
        ) from None
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return on_disk
    if choice == "specific":
        return {v: on_disk[v] for v in policy.specific.versions if v in on_disk}
    newest = sorted(on_disk, reverse=True)[: max(policy.latest.num_versions, 1)]
    return {version: on_disk[version] for version in newest}
