from __future__ import annotations

from serving.gateway.admin import parse_clusters
from serving.gateway.bootstrap import GRPC_CLUSTER
from serving.gateway.latency import LatencyWindow


def host(port, *flags, **stats):
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "health_status": {"eds_health_status": "HEALTHY", **dict.fromkeys(flags, True)},
        "stats": [
            {"name": name, **({"value": str(value)} if value else {})}
            for name, value in stats.items()
        ],
    }


def test_endpoints_have_health_and_counts():
    hosts = [
        host(20001, rq_total=12, rq_error=1),
        host(20003, "failed_active_health_check", rq_total=0),
    ]
    document = {"cluster_statuses": [{"name": GRPC_CLUSTER, "host_statuses": hosts}]}
    found = parse_clusters(document)
    first, second = (
        found[GRPC_CLUSTER, "127.0.0.1:20001"],
        found[GRPC_CLUSTER, "127.0.0.1:20003"],
    )
    assert (first.requests, first.errors, first.healthy) == (12, 1, True)
    assert (second.requests, second.healthy) == (0, False)
    assert second.flags == ("failed_active_health_check",)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_percentiles_are_values_that_were_measured():
    window = LatencyWindow(10, Clock())
    for micros in range(1, 101):
        window.add_line(f"127.0.0.1:20001 0 {micros * 1000}\n")
    found = window.percentiles("127.0.0.1:20001")
    assert found is not None
    assert (found.count, found.p50, found.p99) == (100, 0.050, 0.099)


def test_what_left_the_window_is_forgotten():
    clock = Clock()
    window = LatencyWindow(10, clock)
    window.add_line("127.0.0.1:20001 0 9000\n")
    clock.now = 9.0
    window.add_line("127.0.0.1:20001 0 1000\n")
    clock.now = 11.0
    found = window.percentiles("127.0.0.1:20001")
    assert found is not None
    assert (found.count, found.p50, found.p99) == (1, 0.001, 0.001)
    clock.now = 20.0
    assert window.percentiles("127.0.0.1:20001") is None


def test_calls_that_no_replica_answered_say_nothing_about_one():
    window = LatencyWindow(10, Clock())
    for line in ("- 14 120\n", "127.0.0.1:20001 0 -\n", "\n", "half a li"):
        window.add_line(line)
    assert window.percentiles("-") is None
    assert window.percentiles("127.0.0.1:20001") is None
