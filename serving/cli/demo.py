"""`chopstick demo`: five results, measured here, in about a minute."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource


@click.command(
    help="Show why a mesh is needed: five results, measured here.\n\n"
    "\b\n"
    "1  the model against baselines\n"
    "2  predictions by gRPC, REST and Classify\n"
    "3  one channel over three replicas, through layer 4 and through layer 7\n"
    "4  a new version rolled out and back under load\n"
    "5  a replica killed under load\n\n"
    "Exits with 0 only if all five held. Everything is on free loopback ports and in a temporary "
    "directory; the models are not touched."
)
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path),
    default=Path("models/chopstick"),
    show_default=True,
    help="Base path whose newest version is served; trained first if it is the default and empty.",
)
@click.option("--quick", is_flag=True, help="Two replicas and fewer requests.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write figures here.",
)
@click.pass_context
def command(context: click.Context, model_dir: Path, quick: bool, json_file: Path | None) -> None:
    """Run the five steps."""
    from serving.desk.demo import run

    given = context.get_parameter_source("model_dir") is not ParameterSource.DEFAULT
    run.run(
        run.Options(
            model_dir=model_dir,
            train_if_missing=not given,
            sizes=run.QUICK if quick else run.FULL,
            json_file=json_file,
        )
    )
