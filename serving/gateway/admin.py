"""What Envoy's admin port says about the replicas, and its order to drain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from serving.gateway.bootstrap import GRPC_CLUSTER, REST_CLUSTER

_UNHEALTHY_FLAGS = (
    "failed_active_health_check",
    "failed_outlier_check",
    "failed_active_degraded_check",
    "pending_dynamic_removal",
)


@dataclass(frozen=True)
class Endpoint:
    """One replica's port as Envoy sees it: health, and requests since the gateway started."""

    cluster: str
    address: str
    flags: tuple[str, ...]
    requests: int
    errors: int

    @property
    def healthy(self) -> bool:
        """True where Envoy sends calls."""
        return not self.flags


def parse_clusters(document: dict[str, Any]) -> dict[tuple[str, str], Endpoint]:
    """Return every endpoint of `/clusters?format=json` by (cluster, "host:port")."""
    endpoints = {}
    for cluster in document.get("cluster_statuses", []):
        for host in cluster.get("host_statuses", []):
            socket = host["address"]["socket_address"]
            address = f"{socket['address']}:{socket['port_value']}"
            health = host.get("health_status", {})
            flags = tuple(flag for flag in _UNHEALTHY_FLAGS if health.get(flag))
            # int64 is a string in protobuf's JSON, and zero is left out.
            stats = {item["name"]: int(item.get("value", 0)) for item in host.get("stats", [])}
            endpoints[cluster["name"], address] = Endpoint(
                cluster["name"],
                address,
                flags,
                stats.get("rq_total", 0),
                stats.get("rq_error", 0),
            )
    return endpoints


class Admin:
    """Envoy's admin API at "host:port"; httpx.HTTPError where it does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address
        # No proxy of the environment may stand between us and a loopback port.
        self._http = httpx.AsyncClient(base_url=f"http://{address}", timeout=2, trust_env=False)

    async def close(self) -> None:
        """Close the connections to the admin port."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """True once every listener is open."""
        try:
            return (await self._http.get("/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    async def endpoints(self) -> dict[tuple[str, str], Endpoint]:
        """Return every replica's gRPC and REST endpoint."""
        answer = await self._http.get("/clusters", params={"format": "json"})
        return parse_clusters(answer.raise_for_status().json())

    async def active_requests(self) -> int:
        """Return how many calls are under way at the replicas."""
        return await self._sum("upstream_rq_active")

    async def retries(self) -> int:
        """Return how many calls were tried again since the gateway started."""
        return await self._sum("upstream_rq_retry")

    async def _sum(self, stat: str) -> int:
        own = {f"cluster.{name}.{stat}" for name in (GRPC_CLUSTER, REST_CLUSTER)}
        answer = await self._http.get(
            "/stats", params={"filter": f"^cluster\\..*\\.{stat}$", "format": "json"}
        )
        stats = answer.raise_for_status().json()["stats"]
        return sum(int(item["value"]) for item in stats if item.get("name") in own)

    async def drain(self) -> None:
        """Take no new connections and tell the open ones to go away (GOAWAY) as they answer."""
        await self._http.post("/healthcheck/fail")
        await self._http.post("/drain_listeners", params={"graceful": "", "skip_exit": ""})
