"""The part of requirements.lock that an image installs, taken out of it without resolving again.

The lock says under each package who asked for it (`# via`), so the packages that an extra needs are
the ones reached from it. What is taken out keeps its hashes and markers letter for letter, and leaves `# via` behind.
"""

from __future__ import annotations

import re
import tomllib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.images.catalog import IMAGES, ROOT
from serving.errors import ChopstickError

HEADER = "# A part of ../../../requirements.lock: `make lock` writes both.\n"
# The build back end, for the wheel of our own code that each image installs.
BUILD_LOCK = "serving/images/build.lock"
_PROJECT = "chopstick-serving"


@dataclass(frozen=True)
class Entry:
    """One package of a lock: its lines, and the names of the packages that want it."""

    name: str
    text: str
    wanted_by: frozenset[str]


def parse(lock: str) -> list[Entry]:
    """The entries of a lock as `uv pip compile --generate-hashes` writes it, in its order."""
    return [_entry(text) for text in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]]


def _entry(text: str) -> Entry:
    name = canonicalize_name(re.split(r"==", text, maxsplit=1)[0])
    # Who wants a package may change while the package does not, and would cost a builder's cache.
    lines, _, via = text.partition("# via")
    kept = lines.rstrip()
    wanted_by = (line.strip(" #") for line in via.splitlines())
    return Entry(
        name,
        kept + "\n",
        frozenset(canonicalize_name(word.split()[0]) for word in wanted_by if word),
    )


def subset(entries: Sequence[Entry], roots: Iterable[str], unused: Sequence[str] = ()) -> str:
    """The lock's text for `roots` and all that they need, less what is `unused`.

    Raises ChopstickError for a root that is not in the lock.
    """
    names = {entry.name for entry in entries}
    needs: dict[str, set[str]] = {}
    for entry in entries:
        for parent in entry.wanted_by:
            needs.setdefault(parent, set()).add(entry.name)
    found: set[str] = set()
    queue = deque(roots)
    while queue:
        name = queue.popleft()
        if name not in names:
            raise ChopstickError(
                f"'{name}' is not in requirements.lock", "Resolve it again: make lock"
            )
        if name not in found and name not in unused:
            found.add(name)
            queue.extend(needs.get(name, ()))
    return HEADER + "".join(entry.text for entry in entries if entry.name in found)


def roots(project: dict[str, object], extras: Sequence[str], omits: Sequence[str] = ()) -> set[str]:
    """Names that pyproject.toml's core (less `omits`) and `extras` ask for, extras of extras included.

    Raises ChopstickError for an extra that is not there.
    """
    table = project["project"]
    assert isinstance(table, dict)  # noqa: S101 - for the type checker
    found = {Requirement(text).name for text in table["dependencies"]} - set(omits)
    queue = deque(extras)
    while queue:
        extra = queue.popleft()
        if extra not in table["optional-dependencies"]:
            raise ChopstickError(
                f"pyproject.toml has no extra '{extra}', which an image installs",
                f"It has: {', '.join(table['optional-dependencies'])}.",
            )
        for text in table["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == _PROJECT:
                queue.extend(requirement.extras)
            else:
                found.add(requirement.name)
    return {canonicalize_name(name) for name in found}


def all_locks(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Path and text of every image's lock, computed from requirements.lock and pyproject.toml."""
    entries = parse((root / "requirements.lock").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    for image in IMAGES.values():
        if image.lock:
            yield (
                image.lock,
                subset(entries, roots(project, image.extras, image.omits), image.unused),
            )
    back_end = [Requirement(text).name for text in project["build-system"]["requires"]]
    yield BUILD_LOCK, subset(entries, map(canonicalize_name, back_end))


def write(root: Path = ROOT) -> list[str]:
    """Write every image's lock; return the paths of those that changed."""
    changed = []
    for path, text in all_locks(root):
        file = root / path
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed
