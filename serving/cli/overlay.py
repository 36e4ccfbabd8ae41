"""`chopstick overlay`: serve another model from the project's manifests."""

from __future__ import annotations

import re
from pathlib import Path

import click

from serving.errors import ChopstickError
from serving.overlay import base as bases
from serving.overlay import files
from serving.overlay.model import Served, from_directory, from_image

# RFC 1123, which a namespace's name has to fit.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@click.group()
def command() -> None:
    """Write Kustomize overlays for models of your own."""


@command.command()
@click.argument("name")
@click.option(
    "--model",
    "source",
    required=True,
    metavar="DIR|IMAGE",
    help="A SavedModel: models/iris/3, or models/iris for the newest; or an image such as iris:3.",
)
@click.option("--version", type=click.IntRange(min=0), help="The version to serve.")
@click.option("--model-name", help="What callers name it  [default: of DIR, or NAME]")
@click.option(
    "--dest",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="here",
    help="Where the folder NAME is made.",
)
@click.option(
    "--base",
    metavar="URL|PATH",
    help="The project's manifests/base  [default: of this checkout]",
)
@click.option("--namespace", help="Namespace of its own  [default: NAME]")
def new(
    name: str,
    source: str,
    version: int | None,
    model_name: str | None,
    dest: Path,
    base: str | None,
    namespace: str | None,
) -> None:
    """Make the folder NAME, an overlay that serves a model.

    With a directory it also gets a Dockerfile that puts the model into TensorFlow Serving's
    image. Nothing that exists is overwritten.
    """
    namespace = namespace or name
    for what, value in (("NAME", name), ("--namespace", namespace)):
        if not _LABEL.fullmatch(value):
            raise ChopstickError(
                f"{what} '{value}' is no name for Kubernetes",
                "Use up to 63 lower-case letters, digits and '-', a letter or digit at both ends.",
            )
    folder = dest / name
    served = _served(source, name, model_name, version)
    written = files.contents(name, namespace, served, bases.find(base, folder), folder)
    files.write(folder, written)
    click.echo(f"{folder}: {', '.join(sorted(written))}", err=True)
    click.echo("next:", err=True)
    for line in _next(served, folder):
        click.echo(line)


def _served(source: str, name: str, model_name: str | None, version: int | None) -> Served:
    """Tell a directory from an image: by being there, or by being written like a path."""
    path = Path(source)
    if path.exists() or source.startswith((".", "/", "~")):
        return from_directory(path.expanduser(), name, model_name, version)
    return from_image(source, name if model_name is None else model_name, version)


def _next(served: Served, folder: Path) -> list[str]:
    build = files.build_command(served, folder, Path.cwd())
    image = f"{served.image}:{served.tag}"
    made = [] if build is None else [build, f"# push {image}, or load it into the cluster"]
    return [*made, f"kubectl apply -k {folder}"]
