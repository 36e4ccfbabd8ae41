from __future__ import annotations

import pytest
import yaml

from serving.errors import ChopstickError
from serving.gateway import envoy
from serving.gateway.bootstrap import (
    GRPC_CLUSTER,
    L4_CLUSTER,
    REST_CLUSTER,
    Gateway,
    Replica,
    bootstrap,
    render,
)

REPLICAS = [Replica(20001, 20002), Replica(20003, 20004), Replica(20005, 20006)]


@pytest.mark.parametrize(
    "gateway",
    [
        Gateway(8500, 8501),
        Gateway(8500, 8501, l4_port=8502, access_log=False, policy="LEAST_REQUEST"),
    ],
    ids=["up", "demo"],
)
def test_envoy_accepts_the_configuration(gateway, tmp_path):
    config = tmp_path / "envoy.yaml"
    config.write_text(render(gateway, REPLICAS))
    envoy.validate(config)


def test_a_configuration_that_envoy_refuses_is_named_with_the_reason(tmp_path):
    config = tmp_path / "envoy.yaml"
    document = bootstrap(Gateway(8500, 8501), REPLICAS)
    document["static_resources"]["clusters"][0]["lb_policy"] = "FAIREST"
    config.write_text(yaml.safe_dump(document))
    with pytest.raises(ChopstickError, match="FAIREST") as caught:
        envoy.validate(config)
    assert str(config) in caught.value.message


def clusters(gateway):
    return {c["name"]: c for c in bootstrap(gateway, REPLICAS)["static_resources"]["clusters"]}


def ports(cluster):
    endpoints = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    return [e["endpoint"]["address"]["socket_address"]["port_value"] for e in endpoints]


def test_every_way_in_leads_to_every_replica():
    found = clusters(Gateway(8500, 8501, l4_port=8502))
    assert ports(found[GRPC_CLUSTER]) == ports(found[L4_CLUSTER]) == [20001, 20003, 20005]
    assert ports(found[REST_CLUSTER]) == [20002, 20004, 20006]


def test_layer_4_only_where_it_is_asked_for():
    assert L4_CLUSTER not in clusters(Gateway(8500, 8501))


def test_health_checks_find_a_replica_that_comes_up_without_traffic():
    for name in (GRPC_CLUSTER, REST_CLUSTER):
        (check,) = clusters(Gateway(8500, 8501))[name]["health_checks"]
        assert check["no_traffic_interval"] == check["interval"] == "0.5s"


def test_rest_health_checks_are_not_counted_as_requests():
    (check,) = clusters(Gateway(8500, 8501))[REST_CLUSTER]["health_checks"]
    assert not check["http_health_check"]["path"].startswith("/v1")


def test_listens_on_the_host_that_was_chosen_and_the_admin_port_on_loopback():
    document = bootstrap(Gateway(8500, 8501, host="0.0.0.0", l4_port=8502), REPLICAS)
    listeners = document["static_resources"]["listeners"]
    assert {entry["address"]["socket_address"]["address"] for entry in listeners} == {"0.0.0.0"}
    assert document["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
