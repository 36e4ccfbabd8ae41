"""`chopstick train`: fit a classifier and export it as a model version."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.trainers import DEFAULT, TRAINERS
from serving.cli._progress import progress

if TYPE_CHECKING:
    from model.train import Trained

_TRAINERS = "\n".join(f"{name}: {text}" for name, text in TRAINERS.items())


@click.command(
    help="Train the classifier and export it as the next model version.\n\n"
    f"\b\nTrainers:\n{_TRAINERS}"
)
@click.option("--trainer", type=click.Choice(list(TRAINERS)), default=DEFAULT, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("models/chopstick"),
    show_default=True,
    help="Base path; the version becomes a directory in it.",
)
@click.option("--version", type=int, help="Version number. [default: the next free one]")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=1991,
    show_default=True,
    help="Same seed, data and machine: same weights.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="CSV with a row per person and a column per length. [default: Hsu & Wu 1991]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    trainer: str, out: Path, version: int | None, seed: int, data: Path | None, as_json: bool
) -> None:
    """Train and export."""
    from model.train import train

    # A terminated export cleans up as an interrupted one does.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with progress() as tell:
            trained = train(
                base=out, name=trainer, version=version, seed=seed, data=data, progress=tell
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        click.echo(json.dumps(_as_dict(trained), indent=2))
    elif sys.stdout.isatty():
        _show(trained)
    else:
        for name, value in _as_dict(trained).items():
            click.echo(f"{name}\t{value}")


def _as_dict(trained: Trained) -> dict[str, str | int | float]:
    return {
        "directory": str(trained.directory),
        "version": trained.version,
        "trainer": trained.trainer,
        "seed": trained.seed,
        "rows": trained.rows,
        **trained.scores,
    }


def _show(trained: Trained) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(
        f"[bold]version {trained.version}[/] ({trained.trainer}, seed {trained.seed}, "
        f"{trained.rows} measurements) in [bold]{trained.directory}[/]",
        soft_wrap=True,
    )
    table = Table("score", "on the training data", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, value in trained.scores.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    console.print(table)
    console.print(
        f"Next:  chopstick serve --model_name=chopstick --model_base_path={trained.directory.parent.resolve()}",
        soft_wrap=True,
    )
