"""How a channel to a model server is set up, and why; see the table in `serving.client`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from serving.client.errors import InvalidRequest, MissingDeadline

Options = Sequence[tuple[str, Any]]

# Each one's reason is in the docstring of serving.client.
MESH_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 8_000),
    ("grpc.http2.ping_timeout_ms", 8_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.primary_user_agent", "chopstick-client"),
)

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def service_config(*, retries: bool) -> str:
    """The gRPC service config as JSON: first address only; retries of what is safe to repeat.

    Inference and status have no side effect. HandleReloadConfigRequest is left out: a second
    attempt could undo what another caller configured in between.
    """
    config: dict[str, Any] = {"loadBalancingConfig": [{"pick_first": {}}]}
    if retries:
        config["methodConfig"] = [
            {
                "name": [
                    {"service": "tensorflow.serving.PredictionService"},
                    {"service": "tensorflow.serving.ModelService", "method": "GetModelStatus"},
                ],
                "retryPolicy": _RETRY_POLICY,
            }
        ]
        # No retries while half the tokens are gone (a failure takes 1, a success gives 0.1):
        # a fleet that is down must not get four times the load.
        config["retryThrottling"] = {"maxTokens": 20, "tokenRatio": 0.1}
    return json.dumps(config)


def channel_options(*, retries: bool, extra: Options = ()) -> list[tuple[str, Any]]:
    """The options of a channel; `extra` wins over ours."""
    merged = dict(MESH_OPTIONS)
    merged["grpc.service_config"] = service_config(retries=retries)
    merged.update(extra)
    return list(merged.items())


@dataclass(frozen=True, slots=True)
class TLS:
    """Files in PEM: the CA that signed the server, and this client's certificate and key.

    Without `ca` the system's authorities count. `server_name` is the name in the server's
    certificate where it is not the host of the target.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequest(
                "a client certificate needs its key, and a key its certificate",
                "Give both (certificate= and key=, --tls-cert and --tls-key) or neither.",
            )

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files; raises InvalidRequest naming one that cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=read_pem(self.ca, "CA") if self.ca else None,
            private_key=read_pem(self.key, "key") if self.key else None,
            certificate_chain=(
                read_pem(self.certificate, "certificate") if self.certificate else None
            ),
        )


def read_pem(path: str | Path, what: str) -> bytes:
    """Return a PEM file's content; raises InvalidRequest when it is not one."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"cannot read the {what} file {path}: {error.strerror}", "Check the path."
        ) from None
    if b"-----BEGIN " not in data:
        raise InvalidRequest(
            f"the {what} file {path} is not PEM", "It should start with '-----BEGIN'."
        )
    return data


_HOST_PORT = re.compile(r"^(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(\d{1,5})$")
_URI = re.compile(r"^(dns:|unix:|unix-abstract:|ipv4:|ipv6:|xds:|passthrough:|vsock:)")


def is_host_port(target: str) -> bool:
    """Whether a target is HOST:PORT, not one of gRPC's own naming schemes."""
    return _URI.match(target) is None and _HOST_PORT.match(target) is not None


def check_target(target: str) -> str:
    """Return the target of a channel; raises InvalidRequest when it is not HOST:PORT.

    gRPC's own naming schemes (dns:, unix:, ...) pass as they are.
    """
    if _URI.match(target):
        return target
    match = _HOST_PORT.match(target)
    if match is None:
        raise InvalidRequest(
            f"'{target}' is not HOST:PORT",
            "Such as 127.0.0.1:8500; a URL (http://...) is for REST only.",
        )
    if not 0 < int(match[2]) < 65536:
        raise InvalidRequest(f"'{target}': there is no port {match[2]}", "Ports are 1 to 65535.")
    return target


def check_timeout(timeout: float | None) -> float | None:
    """Return a deadline in seconds, None for none; raises InvalidRequest for nonsense."""
    if timeout is None:
        return None
    if not (isinstance(timeout, int | float) and math.isfinite(timeout) and timeout > 0):
        raise InvalidRequest(
            f"a timeout of {timeout!r} is not a positive number of seconds", "Such as timeout=2.5."
        )
    return float(timeout)


def deadline(call: float | None, default: float | None) -> float:
    """The deadline of one call in seconds; raises MissingDeadline when nobody gave one."""
    if call is not None:
        return check_timeout(call)  # type: ignore[return-value] # not None in, not None out
    if default is None:
        raise MissingDeadline(
            "no deadline: neither the client nor the call has a timeout",
            "Pass timeout=SECONDS to the client or to the call; "
            "without one a lost server would block the caller forever.",
        )
    return default


def host_of(target: str) -> str:
    """The host of HOST:PORT, an IPv6 address without its brackets."""
    return target.rpartition(":")[0].strip("[]")


def open_channel(
    target: str,
    *,
    tls: TLS | None,
    options: Options,
    retries: bool,
    asynchronous: bool,
    connect_to: str | None = None,
) -> Any:
    """Return a grpc.Channel or a grpc.aio.Channel; nothing connects before the first call.

    `connect_to` is the HOST:PORT to dial where the target is but the name: of the certificate and
    of :authority. Raises InvalidRequest for an address that is none.
    """
    module: Any = grpc.aio if asynchronous else grpc
    names: list[tuple[str, Any]] = []
    dialled = check_target(target)
    if connect_to is not None:
        if not is_host_port(target):
            raise InvalidRequest(
                f"'{target}' has no name that could be kept at {connect_to}",
                "With connect_to the target is HOST:PORT.",
            )
        dialled = check_target(connect_to)
        names.append(("grpc.default_authority", target))
        if tls is not None:
            names.append(("grpc.ssl_target_name_override", host_of(target)))
    elif tls is not None and tls.server_name:
        names.append(("grpc.ssl_target_name_override", tls.server_name))
    merged = channel_options(retries=retries, extra=[*names, *options])
    if tls is None:
        return module.insecure_channel(dialled, options=merged)
    return module.secure_channel(dialled, tls.credentials(), options=merged)
