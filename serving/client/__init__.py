"""Client library for model servers that speak TensorFlow Serving's protocol.

    from serving.client import Client

    with Client("127.0.0.1:8500", timeout=2) as client:
        answer = client.predict(chopstick_length=[[240.0]])
        answer["classes_prob"]           # float32 [1, 3]
        answer.version                   # 1

Four clients with the same calls (`predict`, `classify`, `models`, `metadata`, `reload`):

====================  ========  ===========================
class                 protocol  calls
====================  ========  ===========================
`Client`              gRPC      blocking, for threads
`AsyncClient`         gRPC      asyncio
`RestClient`          REST      blocking, for threads
`AsyncRestClient`     REST      asyncio
====================  ========  ===========================

Arrays go in by input name, as a mapping or as keywords, and come out by output name. Every call
has a deadline, from the client or from the call; without one it is refused before it is sent.
`INPUT`, `OUTPUT` and `LABELS` name what the chopstick model takes and gives.

**From outside**, through an ingress: `tls=TLS(ca=FILE)`, or `TLS()` for the system's authorities;
`api_key=` goes with every call as `x-api-key`, and is refused where it would leave this machine
without TLS; `connect_to=` dials an address while the certificate's name, Host and :authority stay
the target's.

    Client("grpc.chopstick.example.com:443", timeout=2, tls=TLS(), api_key=key)

**Errors.** All are `ChopstickError` with a message and a remedy. An answer other than OK is a
`RequestError`: `NotFound`, `InvalidArgument`, `DeadlineExceeded`, `Unavailable`, ... with `code`,
`detail` (the server's words) and `target`.

**Retries** are gRPC's own, by service config: up to 4 attempts on UNAVAILABLE within the call's
deadline, 50 ms to 0.5 s apart with jitter, throttled when more than a tenth of the calls fail.
They hold for PredictionService and GetModelStatus, which change nothing; never for reload. Where
a mesh retries as well, attempts multiply: pass `retries=False` there. REST has none.

**Channel options**, chosen for a client behind a mesh's proxy; `options=` overrides each:

===================================  =====  ======================================================
option (grpc.)                       value  reason
===================================  =====  ======================================================
keepalive_time_ms                    10 s   a peer that vanished is noticed within 18 s of silence,
keepalive_timeout_ms                 8 s    not after the kernel's quarter of an hour
http2.ping_timeout_ms                8 s    the same for any ping: gRPC waits 60 s otherwise (seen
                                            with 1.85, whatever keepalive_timeout_ms says)
keepalive_permit_without_calls       0      servers answer pings on idle connections with GOAWAY
max_receive_message_length           none   outputs pass gRPC's default of 4 MB,
max_send_message_length              none   and the server takes requests of any size
dns_min_time_between_resolutions_ms  5 s    a replaced address is found in seconds (default 30 s)
initial_reconnect_backoff_ms         0.2 s  a server that is back is found at once
max_reconnect_backoff_ms             2 s    and in seconds after a long absence (default 2 min)
enable_http_proxy                    0      http_proxy is for the way out, not for a near model
service_config_disable_resolution    1      no TXT look-up with each resolution: it is here
primary_user_agent                          chopstick-client, for access logs
service_config                              the retries above, and one connection: a mesh balances
                                            each request, a second balancer would undo that
===================================  =====  ======================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.client.aio import AsyncClient
from serving.client.channel import TLS
from serving.client.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    InvalidRequest,
    MissingDeadline,
    NotFound,
    OutOfRange,
    PermissionDenied,
    RequestError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Unknown,
)
from serving.client.results import (
    Classification,
    ModelMetadata,
    Prediction,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving.client.sync import Client

if TYPE_CHECKING:
    from serving.client.rest import AsyncRestClient, RestClient

# The chopstick model's signature (docs of the export: model/export.py).
INPUT = "chopstick_length"
OUTPUT = "classes_prob"
LABELS = ("low", "medium", "high")

__all__ = [
    "INPUT",
    "LABELS",
    "OUTPUT",
    "TLS",
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "AsyncRestClient",
    "Cancelled",
    "Classification",
    "Client",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "InvalidRequest",
    "MissingDeadline",
    "ModelMetadata",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "Prediction",
    "RequestError",
    "ResourceExhausted",
    "RestClient",
    "Signature",
    "TensorSpec",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "VersionStatus",
]


def __getattr__(name: str) -> Any:
    # httpx costs 10 MiB and 0.2 s, which a gRPC caller should not pay.
    if name in ("AsyncRestClient", "RestClient"):
        from serving.client import rest

        return getattr(rest, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
