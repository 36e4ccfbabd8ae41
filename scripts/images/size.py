"""How large images are, as a registry sends them."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.images.catalog import find, short_name
from scripts.images.oci import Image, Layout
from serving.errors import ChopstickError


@dataclass(frozen=True)
class Size:
    """Compressed bytes of an image, and of what is its own on top of the base that others share."""

    reference: str
    compressed: int
    own: int
    limit: int | None

    @property
    def fits(self) -> bool:
        """Whether it is within its limit."""
        return self.limit is None or self.compressed <= self.limit


def sizes(layout: Layout, images: list[Image]) -> list[Size]:
    """The sizes of a layout's images; a layer of several is measured once."""
    measured: dict[str, int] = {}
    users: dict[str, int] = {}
    for image in images:
        for layer in image.layers:
            users[layer.diff_id] = users.get(layer.diff_id, 0) + 1
            if layer.diff_id not in measured:
                measured[layer.diff_id] = layout.compressed_size(layer)
    return [
        Size(
            short_name(image.reference),
            sum(measured[layer.diff_id] for layer in image.layers),
            sum(measured[layer.diff_id] for layer in image.layers if users[layer.diff_id] == 1),
            _limit(image),
        )
        for image in images
    ]


def _limit(image: Image) -> int | None:
    try:
        megabytes = find(image.reference.rpartition("/")[2].partition(":")[0]).limit
    except ChopstickError:
        return None
    return None if megabytes is None else megabytes * 1_000_000


def table(found: list[Size]) -> str:
    """As Markdown, in MB (10^6 bytes)."""
    lines = ["| image | compressed | at most | its own layers |", "| --- | ---: | ---: | ---: |"]
    for size in found:
        limit = "" if size.limit is None else f"{size.limit / 1e6:.0f} MB"
        lines.append(
            f"| `{size.reference}` | {size.compressed / 1e6:.1f} MB | {limit} | {size.own / 1e6:.2f} MB |"
        )
    return "\n".join(lines)
