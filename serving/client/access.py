"""What a caller outside the mesh needs: a key that stays secret, an address beside the name."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from serving.client.channel import TLS, check_target
from serving.client.errors import InvalidRequest

# The header that the ingress looks in (mesh/linkerd/ingress), and where the command line finds a key
# that is not to be seen in a list of processes.
API_KEY_HEADER = "x-api-key"
API_KEY_VARIABLE = "CHOPSTICK_API_KEY"


def call_headers(
    headers: Mapping[str, str] | None, api_key: str | None, *, dialled: str, encrypted: bool
) -> dict[str, str]:
    """The headers of every call, names in lower case, the key among them.

    `dialled` is the HOST:PORT that is connected to, `encrypted` whether by TLS. Raises
    InvalidRequest, which never shows the key, for one that no header can carry, for two of them and
    for one that would leave this machine in plain text.
    """
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    if api_key is None:
        return sent
    if not api_key or not all("!" <= character <= "~" for character in api_key):
        raise InvalidRequest(
            "the API key is empty or has a character that a header can't carry",
            "A key is printable ASCII without blanks or line ends; was a whole file pasted?",
        )
    if API_KEY_HEADER in sent:
        raise InvalidRequest(
            f"both api_key and a header {API_KEY_HEADER} are given", "Give one of them."
        )
    if not encrypted and not is_loopback(dialled):
        raise InvalidRequest(
            f"an API key for {dialled} without TLS: everybody on the way could read it",
            "Use TLS (--tls, --ca FILE; tls=TLS()), or send no key "
            f"(leave out --api-key, unset {API_KEY_VARIABLE}).",
        )
    return {**sent, API_KEY_HEADER: api_key}


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT, or a socket's path, stays on this machine; a name does if 'localhost'."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition("/")[2].rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_connect_to(connect_to: str | None, tls: TLS | None) -> str | None:
    """Return the address to dial instead of the target's; raises InvalidRequest for a bad one."""
    if connect_to is None:
        return None
    if tls is not None and tls.server_name:
        # gRPC refuses a call whose :authority the certificate does not hold.
        raise InvalidRequest(
            f"connect_to={connect_to} keeps the target's name, server_name={tls.server_name} "
            "puts another in its place",
            "Give the name in the certificate as the target, and leave --tls-server-name out.",
        )
    return check_target(connect_to)
