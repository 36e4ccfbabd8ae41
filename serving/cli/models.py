"""`chopstick models`: which versions of a model a server has, and their states."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from serving.cli import _client
from serving.errors import ChopstickError

if TYPE_CHECKING:
    from serving.client import ModelMetadata

_COLOURS = {"AVAILABLE": "green", "LOADING": "yellow", "START": "yellow", "UNLOADING": "yellow"}


@click.command("models")
@_client.target_argument
@_client.timeout_option
@_client.model_option
@click.option("--version", type=int, metavar="N", help="This version only.")
@click.option("--signatures", is_flag=True, help="What the version in service takes and gives.")
@_client.connection_options
@_client.json_flag
def command(
    target: str,
    timeout: float,
    model: str,
    version: int | None,
    signatures: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the versions of a model at HOST:PORT, their states and what failed.

    Exits 1 when no version is AVAILABLE. TensorFlow Serving names neither its models nor its
    labels to a caller; --model says which one to ask for.
    """
    to = _client.connection(target, timeout, **options)
    with _client.open_client(to, model) as client:
        if signatures:
            show_signatures(target, client.metadata(version=version), as_json=as_json)
            return
        found = client.models(version=version)
    if as_json:
        document = {
            "target": target,
            "model": model,
            "versions": [
                {
                    "version": status.version,
                    "state": status.state,
                    "error_code": status.error_code.name,
                    "error_message": status.error_message,
                }
                for status in found
            ],
        }
        click.echo(json.dumps(document, indent=2))
    elif _client.on_terminal():
        from rich.console import Console
        from rich.markup import escape

        table = _client.table(f"{model} at {target}")
        table.add_column("version", justify="right")
        table.add_column("state")
        table.add_column("error")
        for status in found:
            colour = _COLOURS.get(status.state, "red")
            problem = (
                f"{status.error_code.name}: {status.error_message}" if status.error_code else ""
            )
            table.add_row(str(status.version), f"[{colour}]{status.state}[/]", escape(problem))
        Console().print(table)
    else:
        _client.write_tsv(
            ["model", "version", "state", "error_code", "error_message"],
            [[model, s.version, s.state, s.error_code.name, s.error_message] for s in found],
        )
    if not any(status.available for status in found):
        asked = f"version {version}" if version is not None else "no version"
        verb = "is not" if version is not None else "is"
        raise ChopstickError(
            f"{target}: {asked} of model '{model}' {verb} AVAILABLE",
            "The error column and the server's log say why; a version may still be loading.",
        )


def show_signatures(target: str, found: ModelMetadata, *, as_json: bool) -> None:
    """Print every signature's inputs and outputs, their dtypes and shapes."""
    rows = [
        (name, kind, tensor, spec.dtype, "any" if spec.shape is None else str(list(spec.shape)))
        for name, signature in found.signatures.items()
        for kind, specs in (("input", signature.inputs), ("output", signature.outputs))
        for tensor, spec in specs.items()
    ]
    header = ["signature", "kind", "name", "dtype", "shape"]
    if as_json:
        document = {
            "target": target,
            "model": found.name,
            "version": found.version,
            "signatures": [dict(zip(header, row, strict=True)) for row in rows],
        }
        click.echo(json.dumps(document, indent=2))
    elif _client.on_terminal():
        from rich.console import Console
        from rich.markup import escape

        table = _client.table(f"{found.name} version {found.version} at {target}")
        for name in header:
            table.add_column(name)
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
    else:
        _client.write_tsv(header, rows)
