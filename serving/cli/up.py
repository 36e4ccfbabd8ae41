"""`chopstick up`: replicas behind a gateway at the desk, with a live table."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource


@click.command(
    help="Start replicas behind a gateway, with a live table.\n\n"
    "Trains a model first if there is none. Ctrl-C drains and stops everything; a second Ctrl-C "
    "ends at once. Words after '--' go to every replica: any flag of tensorflow_model_server.",
    context_settings={"ignore_unknown_options": False},
)
@click.option("--replicas", type=click.IntRange(1, 16), default=3, show_default=True)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8500,
    show_default=True,
    help="The gateway's gRPC port.",
)
@click.option(
    "--rest-port",
    type=click.IntRange(1, 65535),
    default=8501,
    show_default=True,
    help="The gateway's REST port.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address the gateway listens on; 0.0.0.0 opens it to the network, unprotected.",
)
@click.option(
    "--model-dir",
    type=click.Path(path_type=Path),
    default=Path("models/chopstick"),
    show_default=True,
    help="Base path that holds the numbered versions.",
)
@click.option("--model-name", default="chopstick", show_default=True)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per change of state, for programs."
)
@click.argument("server_flags", nargs=-1)
@click.pass_context
def command(
    context: click.Context,
    replicas: int,
    port: int,
    rest_port: int,
    host: str,
    model_dir: Path,
    model_name: str,
    as_json: bool,
    server_flags: tuple[str, ...],
) -> None:
    """Start, watch, drain."""
    from serving.desk import up

    given = context.get_parameter_source("model_dir") is not ParameterSource.DEFAULT
    up.run(
        up.Options(
            replicas=replicas,
            port=port,
            rest_port=rest_port,
            host=host,
            model_dir=model_dir,
            model_name=model_name,
            train_if_missing=not given,
            as_json=as_json,
            server_flags=server_flags,
        )
    )
