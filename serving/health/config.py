"""The sidecar's flags, each of which is also an environment variable; nothing is read later."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from serving.errors import ChopstickError
from serving.health.probe import Inputs

EXIT_USAGE = 2
_HELP = "The commands are serve, publish and drain. See 'python -m serving.health --help'."


@dataclass(frozen=True)
class Config:
    """What the sidecar was asked to do; times in seconds."""

    host: str
    port: int
    model: str
    required: int | None
    digest: str
    inputs: Inputs | None
    signature: str
    poll: float
    timeout: float
    listen: str
    probe_port: int
    metrics_port: int
    grpc_port: int
    volume: Path | None
    models: Path

    @property
    def server(self) -> str:
        """The model server's address as gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[str, Config]:
    """The command (`serve` or `publish`) and its configuration.

    A flag wins over its variable, an empty variable counts as unset. Raises ChopstickError with
    exit code 2 that names the flag and the variable.
    """
    parser = _Parser(
        prog="python -m serving.health",
        description="Tell Kubernetes, a mesh and Prometheus whether a model server is ready.",
        epilog="Exit status: 0 when ended by a signal or done, 1 on failure, 2 on bad usage.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "command",
        nargs="?",
        default="serve",
        metavar="serve|publish|drain",
        help="serve (the default): watch, and with --volume publish as well; "
        "publish: copy the newest verified version from --volume into --models, once; "
        "drain: tell the sidecar on this host that its pod ends (no flags; HEALTH_PROBE_PORT)",
    )
    for flag in _FLAGS:
        shown = f"; default {flag.default}" if flag.default else ""
        parser.add_argument(
            f"--{flag.name}", metavar=flag.metavar, help=f"{flag.help} ({flag.variable}{shown})"
        )
    given = vars(parser.parse_args(list(arguments)))
    if given["command"] not in {"serve", "publish"}:
        raise ChopstickError(f"no command '{given['command']}'", _HELP, exit_code=EXIT_USAGE)
    values: dict[str, Any] = {}
    for flag in _FLAGS:
        said = given[flag.name.replace("-", "_")]
        text = said if said is not None else environment.get(flag.variable) or flag.default
        try:
            values[flag.attribute] = flag.read(text)
        except ValueError as error:
            raise ChopstickError(
                f"--{flag.name} ({flag.variable}): {error}", flag.remedy, exit_code=EXIT_USAGE
            ) from None
    host, port = values.pop("server")
    config = Config(host=host, port=port, **values)
    _check(given["command"], config)
    return given["command"], config


def _check(command: str, config: Config) -> None:
    ports = (config.probe_port, config.metrics_port, config.grpc_port)
    if len({p for p in ports if p}) < len([p for p in ports if p]):
        raise ChopstickError(
            f"two of the ports {', '.join(map(str, ports))} are the same",
            "Give --probe-port, --metrics-port and --grpc-port each its own.",
            exit_code=EXIT_USAGE,
        )
    if command == "publish" and config.volume is None:
        raise ChopstickError(
            "publish needs --volume (MODEL_VOLUME)",
            "Name the directory that holds <model name>/<version>.",
            exit_code=EXIT_USAGE,
        )


class _Parser(argparse.ArgumentParser):
    """argparse with this project's kind of error."""

    def error(self, message: str) -> NoReturn:
        raise ChopstickError(message, _HELP, exit_code=EXIT_USAGE)


def _address(text: str) -> tuple[str, int]:
    found = re.fullmatch(
        r"\[(?P<six>[0-9A-Fa-f:.]+)\]:(\d{1,5})|(?P<host>[^\s:/\[\]]+):(\d{1,5})", text
    )
    if not found:
        raise ValueError(f"'{text}' is not HOST:PORT")
    port = _port(found[2] or found[4])
    if port == 0:
        raise ValueError("port 0 is no address")
    return found["six"] or found["host"], port


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"'{text}' is not a port")
    return int(text)


def _name(text: str) -> str:
    # A directory's name and a label's value; TFS itself takes anything.
    if not re.fullmatch(r"[^\s/:]{1,253}", text) or text in {".", ".."}:
        raise ValueError(f"'{text}' is not the name of a model")
    return text


