"""`chopstick classify`: labels and scores of chopsticks by their length, over Classify."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from serving.cli import _client
from serving.cli.predict import ROWS

if TYPE_CHECKING:
    from serving.client import Classification


@click.command("classify", cls=_client.NumberCommand)
@_client.target_argument
@_client.length_options
@_client.timeout_option
@_client.selection_options
@click.option("--signature", default="classify", show_default=True, help="Signature key.")
@_client.connection_options
@_client.json_flag
def command(
    target: str,
    lengths: tuple[str, ...],
    csv_file: str | None,
    timeout: float,
    model: str,
    version: int | None,
    label: str | None,
    signature: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify chopsticks of each LENGTH (mm): the same answer as predict, by Classify.

    Each length travels as a tf.Example; the server answers with labels and scores.

    \b
    chopstick classify 127.0.0.1:8500 180 240 330
    """  # noqa: D301 - \b is click's mark for 'keep these lines'
    to = _client.connection(target, timeout, **options)
    values = _client.read_lengths(lengths, csv_file)

    import numpy as np

    from serving.client import INPUT, Classification

    parts: list[Classification] = []
    with _client.open_client(to, model) as client:
        for start in range(0, len(values), ROWS):
            column = np.array(values[start : start + ROWS], np.float32).reshape(-1, 1)
            parts.append(
                client.classify({INPUT: column}, version=version, label=label, signature=signature)
            )
    answer = Classification(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
        parts[-1].version,
        parts[-1].signature,
    )
    _client.note_extrapolation(values)
    show(to, model, values, answer, as_json=as_json)


def show(
    to: _client.Connection,
    model: str,
    lengths: list[float],
    answer: Classification,
    *,
    as_json: bool,
) -> None:
    """Print the answer in the form that the reader of standard output can use."""
    best = answer.scores.argmax(axis=1)
    rows = [
        (mm, str(labels[top]), labels.tolist(), scores)
        for mm, top, labels, scores in zip(lengths, best, answer.labels, answer.scores, strict=True)
    ]
    if as_json:
        document = {
            "target": to.target,
            "model": model,
            "version": answer.version,
            "signature": answer.signature,
            "classifications": [
                {
                    "length": mm,
                    "class": name,
                    "scores": {
                        key: float(_client.shortest(score))
                        for key, score in zip(labels, scores, strict=True)
                    },
                }
                for mm, name, labels, scores in rows
            ],
        }
        click.echo(json.dumps(document, indent=2))
        return
    # The labels are the same in every row unless a model sorts them by score.
    names = answer.labels[0].tolist()
    if not _client.on_terminal() or any(labels != names for _, _, labels, _ in rows):
        _client.write_tsv(
            ["length", "class", "label", "score"],
            [
                [f"{mm:g}", name, label, _client.shortest(score)]
                for mm, name, labels, scores in rows
                for label, score in zip(labels, scores, strict=True)
            ],
        )
        return

    from rich.console import Console

    version = "" if answer.version is None else f" version {answer.version}"
    protocol = "REST" if to.rest else "gRPC"
    title = f"{model}{version} at {to.target} ({protocol} Classify)"
    table = _client.table(title)
    table.add_column("mm", justify="right")
    table.add_column("class", style="bold")
    for label in names:
        table.add_column(label, no_wrap=True)
    for mm, name, _, scores in rows:
        table.add_row(f"{mm:g}", name, *(_client.bar(float(score)) for score in scores))
    Console().print(table)
