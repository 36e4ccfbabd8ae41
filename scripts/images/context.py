"""The build context of an image: what its Dockerfile copies, and nothing else.

It is laid out in a folder of its own, so that no secret and no build result of the checkout can get
into an image, and with the same times, modes and order everywhere, so that a builder's cache
recognises it in a fresh clone.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from scripts.images.catalog import ROOT
from serving.errors import ChopstickError

_TIME = 0
_COPY = re.compile(r"^COPY\s+(?!.*--from=)(?:--\S+\s+)*(?P<words>.+)$", re.MULTILINE)
_ARG = re.compile(r"^ARG\s+(\w+)=(\S+)$", re.MULTILINE)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def copied(dockerfile: str, arguments: Mapping[str, str]) -> list[str]:
    """The paths that a Dockerfile's text copies out of its context, build arguments filled in."""
    values = {**dict(_ARG.findall(dockerfile)), **arguments}

    def fill(text: str) -> str:
        return _VARIABLE.sub(lambda match: values.get(match[1], ""), text)

    return [
        fill(source)
        for match in _COPY.finditer(dockerfile)
        for source in match["words"].split()[:-1]
    ]


def default(dockerfile: str, argument: str) -> str:
    """The value that a Dockerfile's text gives a build argument."""
    return str(dict(_ARG.findall(dockerfile))[argument])


def lay_out(
    folder: Path, dockerfile: str, arguments: Mapping[str, str], given: Mapping[str, Path]
) -> None:
    """Make `folder` the context of a Dockerfile (a path of the checkout), replacing what is there.

    `given` says where paths of the context come from that are not the checkout's. Raises
    ChopstickError naming a path that is missing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = (ROOT / dockerfile).read_text(encoding="utf-8")
    for path in copied(text, arguments):
        source = given.get(path, ROOT / path)
        if not source.exists():
            raise ChopstickError(
                f"{dockerfile} copies '{path}', which is not there", "Is the checkout complete?"
            )
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=_ignore, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    normalise(folder)


def _ignore(folder: str, names: list[str]) -> set[str]:
    """What never belongs into an image: bytecode, and the images' own recipes."""
    recipes = {"images"} if Path(folder) == ROOT / "serving" else set()
    return {name for name in names if name == "__pycache__"} | recipes


def normalise(folder: Path) -> None:
    """Give all below `folder`, and itself, one time and modes that no umask changed."""
    for path in walk(folder):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
        os.utime(path, (_TIME, _TIME), follow_symlinks=False)


def walk(folder: Path) -> Iterator[Path]:
    """All below `folder`, and itself, children before their parents."""
    for parent, folders, files in os.walk(folder, topdown=False):
        # A link to a folder is listed among the folders and not walked.
        links = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (Path(parent, name) for name in sorted(files + links))
        yield Path(parent)
