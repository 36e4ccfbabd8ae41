"""Envoy's bootstrap configuration for the desk, as one readable dictionary.

Three ways in: gRPC balanced per request (what a mesh does), REST balanced per request, and, where
asked for, a plain TCP proxy to the same replicas (what a layer-4 load balancer does).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

SERVED_BY = "x-served-by"
GRPC_CLUSTER = "replicas-grpc"
REST_CLUSTER = "replicas-rest"
L4_CLUSTER = "replicas-l4"
METRICS_PATH = "/monitoring/prometheus/metrics"

# One access-log line per answered call: replica, status, microseconds. `up` reads it for its
# percentiles; Envoy has no histogram per endpoint, and TensorFlow Serving's own has bounds 1.8
# times apart. From the last byte of the request in, to the last byte of the response out.
ACCESS_LOG_FORMAT = (
    "%UPSTREAM_REMOTE_ADDRESS% %GRPC_STATUS_NUMBER% %COMMON_DURATION(DS_RX_END:DS_TX_END:us)%\n"
)

_TYPE = "type.googleapis.com/"
_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True)
class Replica:
    """Where one replica listens."""

    grpc_port: int
    rest_port: int
    host: str = "127.0.0.1"

    @property
    def grpc(self) -> str:
        """Its gRPC address, as Envoy writes it into `x-served-by`."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def rest(self) -> str:
        """Its REST address."""
        return f"{self.host}:{self.rest_port}"


@dataclass(frozen=True)
class Gateway:
    """What the gateway listens on; `l4_port` None means no layer-4 listener."""

    grpc_port: int
    rest_port: int
    host: str = "127.0.0.1"
    l4_port: int | None = None
    # ROUND_ROBIN shows an even share, which is what the demo measures. With requests of very
    # different cost LEAST_REQUEST is the better choice.
    policy: str = "ROUND_ROBIN"
    access_log: bool = True


def render(gateway: Gateway, replicas: Sequence[Replica]) -> str:
    """Return the bootstrap file's text for these listeners and replicas."""
    head = "# Written by `chopstick up`; serving/gateway/bootstrap.py has the reasons.\n"
    return head + yaml.safe_dump(bootstrap(gateway, replicas), sort_keys=False)


def bootstrap(gateway: Gateway, replicas: Sequence[Replica]) -> dict[str, Any]:
    """Return the bootstrap as a dictionary; Envoy's own field names."""
    listeners = [
        _listener("grpc", gateway.host, gateway.grpc_port, _grpc_filter(gateway)),
        _listener("rest", gateway.host, gateway.rest_port, _rest_filter(gateway)),
    ]
    clusters = [_grpc_cluster(gateway, replicas), _rest_cluster(gateway, replicas)]
    if gateway.l4_port is not None:
        listeners.append(_listener("l4", gateway.host, gateway.l4_port, _tcp_filter()))
        clusters.append(_l4_cluster(replicas))
    return {
        # Port 0: the kernel picks one, Envoy writes it to --admin-address-path. Loopback
        # always: whoever reaches the admin port can stop the gateway.
        "admin": {"address": _address("127.0.0.1", 0)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    # Without a bound Envoy runs out of file descriptors first (a shell's usual
                    # limit is 1,024, and each client needs one and each replica connection one).
                    "typed_config": _typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        max_active_downstream_connections=500,
                    ),
                }
            ]
        },
    }


def _typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": _TYPE + name, **fields}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(name: str, host: str, port: int, network_filter: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "address": _address(host, port),
        # With SO_REUSEPORT, Envoy's default, a second gateway on the same port would start
        # without complaint and take half of the connections.
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [network_filter]}],
    }


def _http_filter(
    gateway: Gateway, name: str, codec: str, routes: list[dict[str, Any]]
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if gateway.access_log:
        options["access_log"] = [
            {
                "name": "envoy.access_loggers.stdout",
                "typed_config": _typed(
                    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                    log_format={"text_format_source": {"inline_string": ACCESS_LOG_FORMAT}},
                ),
            }
        ]
    served_by = {
        "header": {"key": SERVED_BY, "value": "%UPSTREAM_REMOTE_ADDRESS%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _typed(
            _HCM,
            stat_prefix=name,
            codec_type=codec,
            route_config={
                "name": name,
                "virtual_hosts": [
                    {
                        "name": name,
                        "domains": ["*"],
                        "routes": routes,
                        "response_headers_to_add": [served_by],
                    }
                ],
            },
            http_filters=[
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": _typed("envoy.extensions.filters.http.router.v3.Router"),
                }
            ],
            **options,
        ),
    }


def _grpc_filter(gateway: Gateway) -> dict[str, Any]:
    # No timeout of our own: the client's deadline (grpc-timeout) is the limit, whatever it is.
    deadline = {
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
    }
    reload_path = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    return _http_filter(
        gateway,
        "grpc",
        "HTTP2",
        [
            {
                # Balanced, it would change one replica and leave the others; a client sees
                # PERMISSION_DENIED with this text.
                "match": {"path": reload_path},
                "direct_response": {
                    "status": 403,
                    "body": {
                        "inline_string": "a reload reaches one replica only: "
                        "send it to every replica's own port, not to the gateway"
                    },
                },
            },
            {
                "match": {"prefix": "/tensorflow.serving."},
                "route": {
                    "cluster": GRPC_CLUSTER,
                    **deadline,
                    "retry_policy": _retries(
                        # `reset` also retries a call that a dying replica may have computed:
                        # inference changes nothing, so a second run is harmless.
                        "connect-failure,refused-stream,reset,unavailable"
                    ),
                },
            },
            # Health, reflection: streams, some of them endless; never tried twice.
            {"match": {"prefix": "/"}, "route": {"cluster": GRPC_CLUSTER, **deadline}},
        ],
    )


