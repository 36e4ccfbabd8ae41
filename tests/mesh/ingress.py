"""The way in from outside: its certificate and keys, its address, and what a caller has to say."""

from __future__ import annotations

import base64
import datetime as dt
import secrets
import tempfile
import time
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.cluster.cluster import Cluster, WaitTimeoutError, is_ready
from tests.cluster.stack import Stack
from tests.cluster.traffic import FILES, Caller, Clients

GATEWAY = "chopstick"
OUTSIDE = "e2e-outside"
GRPC_HOST = "grpc.chopstick.example.com"
REST_HOST = "api.chopstick.example.com"
CERTIFICATE = "chopstick-ingress-tls"
KEYS = "chopstick-api-keys"
CLIENT_ID = "e2e"
PROXIES_NAMESPACE = "envoy-gateway-system"
PROXIES = f"gateway.envoyproxy.io/owning-gateway-name={GATEWAY}"
# The Gateway's Envoys are started for it: an image of the node, an injected proxy, a first configuration.
READY_SECONDS = 150.0
VALID = dt.timedelta(days=2)


class Ingress:
    """Prod's Gateway, with a certificate authority and an API key of this run's own."""

    grpc_host = GRPC_HOST
    rest_host = REST_HOST

    def __init__(self, cluster: Cluster, stack: Stack) -> None:
        self._cluster = cluster
        self._stack = stack
        self._authority_key = ec.generate_private_key(ec.SECP256R1())
        self._authority = _authority(self._authority_key)
        self.api_key = secrets.token_urlsafe(24)
        self.outsiders = Clients(cluster, OUTSIDE, self._caller())
        """Unmeshed pods with the CA and the key, for `chopstick` with `arguments`."""
        self._answers = False

    @cached_property
    def ca(self) -> str:
        """The certificate that callers trust, as PEM."""
        return self._authority.public_bytes(serialization.Encoding.PEM).decode()

    @cached_property
    def ca_file(self) -> Path:
        """A file of this machine with `ca`; pods of `outsiders` have it at `caller_ca_file`."""
        path = Path(tempfile.mkdtemp(prefix="chopstick-e2e-")) / "ca.crt"
        path.write_text(self.ca)
        return path

    caller_ca_file = f"{FILES}/ca.crt"

    @property
    def address(self) -> str:
        """The load balancer's address; raises WaitTimeoutError while the Gateway has none."""
        found = self._stack.kubectl(
            "get", "gateway", GATEWAY, "--output=jsonpath={.status.addresses[0].value}"
        ).strip()
        if not found:
            raise WaitTimeoutError(f"Gateway {GATEWAY} has no address")
        return found

    @property
    def grpc(self) -> str:
        """The target of gRPC calls, to be used with `arguments`."""
        return f"{GRPC_HOST}:443"

    @property
    def rest(self) -> str:
        """The target of REST calls, to be used with `arguments`."""
        return f"{REST_HOST}:443"

    @property
    def arguments(self) -> list[str]:
        """What `chopstick` needs beyond the target, in a pod of `outsiders` (the key is in its
        environment)."""
        return ["--tls", f"--ca={self.caller_ca_file}", f"--connect-to={self.address}:443"]

    def _caller(self) -> Caller:
        return Caller(
            annotations={"linkerd.io/inject": "disabled"},
            environment={"CHOPSTICK_API_KEY": self.api_key},
            files={"ca.crt": self.ca},
        )

    def provide_secrets(self) -> None:
        """Put certificate and API key where prod expects the user's; those of another run are
        replaced."""
        known = self._stack.kubectl(
            "get", "secret", KEYS, "--ignore-not-found",
            f"--output=jsonpath={{.data.{CLIENT_ID}}}",
        ).strip()  # fmt: skip
        if known == base64.b64encode(self.api_key.encode()).decode():
            return
        certificate, key = self._serving()
        self._secret(CERTIFICATE, "kubernetes.io/tls", {"tls.crt": certificate, "tls.key": key})
        self._secret(KEYS, "Opaque", {CLIENT_ID: self.api_key})

    def wait_ready(self) -> None:
        """Wait until the Gateway has its address, its Envoys are ready, and `outsiders` get an answer."""
        if self._answers:
            return
        self._stack.kubectl(
            "wait", f"gateway/{GATEWAY}", "--for=condition=Programmed",
            f"--timeout={READY_SECONDS:.0f}s", seconds=READY_SECONDS + 10,
        )  # fmt: skip
        self._cluster.wait_pods(
            PROXIES_NAMESPACE,
            lambda pods: pods and all(map(is_ready, pods.values())),
            f"the Envoys of Gateway {GATEWAY} to be ready",
            READY_SECONDS,
            PROXIES,
        )
        # Certificate and keys are with the Envoys some time after their Secrets are there.
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers:
            try:
                self.outsiders.run("first", ["predict", self.grpc, "240", *self.arguments])
                self._answers = True
            except AssertionError:
                if time.monotonic() > deadline:
                    raise

    def pods(self) -> list[str]:
        """Names of the Gateway's Envoy pods, in PROXIES_NAMESPACE."""
        found = self._cluster.core.list_namespaced_pod(PROXIES_NAMESPACE, label_selector=PROXIES)
        return sorted(pod.metadata.name for pod in found.items)

    def _secret(self, name: str, kind: str, data: dict[str, str]) -> None:
        self._cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": self._stack.namespace},
                "type": kind,
                "stringData": data,
            }
        )

    def _serving(self) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(GRPC_HOST), x509.DNSName(REST_HOST)]
        certificate = (
            _begun("chopstick ingress", self._authority.subject)
            .public_key(key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._authority_key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), _pem(key)


def _begun(name: str, issuer: x509.Name | None = None) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .serial_number(x509.random_serial_number())
        # A node's clock may be a little behind.
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + VALID)
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return (
        _begun("chopstick e2e")
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
