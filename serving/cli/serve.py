"""`chopstick serve`: the model server with a person's manners."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from serving.cli import tell
from serving.errors import ChopstickError
from serving.server.options import FLAGS, ServerOptions

# What a person at a desk wants, where TFS's default is another.
DEFAULTS: dict[str, Any] = {
    "model_name": "chopstick",
    "model_base_path": "models/chopstick",
    "rest_api_port": 8501,
    "enable_grpc_healthcheck_service": True,
    "max_num_load_retries": 0,
}
KINDS: dict[str, Any] = {"str": str, "int": int, "float": float}


def _option(name: str) -> click.Option:
    flag = FLAGS[name]
    default = DEFAULTS.get(name, getattr(ServerOptions(), name))
    note = "" if flag.metadata["here"] else " (no meaning here)"
    # TFS spells flags with underscores; fingers know hyphens.
    spellings = list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))
    if flag.type == "bool":
        off = [f"--no-{name.replace('_', '-')}"]
        return click.Option(
            [f"{'/'.join([spellings[0], off[0]])}", *spellings[1:], name],
            default=default,
            help=flag.metadata["help"] + note,
        )
    return click.Option(
        [*spellings, name],
        type=KINDS[str(flag.type)],
        default=default,
        show_default=True,
        help=flag.metadata["help"] + note,
    )


def _run(host: str, grace: float, **values: Any) -> None:
    options = ServerOptions(**{**values, "version": False})
    if options.model_config_file:
        given = [options.model_config_file]
    else:
        given = [options.model_base_path]
        options.model_base_path = str(Path(options.model_base_path).resolve())
    for path in given:
        if not Path(path).exists():
            raise ChopstickError(
                f"{path} does not exist",
                "Train a model with `chopstick train`, or name another with --model_base_path.",
            )
    if not options.model_config_file:
        from serving.server.source import versions_on_disk

        if not versions_on_disk(options.model_base_path):
            raise ChopstickError(
                f"{given[0]} holds no version (a directory whose name is a number)",
                "Train one with `chopstick train`.",
            )
    from serving.server.config import DEFAULT_MONITORING_PATH
    from serving.server.main import EXIT_FAILED, Settings, end, run

    try:
        settings = Settings.from_environment()
    except ValueError as error:
        raise ChopstickError(str(error), "Correct the variable or unset it.") from None
    settings.host, settings.grace_seconds = host, grace
    settings.monitoring_path = DEFAULT_MONITORING_PATH
    click.echo(
        f"serving {given[0]}: gRPC {host}:{options.port}, REST {host}:{options.rest_api_port}, "
        f"metrics at http://{host}:{options.rest_api_port}{DEFAULT_MONITORING_PATH}",
        err=True,
    )
    code = run(options, settings, [n for n in values if values[n] != _default(n)])
    if code == EXIT_FAILED:
        tell(
            ChopstickError(
                f"could not serve {given[0]}: the reason is above",
                "For a version that can't be loaded, `chopstick verify DIR` says which file is "
                "damaged; for an address in use, choose others with --port and --rest_api_port.",
            )
        )
        end(1)
    end(code)


def _default(name: str) -> Any:
    return DEFAULTS.get(name, getattr(ServerOptions(), name))


command = click.Command(
    "serve",
    callback=_run,
    help="Serve models with TensorFlow Serving's protocol, by TensorFlow Serving's flags.\n\n"
    "Binds loopback only; --host 0.0.0.0 opens it. Ctrl-C finishes what is being answered and "
    "stops; a second one stops at once.",
    params=[
        click.Option(
            ["--host"], default="127.0.0.1", show_default=True, help="Address to listen on."
        ),
        click.Option(
            ["--grace"],
            type=float,
            default=30.0,
            show_default=True,
            help="Seconds that requests in flight may take when the server stops.",
        ),
        *(_option(name) for name in FLAGS if name != "version"),
    ],
)
