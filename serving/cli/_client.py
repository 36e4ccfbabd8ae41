"""What the commands that call a server share: options, lengths, output."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from serving.errors import ChopstickError

if TYPE_CHECKING:
    from rich.table import Table

    from serving.client import TLS, Client, RestClient

BAR = 10  # characters of a full bar
NOTED = 5  # lengths outside the measured range that a note lists

_NEGATIVE = re.compile(r"^-(\d|\.\d|inf|nan)", re.IGNORECASE)


class NumberCommand(click.Command):
    """A command whose arguments are numbers: `-5` is a bad length, not an unknown option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse negative numbers by name, then parse as ever."""
        takes_value = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for name in parameter.opts
        }
        before = ""
        for word in args:
            if word == "--":
                break
            if _NEGATIVE.match(word):
                what = f"{before} {word}" if before in takes_value else f"'{word}'"
                raise ChopstickError(
                    f"{what}: not a positive number",
                    "It must be above 0.",
                )
            before = word
        return super().parse_args(ctx, args)


def stack(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator of several click options, in the order in which help lists them."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


target_argument = click.argument("target", metavar="HOST:PORT")

timeout_option = click.option(
    "--timeout",
    type=float,
    default=5.0,
    show_default=True,
    metavar="S",
    help="Deadline of each request in seconds.",
)

connection_options = stack(
    click.option("--rest", is_flag=True, help="REST instead of gRPC; HOST:PORT is the REST port."),
    click.option("--tls", is_flag=True, help="TLS, with the system's authorities."),
    click.option("--ca", "--tls-ca", "ca", metavar="FILE", help="TLS, with this CA (PEM)."),
    click.option("--tls-cert", metavar="FILE", help="This client's certificate (PEM)."),
    click.option("--tls-key", metavar="FILE", help="The key of --tls-cert (PEM)."),
    click.option("--tls-server-name", metavar="NAME", help="Name in the server's certificate."),
    click.option(
        "--api-key",
        metavar="KEY",
        envvar="CHOPSTICK_API_KEY",
        help="Key for the ingress, sent with TLS or on loopback alone. On a command line everybody "
        "on this machine can read it: rather set CHOPSTICK_API_KEY.",
    ),
    click.option(
        "--connect-to",
        metavar="HOST:PORT",
        help="Dial this address; names in the certificate and the request stay the target's.",
    ),
)

model_option = click.option(
    "--model", default="chopstick", show_default=True, help="Name of the model."
)

selection_options = stack(
    model_option,
    click.option("--version", type=int, metavar="N", help="Model version; default the newest."),
    click.option("--label", help="Version label, such as stable or canary."),
)

length_options = stack(
    click.argument("lengths", nargs=-1, metavar="[LENGTH]..."),
    click.option(
        "--csv",
        "csv_file",
        metavar="FILE|-",
        help="Lengths from a file: one per line, or the column 'length'.",
    ),
)

json_flag = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


class Connection(NamedTuple):
    """How to reach a server, as the options said it."""

    target: str
    timeout: float
    rest: bool
    tls: TLS | None
    api_key: str | None = None
    connect_to: str | None = None

    def __repr__(self) -> str:
        """Without the key: it must not get into a traceback or a log."""
        return f"Connection({self.target!r}, rest={self.rest}, connect_to={self.connect_to!r})"


def connection(
    target: str,
    timeout: float,
    *,
    rest: bool,
    tls: bool,
    ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    tls_server_name: str | None,
    api_key: str | None,
    connect_to: str | None,
) -> Connection:
    """Read the connection options; raises ChopstickError for a contradiction."""
    # gRPC's C core would write to standard error, in a format of its own, what our error tells. It
    # reads this once, when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from serving.client import TLS

    wanted = tls or any((ca, tls_cert, tls_key, tls_server_name))
    settings = TLS(ca, tls_cert, tls_key, tls_server_name) if wanted else None
    return Connection(target, timeout, rest, settings, api_key, connect_to)


def open_client(to: Connection, model: str) -> Client | RestClient:
    """Return the client that the options ask for; used in a `with` block."""
    from serving import client

    kind = client.RestClient if to.rest else client.Client
    return kind(
        to.target,
        model=model,
        timeout=to.timeout,
        tls=to.tls,
        api_key=to.api_key,
        connect_to=to.connect_to,
    )


def read_lengths(words: Sequence[str], csv_file: str | None) -> list[float]:
    """The lengths of the command line or of the file, in mm; raises ChopstickError.

    Nothing may be sent before this has returned.
    """
    from serving.client.lengths import parse_length, read_csv

    if csv_file is not None:
        if words:
            raise ChopstickError(
                f"both --csv {csv_file} and lengths ({' '.join(words[:NOTED])}) are given",
                "Give one of them.",
            )
        return read_csv(_read_file(csv_file), "standard input" if csv_file == "-" else csv_file)
    if not words:
        raise ChopstickError(
            "no lengths", "Give lengths in mm, such as 'HOST:PORT 180 240', or --csv FILE."
        )
    return [parse_length(word) for word in words]


def _read_file(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ChopstickError(
            f"cannot read {name}: {error.strerror}", "Check the path, or pass --csv - to pipe."
        ) from None


def note_extrapolation(lengths: Sequence[float]) -> None:
    """Say on standard error which lengths nobody measured."""
    from serving.client.lengths import outside_measured

    outside = outside_measured(lengths)
    if not outside:
        return
    shown = ", ".join(f"{value:g}" for value in outside[:NOTED])
    more = f" and {len(outside) - NOTED} more" if len(outside) > NOTED else ""
    click.echo(
        f"note: {shown}{more} mm: outside the measured 180 to 330 mm, no data backs that answer.",
        err=True,
    )


def on_terminal() -> bool:
    """Whether standard output is a person's terminal."""
    return sys.stdout.isatty()


def write_tsv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a header and rows to standard output, tab-separated."""
    lines = ["\t".join(header)]
    lines += ["\t".join(_cell(value) for value in row) for row in rows]
    click.echo("\n".join(lines))


def _cell(value: object) -> str:
    return re.sub(r"[\t\r\n]+", " ", str(value))


def table(title: str) -> Table:
    """A table that leaves an 80-column terminal its columns."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def bar(probability: float) -> str:
    """A bar of eighths of a character and the percentage."""
    eighths = round(max(0.0, min(1.0, probability)) * BAR * 8)
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return f"{drawn:<{BAR}} {probability:6.1%}"


def shortest(value: Any) -> str:
    """A float32 in the fewest digits that give it back."""
    return str(value)
