"""Digests beside the tags in an overlay's kustomization.yaml.

A tag can be moved, a digest can't: pods then run what was tested. The tag stays, for people. The file
is edited as text, so that its comments and its layout stay too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.images.catalog import IMAGES, OVERLAYS
from scripts.images.registry import Pushed
from serving.errors import ChopstickError

FILE = "kustomization.yaml"


@dataclass(frozen=True)
class _Edit:
    """Characters `begin` to `end` of a text become `text`."""

    begin: int
    end: int
    text: str


def pin(overlay: str, pushed: Mapping[str, Pushed], overlays: Path = OVERLAYS) -> dict[str, Pushed]:
    """Write name, tag and digest of the pushed images into an overlay; return what it now names.

    An image is looked up in `pushed` by the tag that the overlay, or what it is made of, names.
    Raises ChopstickError, and writes nothing, for an unknown overlay or an image that was not pushed.
    """
    folder = overlays / overlay
    path = folder / FILE
    # A name, not a path: the rest of the tree is not to be pinned.
    if not overlay or "/" in overlay or not path.is_file():
        there = ", ".join(sorted(file.parent.name for file in overlays.glob(f"*/{FILE}")))
        raise ChopstickError(
            f"there is no overlay '{overlay}'" if overlay else "OVERLAY is not set",
            f"There are: {there or 'none'}.",
        )
    wanted = {name: key for name, key in tags(folder).items() if name in IMAGES}
    if missing := sorted(key for key in wanted.values() if key not in pushed):
        raise ChopstickError(
            f"overlay '{overlay}' names {', '.join(missing)}, which was not pushed from here",
            "Push it first: make push REGISTRY=…, with MODEL_VERSION=… for another version",
        )
    pins = {name: pushed[key] for name, key in wanted.items()}
    text = path.read_text(encoding="utf-8")
    changed = edited(text, pins)
    if changed != text:
        path.write_text(changed, encoding="utf-8")
    return pins


def tags(folder: Path) -> dict[str, str]:
    """`NAME:TAG`, without a registry, of each image that a kustomization and what it is made of set.

    By the name that the manifests use; the outermost kustomization wins, as in Kustomize.
    """
    body: dict[str, Any] = yaml.safe_load((folder / FILE).read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for part in [*body.get("resources", []), *body.get("components", [])]:
        if (folder / part).is_dir():
            found |= tags(folder / part)
    for entry in body.get("images", []):
        name = entry["name"]
        known, _, tag = found.get(name, f"{name}:").partition(":")
        found[name] = f"{entry.get('newName', known).rpartition('/')[2]}:{entry.get('newTag', tag)}"
    return found


def edited(text: str, pins: Mapping[str, Pushed]) -> str:
    """A kustomization's text with each image's newName, newTag and digest as pinned."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ChopstickError(f"{FILE} is not a mapping", "Is it a kustomization?")
    entries = _value(root, "images")
    if entries is None:
        return text.rstrip("\n") + "\nimages:\n" + "".join(_lines(pins, "  "))
    if not isinstance(entries, yaml.SequenceNode) or entries.flow_style:
        raise ChopstickError(
            f"`images:` in {FILE} is not written as a list with one `- name:` a line",
            "Write it so; make pin keeps the rest of the file as it is.",
        )
    edits: list[_Edit] = []
    left = dict(pins)
    for entry in entries.value:
        assert isinstance(entry, yaml.MappingNode)  # noqa: S101 - Kustomize takes nothing else
        name = _value(entry, "name")
        if name is not None and (found := left.pop(name.value, None)):
            edits += _entry(text, entry, found)
    if left:
        last = entries.value[-1]
        indent = " " * (entries.value[0].start_mark.column - 2)
        at = _end_of_line(text, _last_index(last))
        edits.append(_Edit(at, at, "".join(_lines(left, indent))))
    # From the end, so that places before it stay where they are; of two at one place the later one first.
    for edit in reversed(sorted(edits, key=lambda edit: edit.begin)):  # noqa: C413
        text = text[: edit.begin] + edit.text + text[edit.end :]
    return text


def _entry(text: str, entry: yaml.MappingNode, pinned: Pushed) -> list[_Edit]:
    """The edits of one image's entry."""
    edits = []
    after = _value(entry, "name")
    new = ""
    for key, wanted in (
        ("newName", pinned.name),
        ("newTag", pinned.tag),
        ("digest", pinned.digest),
    ):
        node = _value(entry, key)
        if node is None:
            if entry.flow_style:
                at = entry.end_mark.index - 1
                edits.append(_Edit(at, at, f", {key}: {_scalar(wanted)}"))
            else:
                new += f"{' ' * entry.start_mark.column}{key}: {_scalar(wanted)}\n"
            continue
        if new:
            edits.append(_after(text, after, new))
            new = ""
        after = node
        if node.value != wanted:
            edits.append(_Edit(node.start_mark.index, node.end_mark.index, _scalar(wanted)))
    if new:
        edits.append(_after(text, after, new))
    return edits


def _after(text: str, node: yaml.Node | None, lines: str) -> _Edit:
    """New lines below the one that a node ends on."""
    assert node is not None  # noqa: S101 - every entry has a name
    at = _end_of_line(text, node.end_mark.index)
    return _Edit(at, at, lines if at and text[at - 1] == "\n" else f"\n{lines}")


def _end_of_line(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _last_index(node: yaml.Node) -> int:
    """Where a block mapping's last value ends: its own end mark is where the next thing begins."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return int(node.value[-1][1].end_mark.index)
    return int(node.end_mark.index)


def _value(mapping: yaml.MappingNode, key: str) -> Any:
    return next((value for found, value in mapping.value if found.value == key), None)


def _lines(pins: Mapping[str, Pushed], indent: str) -> list[str]:
    return [
        f"{indent}- name: {name}\n"
        f"{indent}  newName: {_scalar(pinned.name)}\n"
        f"{indent}  newTag: {_scalar(pinned.tag)}\n"
        f"{indent}  digest: {pinned.digest}\n"
        for name, pinned in pins.items()
    ]


def _scalar(value: str) -> str:
    """As YAML, quoted where it would be read as something else than text."""
    return value if yaml.safe_load(value) == value else f'"{value}"'