def _rest_filter(gateway: Gateway) -> dict[str, Any]:
    return _http_filter(
        gateway,
        "rest",
        "AUTO",
        [
            {
                "match": {"prefix": "/"},
                "route": {
                    "cluster": REST_CLUSTER,
                    # TensorFlow Serving's own --rest_api_timeout_in_ms; HTTP carries no deadline.
                    "timeout": "30s",
                    "retry_policy": {
                        **_retries("connect-failure,refused-stream,reset,retriable-status-codes"),
                        "retriable_status_codes": [503],
                    },
                },
            }
        ],
    )


def _retries(conditions: str) -> dict[str, Any]:
    return {
        "retry_on": conditions,
        "num_retries": 2,
        # One hung replica costs a call this long, not its whole deadline (the article's client
        # waits 10 s). A model whose p99 comes near it needs a larger number.
        "per_try_timeout": "5s",
        # A refused connection fails at once, and another replica is free at once.
        "retry_back_off": {"base_interval": "0.01s", "max_interval": "0.1s"},
        # Never the replica that has just failed, unless there is no other.
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": _typed(
                    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                ),
            }
        ],
        "host_selection_retry_max_attempts": 5,
    }


def _tcp_filter() -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": _typed(
            "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            stat_prefix="l4",
            cluster=L4_CLUSTER,
        ),
    }


def _cluster(name: str, policy: str, endpoints: Sequence[tuple[str, int]]) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        # No effect on addresses; it matters to who puts a name here, since `localhost` may
        # resolve to ::1, where no replica listens.
        "dns_lookup_family": "V4_ONLY",
        # On loopback a connection is made or refused within microseconds; a second is a hang.
        "connect_timeout": "1s",
        "lb_policy": policy,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": _address(host, port)}} for host, port in endpoints
                    ]
                }
            ],
        },
    }


def _balanced(cluster: dict[str, Any], protocol: dict[str, Any]) -> dict[str, Any]:
    return {
        **cluster,
        "common_lb_config": {
            # Envoy's default of 50 % sends calls to dead replicas as soon as half are down: at
            # the desk one live replica out of three is better than two refusals out of three.
            "healthy_panic_threshold": {"value": 0},
            # By default changes of health reach the balancer up to a second late, merged; that
            # spares work with thousands of endpoints, and here it hides a replica.
            "update_merge_window": "0s",
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: _typed(_HTTP_OPTIONS, explicit_http_config=protocol)
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    # Calls at the replicas at once. Three of them answer some thousand calls a
                    # second: more than this only waits longer for the same answers.
                    "max_requests": 4096,
                    "max_pending_requests": 4096,
                    # Retries may add a fifth to the load, so that an overload is not tripled, but
                    # a hundred at once are always allowed: the kernel needs about 0.1 s to free
                    # a killed replica's half gigabyte and closes its connections only then, so
                    # that the calls of that time (at 1,000 a second, 33) all come back at once.
                    "retry_budget": {
                        "budget_percent": {"value": 20.0},
                        "min_retry_concurrency": 100,
                    },
                }
            ]
        },
        "outlier_detection": {
            "interval": "1s",
            "base_ejection_time": "1s",
            "max_ejection_time": "10s",
            # The active check takes out what is dead; this is for what answers the check and
            # nothing else, and must leave somebody: an error that comes from the request
            # would otherwise empty the cluster.
            "max_ejection_percent": 50,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            # INTERNAL and UNKNOWN come from a model or a request, not from a replica.
            "enforcing_consecutive_5xx": 0,
            # Refused or broken connections are counted apart: three in a row is a dead replica,
            # found before the next health check.
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "enforcing_consecutive_local_origin_failure": 100,
        },
    }


def _health(check: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "interval": "0.5s",
            # Longer than the interval: with every core busy loading a version, a healthy
            # replica may take some hundred milliseconds to answer.
            "timeout": "1s",
            "unhealthy_threshold": 2,
            "healthy_threshold": 1,
            # Envoy's default of 60 s leaves a replica that failed its first check (it was
            # still loading) out for a minute when there is no traffic yet.
            "no_traffic_interval": "0.5s",
            "no_traffic_healthy_interval": "0.5s",
            **check,
        }
    ]


def _grpc_cluster(gateway: Gateway, replicas: Sequence[Replica]) -> dict[str, Any]:
    endpoints = [(replica.host, replica.grpc_port) for replica in replicas]
    return {
        **_balanced(
            _cluster(GRPC_CLUSTER, gateway.policy, endpoints), {"http2_protocol_options": {}}
        ),
        # The empty service is the whole server: the one name that TensorFlow Serving and every
        # other gRPC server know.
        "health_checks": _health({"grpc_health_check": {"service_name": ""}}),
    }


def _rest_cluster(gateway: Gateway, replicas: Sequence[Replica]) -> dict[str, Any]:
    endpoints = [(replica.host, replica.rest_port) for replica in replicas]
    return {
        **_balanced(
            _cluster(REST_CLUSTER, gateway.policy, endpoints), {"http_protocol_options": {}}
        ),
        # Not /v1/models/…: TensorFlow Serving counts every call under /v1 as a request.
        "health_checks": _health({"http_health_check": {"path": METRICS_PATH}}),
    }


def _l4_cluster(replicas: Sequence[Replica]) -> dict[str, Any]:
    # Round robin too: it has one decision to make per connection, and a gRPC channel is one.
    return _cluster(
        L4_CLUSTER, "ROUND_ROBIN", [(replica.host, replica.grpc_port) for replica in replicas]
    )
