"""`python -m scripts.images …`: the commands behind `make build_image` and its siblings."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from scripts.images import build as building
from scripts.images import cluster, locks, models, size, stores
from scripts.images import pin as pins
from scripts.images import registry as registries
from scripts.images.catalog import BUILD, CLASSIFIER, IMAGES, ROOT, find, short_name
from scripts.images.oci import Layout
from scripts.say import say, timed
from serving.cli import tell
from serving.errors import ChopstickError

SBOM = ROOT / "build" / "sbom"
_MODEL_VERSION = click.option(
    "--model-version", default="", help="Version in models/chopstick (the newest)."
)
_IMAGES = click.argument("images", nargs=-1, metavar="[IMAGE]...")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Build, load, push and pin the container images; docs/images.md tells more."""


@main.command()
@_IMAGES
@_MODEL_VERSION
@click.option(
    "--model", type=click.Path(path_type=Path), help="Another version's directory, such as DIR/1."
)
@click.option("--model-name", default="", help="Name it is served under (its parent directory's).")
@click.option("--adopt", is_flag=True, help="Write --model a manifest if it has none.")
@click.option(
    "--base", default="", help="What the image stands on, such as chopstick-embedded:0.1.0."
)
@click.option("--tag", default="", help="NAME:TAG of the result, with a single IMAGE.")
def build(
    images: tuple[str, ...],
    model_version: str,
    model: Path | None,
    model_name: str,
    adopt: bool,
    base: str,
    tag: str,
) -> None:
    """Build IMAGEs, all four without a name."""
    chosen = [find(name) for name in images or IMAGES]
    if len(chosen) > 1 and (tag or base):
        raise ChopstickError("--tag and --base are for one image", "Name it: build IMAGE --tag …")
    store = stores.find_store()
    version = None
    if CLASSIFIER in chosen:
        if adopt and model:
            models.adopt(model)
        version = models.find(model_version, model, model_name)
    for image in chosen:
        built = building.build(store, image, version, base=base, reference=tag)
        say(f"    built {built}")


@main.command()
@_IMAGES
@_MODEL_VERSION
def load(images: tuple[str, ...], model_version: str) -> None:
    """Put IMAGEs (NAME or NAME:TAG) into the cluster, all four without a name."""
    store = stores.find_store()
    cluster.load(store, _built(store, images, model_version))


@main.command()
@_IMAGES
@_MODEL_VERSION
@click.option("--registry", default="", help="Host and path, such as registry.example/team.")
def push(images: tuple[str, ...], model_version: str, registry: str) -> None:
    """Push IMAGEs (NAME or NAME:TAG) to a registry, all four without a name."""
    store = stores.find_store()
    for pushed in registries.push(store, _built(store, images, model_version), registry):
        click.echo(f"{pushed.name}:{pushed.tag}@{pushed.digest}")


@main.command()
@click.argument("overlay", default="")
def pin(overlay: str) -> None:
    """Write the digests of what was pushed beside the tags of OVERLAY."""
    for name, pushed in pins.pin(overlay, registries.recorded()).items():
        click.echo(f"{name}: {pushed.name}:{pushed.tag}@{pushed.digest}")


@main.command()
@_IMAGES
@_MODEL_VERSION
def sbom(images: tuple[str, ...], model_version: str) -> None:
    """List what is in IMAGEs as CycloneDX, in build/sbom/NAME.json."""
    store = stores.find_store()
    SBOM.mkdir(parents=True, exist_ok=True)
    with _exported(store, _built(store, images, model_version)) as layout:
        for image in layout.images():
            # Slow to import, and no other command needs it.
            from scripts.images.sbom import bill

            name = image.reference.rpartition("/")[2].partition(":")[0]
            text = bill(layout, image)
            (SBOM / f"{name}.json").write_text(text, encoding="utf-8")
            click.echo(f"{SBOM.relative_to(ROOT)}/{name}.json")


@main.command(name="size")
@_IMAGES
@_MODEL_VERSION
def measure(images: tuple[str, ...], model_version: str) -> None:
    """Print what a registry would send for IMAGEs; exit status 1 when one is over its limit."""
    store = stores.find_store()
    with (
        _exported(store, _built(store, images, model_version)) as layout,
        timed("compressing each layer"),
    ):
        found = size.sizes(layout, layout.images())
    click.echo(size.table(found))
    if not all(entry.fits for entry in found):
        sys.exit(1)


@main.command(name="locks")
def write_locks() -> None:
    """Write each image's part of requirements.lock."""
    for path in locks.write():
        say(f"wrote {path}")


def _built(store: stores.Store, images: tuple[str, ...], model_version: str) -> list[str]:
    """Full names of images in the store; one without a tag is the one that `build` makes now."""
    references = []
    for name in images or tuple(IMAGES):
        if ":" in name:
            references.append(name)
            continue
        image = find(name)
        model = models.find(model_version) if image is CLASSIFIER else None
        references.append(building.tag_of(image, model))
    return stores.require(store, references)


@contextmanager
def _exported(store: stores.Store, references: list[str]) -> Iterator[Layout]:
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="export-") as work:
        with timed(f"reading {', '.join(map(short_name, references))}"):
            layout = cluster.export(store, references, Path(work, "layout"))
        yield layout


if __name__ == "__main__":
    try:
        main(prog_name="python -m scripts.images")
    except ChopstickError as error:
        tell(error)
        sys.exit(error.exit_code)
