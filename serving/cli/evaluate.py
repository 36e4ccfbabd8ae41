"""`chopstick evaluate`: cross-validate the trainers and say which is worth deploying."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.trainers import TRAINERS
from serving.cli._progress import progress
from serving.errors import ChopstickError

if TYPE_CHECKING:
    from model.evaluate import Evaluation

_COLUMNS = (
    "model", "kind", "accuracy", "log_loss", "log_loss_spread", "brier", "calibration_error",
    "gain", "gain_low", "gain_high",
)  # fmt: skip


@click.command()
@click.option(
    "--trainer",
    "trainers",
    type=click.Choice(list(TRAINERS)),
    multiple=True,
    help="Only this trainer; may be repeated. [default: all]",
)
@click.option(
    "--folds", type=int, default=10, show_default=True, help="Folds; a person is in one only."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=1991, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("build/evaluation"),
    show_default=True,
    help="Directory for evaluation.png.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the figures to this file as well; '-' prints them instead of the table.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="CSV with a row per person and a column per length. [default: Hsu & Wu 1991]",
)
@click.option("--quick", is_flag=True, help="Only the softmax trainer and the two rules.")
def command(
    trainers: tuple[str, ...],
    folds: int,
    seed: int,
    out: Path,
    json_file: Path | None,
    data: Path | None,
    quick: bool,
) -> None:
    """Cross-validate every trainer and say which is worth deploying.

    Folds are grouped by individual. Accuracy, log loss, Brier score and calibration of each trainer
    stand beside the most frequent class, the class frequencies and gradient boosting.
    """
    if quick and trainers:
        raise click.UsageError("--quick chooses the trainer; leave --trainer out.")
    with progress() as tell:
        from model.dataset import load
        from model.evaluate import evaluate

        evaluation = evaluate(
            load(data),
            trainers=trainers or tuple(TRAINERS),
            folds=folds,
            seed=seed,
            quick=quick,
            progress=tell,
        )
        picture = out / "evaluation.png"
        tell(f"drawing {picture}")
        from model.plot import draw

        draw(evaluation, picture)
    to_stdout = json_file is not None and str(json_file) == "-"
    text = json.dumps(evaluation.as_dict(), indent=2, allow_nan=False)
    if json_file is not None and not to_stdout:
        _write(json_file, text + "\n")
    if to_stdout:
        click.echo(text)
    elif sys.stdout.isatty():
        _show(evaluation, picture)
    else:
        _print(evaluation)
    if not sys.stdout.isatty():
        click.echo(f"picture: {picture}", err=True)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ChopstickError(
            f"cannot write '{path}': {error.strerror or error}", "Give another file with --json."
        ) from None


def _print(evaluation: Evaluation) -> None:
    click.echo("\t".join(_COLUMNS))
    for row in evaluation.rows:
        cells = [row.name, row.kind]
        for column in _COLUMNS[2:]:
            value = getattr(row, column)
            cells.append("" if value is None else f"{value:.6f}")
        click.echo("\t".join(cells))
    # A comment line, so that the table stays a table for cut and awk.
    for line in evaluation.verdict.splitlines():
        click.echo(f"# {line}")


def _show(evaluation: Evaluation, picture: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    people = len(set(evaluation.dataset.individuals.tolist()))
    table = Table(
        title=f"{len(evaluation.dataset)} measurements of {people} people, {evaluation.folds} folds "
        "by individual",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("model")
    for name in (
        "accuracy",
        "log loss",
        "Brier",
        "calibration\nerror",
        "gain over the prior,\n95 %",
    ):
        table.add_column(name, justify="right")
    for row in evaluation.rows:
        table.add_row(
            row.name,
            f"{row.accuracy:.1%}",
            "infinite"
            if row.log_loss is None
            else f"{row.log_loss:.4f} ± {row.log_loss_spread:.3f}",
            f"{row.brier:.4f}",
            f"{row.calibration_error:.3f}",
            ""
            if row.gain is None
            else f"{row.gain:+.4f} ({row.gain_low:+.4f} … {row.gain_high:+.4f})",
            style="bold" if row.name == evaluation.best else "",
        )
    console.print(table)
    console.print("Log loss ± its standard deviation over folds, in nats. Lower is better.\n")
    console.print(evaluation.verdict)
    console.print(f"\nPicture: {picture}", soft_wrap=True)
    console.print(f"Next:  chopstick train --trainer {evaluation.best}", soft_wrap=True)