def _version(text: str) -> int | None:
    if not text:
        return None
    # TFS parses a directory's name to an int64.
    if not text.isascii() or not text.isdecimal() or int(text) >= 1 << 63:
        raise ValueError(f"'{text}' is not a version")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 3600:
        raise ValueError(f"'{text}' is not a number of seconds from 0.01 to 3600")
    return value


def _inputs(text: str) -> Inputs | None:
    return Inputs.read(Path(text)) if text else None


def _directory(text: str) -> Path | None:
    if text and not Path(text).is_dir():
        raise ValueError(f"'{text}' is not a directory")
    return Path(text) if text else None


@dataclass(frozen=True)
class _Flag:
    name: str
    variable: str
    default: str
    read: Callable[[str], Any]
    metavar: str
    help: str
    remedy: str
    field: str = ""

    @property
    def attribute(self) -> str:
        """The name in Config."""
        return self.field or self.name.replace("-", "_")


_PORT_REMEDY = "Give a port from 1 to 65535, or 0 for any free one."
_FLAGS = (
    _Flag(
        "server", "HEALTH_SERVER", "127.0.0.1:8500", _address, "HOST:PORT",
        "gRPC address of the model server", "Give the server's gRPC port, as in 127.0.0.1:8500.",
    ),
    _Flag(
        "model", "MODEL_NAME", "chopstick", _name, "NAME",
        "name of the model", "Give the name that the server has it under (--model_name).",
    ),
    _Flag(
        "version", "MODEL_VERSION", "", _version, "N",
        "version that must be AVAILABLE; empty: the newest that loads",
        "Give a whole number, as the version's directory is named, or nothing.", "required",
    ),
    _Flag(
        "digest", "MODEL_DIGEST", "", str, "SHA256",
        "digest of the model's manifest for the info metric, where no volume tells it", "",
    ),
    _Flag(
        "inputs", "HEALTH_INPUTS", "", _inputs, "FILE",
        'JSON {"input": nested list} for the Predict that proves a version; without it zeros of '
        "the signature's shape, -1 taken as 1",
        'Write {"NAME OF AN INPUT": [[...]]}; `chopstick models --signatures` shows the names.',
    ),
    _Flag(
        "signature", "HEALTH_SIGNATURE", "serving_default", str, "NAME",
        "signature of that Predict", "",
    ),
    _Flag(
        "poll", "HEALTH_POLL_SECONDS", "1", _seconds, "S",
        "seconds from poll to poll", "Give seconds, as in 1 or 0.5.",
    ),
    _Flag(
        "timeout", "HEALTH_TIMEOUT_SECONDS", "1", _seconds, "S",
        "deadline of one GetModelStatus", "Give seconds, as in 1 or 0.5.",
    ),
    _Flag(
        "host", "HEALTH_HOST", "0.0.0.0", str, "ADDRESS",  # noqa: S104 - kubelet and mesh come from outside
        "address to listen on; 0.0.0.0 and :: are all addresses, IPv6 included", "", "listen",
    ),
    _Flag(
        "probe-port", "HEALTH_PROBE_PORT", "8502", _port, "PORT",
        "HTTP for the kubelet's probes", _PORT_REMEDY,
    ),
    _Flag(
        "metrics-port", "HEALTH_METRICS_PORT", "8503", _port, "PORT",
        "HTTP for Prometheus, /metrics", _PORT_REMEDY,
    ),
    _Flag(
        "grpc-port", "HEALTH_GRPC_PORT", "8504", _port, "PORT",
        "grpc.health.v1", _PORT_REMEDY,
    ),
    _Flag(
        "volume", "MODEL_VOLUME", "", _directory, "DIR",
        "directory with <model name>/<version> that others fill",
        "Mount the volume, or leave it empty where the image holds the model.",
    ),
    _Flag(
        "models", "MODEL_BASE", "/models", Path, "DIR",
        "directory that the server reads <model name>/<version> from", "",
    ),
)  # fmt: skip
