"""Building images: context, arguments, labels, and the builder that is here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from scripts.images import context, run, stores
from scripts.images.catalog import (
    BUILD,
    CLASSIFIER,
    EMBEDDED,
    ROOT,
    STAND_IN,
    STAND_IN_TAG,
    Image,
    full_name,
    project_version,
    short_name,
)
from scripts.images.models import Version
from scripts.say import timed
from serving.errors import ChopstickError

# Files and images carry this time on every machine, so that equal content has equal digests.
EPOCH = 0


def tag_of(image: Image, model: Version | None) -> str:
    """The full name that an image is built under."""
    if image is STAND_IN:
        return full_name(STAND_IN_TAG)
    if image is CLASSIFIER and model:
        return full_name(f"{image.name}:{model.number}")
    return full_name(f"{image.name}:{project_version()}")


def build(
    store: stores.Store, image: Image, model: Version | None, *, base: str = "", reference: str = ""
) -> str:
    """Build one image; return its full name.

    `base` replaces what its Dockerfile stands on, `reference` the name. Raises ChopstickError with the
    end of the builder's log when it fails.
    """
    reference = full_name(reference) if reference else tag_of(image, model)
    if image is STAND_IN:
        _spare_the_real_one(store, reference)
        base = base or f"{EMBEDDED.name}:{project_version()}"
    arguments = {"BASE": base} if base else {}
    given: dict[str, Path] = {}
    if image is CLASSIFIER and model:
        base = base or context.default((ROOT / image.dockerfile).read_text("utf-8"), "BASE")
        arguments |= {"MODEL_NAME": model.name, "MODEL_VERSION": model.number}
        given[f"models/{model.name}/{model.number}"] = model.directory
    command, own = stores.build_command(store)
    with timed(f"{short_name(reference)}: building with {' '.join(command)}"):
        folder = BUILD / image.name
        context.lay_out(folder, image.dockerfile, arguments, given)
        flags = ["--tag", reference, "--file", str(ROOT / image.dockerfile)]
        for flag, pairs in (("--build-arg", arguments), ("--label", labels(image, model, base))):
            for key, value in pairs.items():
                flags += [flag, f"{key}={value}"]
        if own:
            flags += store.timestamp_flags(EPOCH)
        environment = {"SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", str(EPOCH))}
        words = stores.complete(command, str(folder), flags)
        run.logged(words, BUILD / f"{image.name}.log", environment)
    if not store.exists(reference):
        raise ChopstickError(
            f"{command[0]} succeeded, but {reference} is not in {store.program}'s store",
            "Name the store that IMAGE_BUILD builds into: IMAGE_STORE=docker, podman or buildah.",
        )
    return reference


def labels(image: Image, model: Version | None, base: str = "") -> dict[str, str]:
    """The labels of an image: OCI's own, and what it tells of its model and of its base."""
    model_labels = model.labels() if image is CLASSIFIER and model else {}
    version = model.number if model_labels and model else project_version()
    return {
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.description": image.summary,
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.licenses": "Apache-2.0",
        # Always: a label that is not set is the base's.
        "org.opencontainers.image.revision": _revision(),
        **({"org.opencontainers.image.base.name": base} if base else {}),
        **model_labels,
    }


def _revision() -> str:
    """The commit, with `-dirty` when the tree differs from it; `unknown` outside a checkout."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() if not done.returncode else "unknown"


def _spare_the_real_one(store: stores.Store, reference: str) -> None:
    if store.exists(reference) and "chopstick.stand-in" not in store.labels(reference):
        raise ChopstickError(
            f"{short_name(reference)} is in {store.program}'s store, and is not our stand-in",
            "Use it: the stand-in is for where it can't be had.",
        )
