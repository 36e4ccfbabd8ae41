"""The parts of the mesh suite that need no cluster."""

import ssl
import types

import pytest
from cryptography import x509
from kubernetes import client

from tests.cluster.runner import Program
from tests.cluster.suite import SKIP, Skip
from tests.mesh import linkerd, proxy, suite
from tests.mesh.__main__ import PROGRAM
from tests.mesh.cases.check import _refused
from tests.mesh.ingress import GRPC_HOST, REST_HOST, Ingress
from tests.mesh.shares import Shares

PAGE = """\
# HELP response_total Total count of HTTP responses.
# TYPE response_total counter
response_total{direction="outbound",dst_pod="a",grpc_status="0"} 12
response_total{direction="outbound",dst_pod="b",grpc_status="0"} 30
response_total{direction="outbound",dst_pod="b",grpc_status="14"} 1
# HELP outbound_grpc_route_retry_requests Retries.
# TYPE outbound_grpc_route_retry_requests counter
outbound_grpc_route_retry_requests_total{route_name="retried-grpc"} 2
# TYPE process_cpu_seconds counter
# UNIT process_cpu_seconds seconds
process_cpu_seconds_total 1.25
# EOF
"""


def test_a_proxys_page_is_read_and_summed():
    samples = proxy.parse(PAGE)
    assert proxy.total(samples, "response_total", direction="outbound") == 43
    assert proxy.by_label(samples, "response_total", "dst_pod", grpc_status="0") == {
        "a": 12,
        "b": 30,
    }
    assert proxy.total(samples, "outbound_grpc_route_retry_requests_total") == 2
    assert proxy.total(samples, "process_cpu_seconds_total") == 1.25
    assert proxy.total(samples, "request_total") == 0


def test_shares_are_of_what_came_between():
    shares = Shares.between({"a": 100, "b": 0, "c": 5}, {"a": 130, "b": 60, "c": 15})
    assert (shares.total, shares.unevenness, shares.least) == (100, 1.8, 0.1)
    assert shares.of("c") == pytest.approx(10 / 45)
    assert Shares({"x-1-a": 5, "x-1-b": 6000}).words() == "6,000 (b) / 5 (a)"
    assert Shares({"a": 30, "b": 0, "c": 0}).unevenness == 3.0
    with pytest.raises(AssertionError, match="other pods"):
        Shares.between({"a": 1}, {"b": 1})


def test_the_ingress_gets_a_certificate_for_both_names_of_the_runs_authority(tmp_path):
    ingress = Ingress(None, types.SimpleNamespace(namespace="chopstick"))
    certificate, key = ingress._serving()
    (tmp_path / "tls.crt").write_text(certificate)
    (tmp_path / "tls.key").write_text(key)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
        tmp_path / "tls.crt", tmp_path / "tls.key"
    )
    found = x509.load_pem_x509_certificate(certificate.encode())
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(ingress.ca.encode()))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [GRPC_HOST, REST_HOST]
    assert len(ingress.api_key) >= 32
    assert Ingress(None, ingress._stack).api_key != ingress.api_key


class Control:
    """What of the cluster's API tells whether Linkerd is there."""

    def __init__(self, ready):
        self.ready = ready

    def read_namespaced_deployment(self, name, _namespace, **_):
        if name not in self.ready:
            raise client.ApiException(status=404)
        return types.SimpleNamespace(status=types.SimpleNamespace(ready_replicas=self.ready[name]))


def test_without_linkerd_every_case_is_skipped_also_in_ci(monkeypatch, capsys):
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(
        "tests.cluster.runner.Cluster", lambda: types.SimpleNamespace(apps=Control({}))
    )
    assert PROGRAM.main(["down"]) == 0
    said = capsys.readouterr().err
    assert f"{SKIP}ped: 3 cases: the cluster has no Linkerd: there is no Deployment" in said
    assert "skipped: identity-down: identity down" in said


def test_a_control_plane_that_is_not_ready_is_none():
    ready = dict.fromkeys(linkerd.CONTROLLERS, 1)
    assert linkerd.missing(types.SimpleNamespace(apps=Control(ready))) == ""
    ready["linkerd-identity"] = 0
    assert "linkerd-identity has no ready pod" in linkerd.missing(
        types.SimpleNamespace(apps=Control(ready))
    )


def test_linkerds_command_is_the_variables_or_on_path(monkeypatch):
    monkeypatch.setenv("LINKERD", "sudo /opt/linkerd")
    assert linkerd.command() == ["sudo", "/opt/linkerd"]
    monkeypatch.delenv("LINKERD")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Skip, match="no linkerd on PATH"):
        linkerd.command()


def test_an_object_is_refused_by_any_of_its_conditions():
    def route(*statuses):
        conditions = [{"type": "Accepted", "status": s, "reason": "R"} for s in statuses]
        parents = [{"conditions": [one]} for one in conditions]
        return {
            "kind": "GRPCRoute",
            "metadata": {"name": "retried-grpc"},
            "status": {"parents": parents},
        }

    assert not list(_refused(route("True", "True")))
    assert list(_refused(route("True", "False"))) == ["GRPCRoute retried-grpc Accepted: R: "]
    assert list(_refused(route())) == ["GRPCRoute retried-grpc has no status"]


def test_the_suite_has_its_own_cases():
    assert isinstance(PROGRAM, Program)
    assert {"check", "balance", "rollout", "cost"} <= set(suite.REGISTRY.cases)
    assert "deploy" not in suite.REGISTRY.cases
