"""An ingress like the one of mesh/linkerd/ingress, on loopback: Envoy with TLS, keys, limits."""

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serving.gateway import envoy
from tests.support.certificates import Authority
from tests.support.waiting import wait_for

DOMAIN = "chopstick.example.com"
KEY, REFUSED_KEY = "key-of-partner", "key-of-nobody"
MAX_BYTES = 1000
_TYPE = "type.googleapis.com/envoy"
_FILTERS = f"{_TYPE}.extensions.filters.http"
_RPCS = (
    "tensorflow.serving.PredictionService/Predict",
    "tensorflow.serving.PredictionService/Classify",
    "tensorflow.serving.PredictionService/GetModelMetadata",
    "tensorflow.serving.ModelService/GetModelStatus",
)


class Ingress:
    """Envoy before a model server's two ports; a context manager that leaves nothing behind.

    It knows three names of DOMAIN by SNI and Host: `grpc.` and `api.` as the ingress has them, and
    `limited.`, where one request an hour is answered, gRPC or REST. `address` is 127.0.0.1:port.
    Without one of the two keys the answer is 401, with REFUSED_KEY 403, above MAX_BYTES 413.
    """

    def __init__(self, folder: Path, authority: Authority, grpc: str, rest: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "envoy.json"
        self.log = folder / "envoy.log"
        self._ready = folder / "envoy.admin"
        self._listeners = folder / "listeners.json"
        names = [f"{name}.{DOMAIN}" for name in ("grpc", "api", "limited")]
        self.config.write_text(json.dumps(_bootstrap(authority.sign(*names), names, grpc, rest)))
        self.address = ""
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                envoy.command(self.config, self._ready), stdout=output, stderr=output
            )
        try:
            self.address = wait_for(self._address, f"Envoy to listen; see {self.log}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _address(self) -> str:
        import httpx

        assert self._process.poll() is None, self.log.read_text()
        if not self._ready.is_file() or not self._ready.read_text():
            return ""
        try:
            found = httpx.get(
                f"http://{self._ready.read_text()}/listeners?format=json", trust_env=False
            ).json()
        except httpx.HTTPError:
            return ""
        for status in found.get("listener_statuses", []):
            port = status["local_address"]["socket_address"]["port_value"]
            return f"127.0.0.1:{port}"
        return ""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()


def _bootstrap(
    certificate: tuple[Path, Path], names: list[str], grpc: str, rest: str
) -> dict[str, Any]:
    chain, key = ({"filename": str(file)} for file in certificate)
    tls = {
        "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": chain, "private_key": key}],
            "alpn_protocols": ["h2", "http/1.1"],
        },
    }
    return {
        "admin": {"address": _address(0)},
        "static_resources": {
            "clusters": [_cluster("grpc", grpc, http2=True), _cluster("rest", rest, http2=False)],
            "listeners": [
                {
                    "name": "https",
                    "address": _address(0),
                    "listener_filters": [
                        {
                            "name": "tls_inspector",
                            "typed_config": {
                                "@type": f"{_TYPE}.extensions.filters.listener.tls_inspector.v3."
                                "TlsInspector"
                            },
                        }
                    ],
                    "filter_chains": [
                        {
                            # Who comes by another name gets no connection.
                            "filter_chain_match": {"server_names": names},
                            "transport_socket": {"name": "tls", "typed_config": tls},
                            "filters": [{"name": "http", "typed_config": _http(names)}],
                        }
                    ],
                }
            ],
        },
    }


def _http(names: list[str]) -> dict[str, Any]:
    grpc, api, limited = names
    rpcs = [_route({"path": f"/{rpc}"}, "grpc") for rpc in _RPCS]
    rest = [_route({"prefix": "/v1/models/chopstick"}, "rest")]
    limit = {
        "@type": f"{_FILTERS}.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "limited",
        "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
        "filter_enabled": {"default_value": {"numerator": 100}},
        "filter_enforced": {"default_value": {"numerator": 100}},
    }
    return {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3."
        "HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": {
            # Envoy Gateway's own setting: gRPC's :authority has the port, HTTP's Host may not.
            "ignore_port_in_host_matching": True,
            "virtual_hosts": [
                {"name": "grpc", "domains": [grpc], "routes": rpcs},
                {"name": "api", "domains": [api], "routes": rest},
                {
                    "name": "limited",
                    "domains": [limited],
                    "routes": [*rpcs, *rest],
                    "typed_per_filter_config": {"limit": limit},
                },
            ],
        },
        "http_filters": [
            _filter(
                "keys",
                "api_key_auth.v3.ApiKeyAuth",
                credentials=[
                    {"key": KEY, "client": "partner"},
                    {"key": REFUSED_KEY, "client": "nobody"},
                ],
                key_sources=[{"header": "x-api-key"}],
            ),
            _filter("limit", "local_ratelimit.v3.LocalRateLimit", stat_prefix="off"),
            _filter("size", "buffer.v3.Buffer", max_request_bytes=MAX_BYTES),
            _filter("router", "router.v3.Router"),
        ],
    }


def _route(match: dict[str, str], cluster: str) -> dict[str, Any]:
    allowed = {
        "@type": f"{_FILTERS}.api_key_auth.v3.ApiKeyAuthPerRoute",
        "allowed_clients": ["partner"],
    }
    return {
        "match": match,
        "route": {"cluster": cluster},
        "typed_per_filter_config": {"keys": allowed},
    }


def _filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_FILTERS}.{kind}", **fields}}


def _cluster(name: str, target: str, *, http2: bool) -> dict[str, Any]:
    protocol = "http2_protocol_options" if http2 else "http_protocol_options"
    options = {
        "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {protocol: {}},
    }
    endpoint = {"endpoint": {"address": _address(int(target.rpartition(":")[2]))}}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {
            f"{_TYPE.removeprefix('type.googleapis.com/')}.extensions.upstreams.http.v3."
            "HttpProtocolOptions": options
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
