"""Brings verified model versions from a volume to where the model server looks for them.

Others drop versions into the volume, at any speed. A version is copied under a name that the
server does not take for a version, the copy is compared with its manifest, and only then renamed:
a directory with a number for its name is whole, whatever ends this process in between. One that
does not verify is refused, and what was published before goes on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from model import manifest
from serving.errors import ChopstickError

COPYING = ".copying-"
REMOVING = ".removing-"
# A full disk or a failing network drive is not tried again at every poll.
RETRY_SECONDS = 30.0

# Name, size and time of every file: what tells a version that was changed from one that was not.
Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Refusal:
    """A version on the volume that is not published, and why; `until` is when to try again."""

    fingerprint: Fingerprint
    message: str
    until: float


@dataclass(frozen=True)
class Round:
    """What one look at the volume led to."""

    published: tuple[int, ...]
    refused: tuple[tuple[int, str], ...]
    copied: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    newly_refused: tuple[tuple[int, str], ...] = ()


@dataclass
class Publisher:
    """From `source` (<volume>/<model>) to `target` (<models>/<model>).

    With `required` that version alone is published: a server that saw a newer one would serve it.
    Otherwise the newest that verifies.
    """

    source: Path
    target: Path
    required: int | None
    _refusals: dict[int, Refusal] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the target and clear away what a cut-off run left; raises ChopstickError."""
        try:
            self.target.mkdir(parents=True, exist_ok=True)
            for entry in list(self.target.iterdir()):
                if entry.name.startswith((COPYING, REMOVING)):
                    shutil.rmtree(entry)
        except OSError as error:
            raise ChopstickError(
                f"cannot write to '{self.target}': {error.strerror}",
                "--models (MODEL_BASE) must be a directory that this user may write to.",
            ) from None

    def look(self) -> Round:
        """Publish what is new, remove what is gone. Raises OSError when the volume can't be read.

        Blocks for as long as the copy takes.
        """
        offered = _numbered(self.source)
        copied: list[int] = []
        newly_refused: list[tuple[int, str]] = []
        before = dict(self._refusals)
        self._refusals = {n: r for n, r in before.items() if n in offered}
        for number in self._wanted(offered):
            if (self.target / str(number)).is_dir():
                break
            refusal = self._try(number, offered[number], before.get(number))
            if refusal is None:
                self._refusals.pop(number, None)
                copied.append(number)
                break
            self._refusals[number] = refusal
            if before.get(number) != refusal:
                newly_refused.append((number, refusal.message))
        removed = self._remove(set(offered))
        return Round(
            published=tuple(sorted(_numbered(self.target))),
            refused=tuple(sorted((n, r.message) for n, r in self._refusals.items())),
            copied=tuple(copied),
            removed=tuple(removed),
            newly_refused=tuple(newly_refused),
        )

    def digest(self, number: int) -> str:
        """The SHA-256 of a published version's manifest; empty when it can't be read."""
        with contextlib.suppress(OSError):
            return manifest.sha256_of(self.target / str(number) / manifest.MANIFEST)
        return ""

    def _wanted(self, offered: dict[int, Path]) -> list[int]:
        if self.required is not None:
            return [self.required] if self.required in offered else []
        return sorted(offered, reverse=True)

    def _try(self, number: int, version: Path, last: Refusal | None) -> Refusal | None:
        """Publish a version; why not, if it can't be."""
        now = time.monotonic()
        try:
            fingerprint = _fingerprint(version)
        except OSError as error:
            return Refusal((), f"cannot read '{version}': {error.strerror}", now + RETRY_SECONDS)
        if last and last.fingerprint == fingerprint and now < last.until:
            return last
        try:
            self._copy(number, version)
        except ChopstickError as error:
            return Refusal(fingerprint, error.message, float("inf"))
        except OSError as error:
            # shutil.Error, an OSError, carries a list in place of an errno.
            why = error.strerror or "some of its files cannot be copied"
            message = f"version {number} could not be copied: {why}"
            return Refusal(fingerprint, message, now + RETRY_SECONDS)
        return None

    def _copy(self, number: int, version: Path) -> None:
        manifest.read(version)
        beside = self.target / f"{COPYING}{number}"
        try:
            shutil.copytree(version, beside)
            report = manifest.verify(beside)
            if not report.ok:
                first = report.differences[0]
                raise ChopstickError(
                    f"version {number} is not as it was exported: {len(report.differences)} of "
                    f"{report.files} files; {first.path} {first.kind} {first.detail}".rstrip()
                )
            _settle(beside)
            beside.rename(self.target / str(number))
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def _remove(self, offered: set[int]) -> list[int]:
        """Take away what the volume no longer has; never the last, and nothing for an empty volume.

        A volume without any version is a mount that failed more often than a decision.
        """
        published = _numbered(self.target)
        gone = sorted(set(published) - offered)
        if not offered or not set(published) & offered:
            return []
        for number in gone:
            # One step for the server, however many files there are.
            aside = self.target / f"{REMOVING}{number}"
            published[number].rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        return gone


def _numbered(base: Path) -> dict[int, Path]:
    return {int(path.name): path for path in manifest.versions(base)}


def _fingerprint(version: Path) -> Fingerprint:
    found = []
    for folder, _, names in os.walk(version):
        for name in names:
            path = Path(folder, name)
            facts = path.lstat()
            found.append((str(path.relative_to(version)), facts.st_size, facts.st_mtime_ns))
    return tuple(sorted(found))


def _settle(directory: Path) -> None:
    """Have the files on the disk, and out of this container's account of memory.

    Pages of files that a container wrote and read count as its working set.
    """
    for path in directory.rglob("*"):
        if path.is_dir():
            continue
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
