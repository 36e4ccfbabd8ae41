"""`chopstick predict`: the class of chopsticks by their length, over Predict."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from serving.cli import _client
from serving.errors import ChopstickError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from serving.client import Prediction

# One request holds at most so many rows: a server with batching refuses more than
# max_batch_size, by default 1000.
ROWS = 1000


@click.command("predict", cls=_client.NumberCommand)
@_client.target_argument
@_client.length_options
@_client.timeout_option
@_client.selection_options
@click.option("--signature", help="Signature key; default serving_default.")
@click.option("--input", "input_name", help="Name of the input; default chopstick_length.")
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
    signature: str | None,
    input_name: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Predict how efficient eating with chopsticks of each LENGTH (mm) is.

    A table on a terminal, tab-separated values in a pipe. The article's third argument, the
    time limit, is --timeout.

    \b
    chopstick predict 127.0.0.1:8500 180 240 330
    chopstick predict 127.0.0.1:8501 --rest --csv lengths.csv --json
    """  # noqa: D301 - \b is click's mark for 'keep these lines'
    to = _client.connection(target, timeout, **options)
    values = _client.read_lengths(lengths, csv_file)

    import numpy as np

    from serving.client import INPUT, Prediction

    name = input_name or INPUT
    parts: list[Prediction] = []
    with _client.open_client(to, model) as client:
        for start in range(0, len(values), ROWS):
            column = np.array(values[start : start + ROWS], np.float32).reshape(-1, 1)
            parts.append(
                client.predict({name: column}, version=version, label=label, signature=signature)
            )
    outputs = {
        key: np.concatenate([np.atleast_1d(part.outputs[key]) for part in parts])
        for key in parts[0].outputs
    }
    for key, array in outputs.items():
        if len(array) != len(values):
            raise ChopstickError(
                f"{target}: output '{key}' has {len(array)} rows for {len(values)} lengths",
                "This signature does not answer row by row; see --signature.",
            )
    answer = Prediction(outputs, parts[-1].version, parts[-1].signature)
    _client.note_extrapolation(values)
    show(to, model, values, answer, as_json=as_json)


def show(
    to: _client.Connection, model: str, lengths: list[float], answer: Prediction, *, as_json: bool
) -> None:
    """Print the answer in the form that the reader of standard output can use."""
    from serving.client import LABELS, OUTPUT

    named = answer.outputs.get(OUTPUT)
    if named is not None and named.ndim == 2 and named.shape[1] == len(LABELS):
        classes = [LABELS[i] for i in named.argmax(axis=1)]
    else:
        named = None
        classes = []
    if as_json:
        click.echo(json.dumps(_as_json(to, model, lengths, answer, named, classes), indent=2))
        return
    if named is None:
        header, rows = _plain_columns(lengths, answer.outputs)
        _client.write_tsv(header, rows)
        return
    if not _client.on_terminal():
        rows = [
            [f"{mm:g}", name, *map(_client.shortest, row)]
            for mm, name, row in zip(lengths, classes, named, strict=True)
        ]
        _client.write_tsv(["length", "class", *LABELS], rows)
        return

    from rich.console import Console

    version = "" if answer.version is None else f" version {answer.version}"
    protocol = "REST" if to.rest else "gRPC"
    table = _client.table(f"{model}{version} at {to.target} ({protocol})")
    table.add_column("mm", justify="right")
    table.add_column("class", style="bold")
    for name, colour in zip(LABELS, ("red", "yellow", "green"), strict=True):
        table.add_column(name, style=colour, no_wrap=True)
    for mm, name, row in zip(lengths, classes, named, strict=True):
        table.add_row(f"{mm:g}", name, *(_client.bar(float(p)) for p in row))
    Console().print(table)


def _plain_columns(
    lengths: list[float], outputs: dict[str, NDArray[Any]]
) -> tuple[list[str], list[list[str]]]:
    """Any other model's outputs, one column per element."""
    header = ["length"]
    columns: list[NDArray[Any]] = []
    for name, array in sorted(outputs.items()):
        flat = array.reshape(len(array), -1)
        many = flat.shape[1] > 1
        header += [f"{name}[{i}]" if many else name for i in range(flat.shape[1])]
        columns.append(flat)
    rows = []
    for i, mm in enumerate(lengths):
        cells = [_text(value) for flat in columns for value in flat[i]]
        rows.append([f"{mm:g}", *cells])
    return header, rows


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _as_json(
    to: _client.Connection,
    model: str,
    lengths: list[float],
    answer: Prediction,
    named: NDArray[np.float32] | None,
    classes: list[str],
) -> dict[str, Any]:
    from serving.client import LABELS

    document: dict[str, Any] = {
        "target": to.target,
        "model": model,
        "version": answer.version,
        "signature": answer.signature,
    }
    if named is not None:
        document["predictions"] = [
            {
                "length": mm,
                "class": name,
                "probabilities": {
                    key: float(_client.shortest(p)) for key, p in zip(LABELS, row, strict=True)
                },
            }
            for mm, name, row in zip(lengths, classes, named, strict=True)
        ]
        return document
    document["lengths"] = lengths
    document["outputs"] = {
        name: [_plain(value) for value in array] for name, array in answer.outputs.items()
    }
    return document


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, complex):
        return [value.real, value.imag]
    return _text(value) if isinstance(value, bytes) else value
