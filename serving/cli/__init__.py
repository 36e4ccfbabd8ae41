"""`chopstick …`: one module per command, imported only when that command is asked for."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any

import click

from serving.errors import ChopstickError

# command: its one line of help. The module is serving.cli.<command>, its function `command`.
COMMANDS = {
    "train": "Train the classifier and export it as the next model version.",
    "evaluate": "Cross-validate every trainer and say which is worth deploying.",
    "verify": "Check a model version against the digests it was exported with.",
    "serve": "Serve models with TensorFlow Serving's protocol.",
    "up": "Start replicas behind a gateway, with a live table.",
    "demo": "Show why a mesh is needed: five results, measured here.",
    "predict": "Predict the class of chopsticks of given lengths.",
    "classify": "The same through Classify: labels and scores.",
    "models": "Show a model's versions, their states and what failed.",
    "health": "Say whether a model server is ready, and why not.",
    "load": "Send an open-loop load and report latency, failures and share.",
    "overlay": "Write a Kustomize overlay that serves a model of yours.",
}

# What each command needs beyond the core, as an extra of the package.
EXTRAS = {
    **dict.fromkeys(("train", "evaluate"), "model"),
    "serve": "server",
    "health": "health",
    **dict.fromkeys(("up", "demo"), "all"),
    **dict.fromkeys(("predict", "classify", "models", "load"), "client"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, so that `--help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order of the work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module; None for a name that is no command."""
        if cmd_name not in COMMANDS:
            return None
        try:
            module = importlib.import_module(f"serving.cli.{cmd_name}")
        except ModuleNotFoundError as error:
            _tell_extra(cmd_name, error)
            raise
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve, and suggest the nearest name for one that does not exist."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, 1)
            hint = f" Did you mean '{near[0]}'?" if near else " See 'chopstick --help'."
            ctx.fail(f"No such command '{name}'.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke; a library that is not installed is told by the extra that brings it."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            _tell_extra(ctx.invoked_subcommand or "", error)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing one of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _tell_extra(command: str, error: ModuleNotFoundError) -> None:
    """Raise ChopstickError when an extra brings what is missing; a module of our own is a bug."""
    if command in EXTRAS and (error.name or "").split(".")[0] not in {"model", "serving"}:
        raise ChopstickError(
            f"chopstick {command} needs {error.name}, which is not installed",
            f"Install the extra that brings it: pip install 'chopstick-serving[{EXTRAS[command]}]'",
        ) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chopstick-serving", prog_name="chopstick")
def chopstick() -> None:
    """Put a TensorFlow model into production, from the desk to the cluster."""


def tell(error: ChopstickError) -> None:
    """Say on standard error what went wrong and what to do about it."""
    click.echo(f"error: {error.message}", err=True)
    if error.remedy:
        click.echo(f"  {error.remedy}", err=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a ChopstickError becomes two lines on standard error."""
    try:
        chopstick.main(arguments, prog_name="chopstick", standalone_mode=True)
    except ChopstickError as error:
        tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our pipe left (`| head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    main()
