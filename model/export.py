"""A trained classifier becomes a version that TensorFlow Serving can load, all of it or none.

The SavedModel is written to a hidden sibling whose name is no number, so that no server looks at
it, synced to the disk and renamed into place.

Bytes: the same classifier exported by the same program on the same machine gives the same files.
TensorFlow puts a random identifier into fingerprint.pb, which is replaced by one derived from the
content, and numbers its functions by what the process did before, so that a second export of one
process differs from the first in those names (not in weights or answers). Another processor or
TensorFlow build may round weights differently.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model import manifest, warmup
from model._tensorflow import tensorflow
from model.dataset import CLASSES
from serving.errors import ChopstickError

DEFAULT_BASE = Path("models/chopstick")
# TensorFlow Serving reads a version as an int64.
LARGEST_VERSION = 2**63 - 1

_TEMPORARY = ".tmp-"
# A directory of an export that was killed is removed by a later one; no export takes an hour.
_ABANDONED_SECONDS = 3600


def taken_versions(base: Path) -> set[int]:
    """Return every version number that has an entry in `base`, whatever the entry is."""
    try:
        names = [entry.name for entry in base.iterdir()]
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise _unusable(base, error) from None
    return {int(name) for name in names if name.isascii() and name.isdecimal()}


def next_version(base: Path) -> int:
    """Return one more than the highest version in `base`, 1 for an empty or missing one.

    Raises ChopstickError when `base` is not a directory or the numbers are used up.
    """
    version = max(taken_versions(base), default=0) + 1
    if version > LARGEST_VERSION:
        raise ChopstickError(
            f"'{base}' already has version {LARGEST_VERSION}, the highest there is",
            "Choose a free number with --version.",
        )
    return version


def check_version(base: Path, version: int) -> None:
    """Raise ChopstickError when `version` is out of range or `base` already has it."""
    if not 1 <= version <= LARGEST_VERSION:
        raise ChopstickError(
            f"{version} is not a version", f"A version is a number from 1 to {LARGEST_VERSION}."
        )
    if version in taken_versions(base):
        raise ChopstickError(
            f"version {version} of '{base}' exists and is not overwritten: a server may have it "
            "loaded",
            f"Leave --version out to export as {next_version(base)}.",
        )


def export(
    classifier: Any,
    base: Path,
    *,
    version: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Export a classifier to `base`/<version>/ and return that directory.

    `classifier` maps float32 [-1, 1] (mm) to probabilities float32 [-1, 3]. Without `version` the
    next free one is taken, also when others export at the same time. `facts` go into the manifest.

    Raises ChopstickError when the version exists or `base` cannot be written; then, as after
    Ctrl-C, nothing is left behind.
    """
    if version is not None:
        check_version(base, version)
    with _temporary(base) as directory:
        _save(classifier, directory)
        extra = directory / manifest.MANIFEST.parent
        extra.mkdir(exist_ok=True)
        warmup.write(extra / warmup.WARMUP_FILE, warmup.records())
        manifest.write(directory, facts or {})
        _sync_tree(directory)
        return _publish(directory, base, version)


def _save(classifier: Any, directory: Path) -> None:
    tf = tensorflow()
    module = tf.Module()
    module.classifier = classifier

    lengths = tf.TensorSpec([None, 1], tf.float32, name="chopstick_length")
    examples = tf.TensorSpec([None], tf.string, name="inputs")

    @tf.function(input_signature=[lengths], autograph=False)  # type: ignore[untyped-decorator]
    def predict(chopstick_length: Any) -> dict[str, Any]:
        return {"classes_prob": classifier(chopstick_length)}

    # Classify wants exactly one input, called `inputs`, and outputs called `classes` and `scores`.
    @tf.function(input_signature=[examples], autograph=False)  # type: ignore[untyped-decorator]
    def classify(inputs: Any) -> dict[str, Any]:
        features = {"chopstick_length": tf.io.FixedLenFeature([1], tf.float32)}
        scores = classifier(tf.io.parse_example(inputs, features)["chopstick_length"])
        labels = tf.constant([[name.encode() for name in CLASSES]])
        return {"classes": tf.tile(labels, [tf.shape(scores)[0], 1]), "scores": scores}

    module.predict, module.classify = predict, classify
    signatures = {"serving_default": predict, "classify": classify}
    try:
        tf.saved_model.save(module, str(directory), signatures=signatures)
    except tf.errors.OpError as error:
        # TensorFlow's own file system layer: a full disk arrives as one of these.
        raise ChopstickError(
            f"cannot write models to '{directory.parent}': {error.message}",
            "Make room or give another directory with --out.",
        ) from None
    _name_by_content(directory)


def _name_by_content(directory: Path) -> None:
    """Replace the random identifier in fingerprint.pb by one derived from graph and weights."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    content = hashlib.sha256()
    for path in [directory / "saved_model.pb", *sorted((directory / "variables").iterdir())]:
        content.update(path.read_bytes())
    path = directory / "fingerprint.pb"
    fingerprint = FingerprintDef.FromString(path.read_bytes())
    fingerprint.uuid = str(uuid.UUID(bytes=content.digest()[:16], version=4))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _temporary(base: Path) -> Iterator[Path]:
    """A directory beside the versions that is gone afterwards unless it was renamed."""
    try:
        base.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(base)
        directory = base / f"{_TEMPORARY}{secrets.token_hex(8)}"
        directory.mkdir()
    except OSError as error:
        raise _unusable(base, error) from None
    try:
        yield directory
    except OSError as error:
        raise _unusable(base, error) from error
    finally:
        # Also on Ctrl-C; after the rename there is nothing of this name.
        shutil.rmtree(directory, ignore_errors=True)


def _remove_abandoned(base: Path) -> None:
    for entry in base.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)


def _publish(directory: Path, base: Path, version: int | None) -> Path:
    """Rename into place. rename(2) refuses a directory that is not empty, so nobody is overwritten."""
    while True:
        if version is not None:
            check_version(base, version)
        target = base / str(next_version(base) if version is None else version)
        try:
            directory.rename(target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            # Another exporter took the number since we looked: look again.
            continue
        _sync(base)
        return target


def _sync_tree(directory: Path) -> None:
    """Sync every file, then every directory from the leaves up."""
    for parent, _, names in os.walk(directory, topdown=False):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(base: Path, error: OSError) -> ChopstickError:
    return ChopstickError(
        f"cannot write models to '{base}': {error.strerror or error}",
        "Give a directory that can be written with --out.",
    )
