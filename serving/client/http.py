"""The way to a REST port: its URL, TLS, headers, and the address that is dialled."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from serving.client.access import call_headers, check_connect_to
from serving.client.channel import TLS, host_of, read_pem
from serving.client.errors import InvalidRequest


class Reach(NamedTuple):
    """What an httpx client is made with; `extensions` belong to each request."""

    url: str
    headers: dict[str, str]
    verify: ssl.SSLContext | bool
    extensions: dict[str, str]


def reach(
    target: str,
    *,
    tls: TLS | None,
    headers: Mapping[str, str] | None,
    api_key: str | None,
    connect_to: str | None,
) -> Reach:
    """How to get to a target, HOST:PORT or URL; raises InvalidRequest for what can't be meant.

    With `connect_to` requests go there, and the name in the certificate and in Host stays the
    target's.
    """
    named = httpx.URL(base_url(target, tls=tls is not None))
    encrypted = named.scheme == "https"
    dialled = check_connect_to(connect_to, tls)
    sent = call_headers(
        headers, api_key, dialled=dialled or f"{named.host}:{named.port}", encrypted=encrypted
    )
    url = named
    name = tls.server_name if tls is not None else None
    if dialled is not None:
        url = named.copy_with(host=host_of(dialled), port=int(dialled.rpartition(":")[2]))
        sent.setdefault("host", named.netloc.decode())
        name = named.host
    return Reach(
        str(url).rstrip("/"),
        sent,
        ssl_context(tls) if tls is not None else True,
        {"sni_hostname": name} if encrypted and name else {},
    )


def base_url(target: str, *, tls: bool) -> str:
    """Return the URL of HOST:PORT, or of a URL given as such; raises InvalidRequest."""
    url = target if "://" in target else f"{'https' if tls else 'http'}://{target}"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or ("://" not in target and parts.port is None):
        raise InvalidRequest(
            f"'{target}' is neither HOST:PORT nor a URL",
            "Such as 127.0.0.1:8501 or https://models.example.com.",
        )
    return url.rstrip("/")


def ssl_context(tls: TLS) -> ssl.SSLContext:
    """The TLS settings as an SSLContext; raises InvalidRequest naming a file that is no good."""
    for path, what in ((tls.ca, "CA"), (tls.certificate, "certificate"), (tls.key, "key")):
        if path:
            read_pem(path, what)
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
        if tls.certificate:
            context.load_cert_chain(str(tls.certificate), str(tls.key) if tls.key else None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest(
            f"the TLS files cannot be used: {error}", "Do certificate and key belong together?"
        ) from None
    return context
