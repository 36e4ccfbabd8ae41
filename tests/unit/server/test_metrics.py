"""The metrics page against what TFS's exporter prints."""

import re
import threading
from pathlib import Path

import pytest

from serving.server import metrics
from serving.server.metrics import Counter, Gauge, Histogram, OpaqueGauge, Registry, ServerMetrics

GOLDEN = Path(__file__).parent / "golden"


def page_after_traffic() -> str:
    server = ServerMetrics()
    for _ in range(7):
        server.request_count.add(("chopstick", "OK"))
    server.request_count.add(('we "quote"\\', "NOT_FOUND"))
    server.request_latency.observe(("chopstick", "Predict", "GRPC"), 10)
    server.request_latency.observe(("chopstick", "Predict", "GRPC"), 1234)
    server.request_latency.observe(("chopstick", "", "REST"), 2e9)
    server.request_example_counts.observe(("chopstick",), 16384)
    server.request_example_count_total.add(("chopstick",), 16384)
    server.queuing_latency.observe(("",), 120.5)
    server.wrapped_run_count.add()
    server.padding_size.observe(("8",), 3)
    server.load_latency.add(("/models/chopstick/1",), 123456)
    server.graph_runs.add((), 2)
    server.graph_run_time_usecs.add((), 2_000_000)
    server.graph_run_input_tensor_bytes.observe((), 4)
    server.session_created.set((), 1)
    return server.render()


def test_page_is_the_golden_file() -> None:
    assert page_after_traffic() == (GOLDEN / "metrics.txt").read_text()


def test_empty_page_has_every_type_line_and_nothing_else() -> None:
    assert ServerMetrics().render() == (GOLDEN / "metrics_empty.txt").read_text()


def test_tfs_own_examples() -> None:
    # tensorflow_serving/util/prometheus_exporter_test.cc
    counter = Counter("/test/path/total", ["my-name+1"])
    counter.add(('"abc\\"',), 2)
    assert counter.lines() == [
        "# TYPE :test:path:total counter",
        ':test:path:total{my_name_1="\\"abc\\\\\\""} 2',
    ]
    gauge = Gauge("0/path-total_count", ["x", "y"])
    gauge.set(("abc", "def"), 4)
    gauge.set(("abc", "def"), 5)
    assert gauge.lines() == [
        "# TYPE _0:path:total_count gauge",
        '_0:path:total_count{x="abc",y="def"} 5',
    ]
    histogram = Histogram("/test/h", ["status"], metrics.exponential(1, 2, 10))
    for value in (2, 20, 200):
        histogram.observe(("good",), value)
    counts = [line.rsplit(" ", 1)[1] for line in histogram.lines()[1:]]
    assert counts == ["0", "0", "1", "1", "1", "2", "2", "2", "3", "3", "3", "222", "3"]


LATENCY_EDGES = """10 18 32.4 58.32 104.976 188.957 340.122 612.22 1102 1983.59 3570.47 6426.84
11568.3 20823 37481.3 67466.4 121440 218591 393464 708235 1.27482e+06 2.29468e+06 4.13043e+06
7.43477e+06 1.33826e+07 2.40887e+07 4.33596e+07 7.80473e+07 1.40485e+08 2.52873e+08 4.55172e+08
8.19309e+08 1.47476e+09 +Inf""".split()  # a real server's page


def test_latency_edges_are_a_real_servers() -> None:
    histogram = Histogram("/h")
    histogram.observe((), 1)
    edges = [re.search('le="([^"]*)"', line) for line in histogram.lines()[1:-2]]
    assert [edge[1] for edge in edges if edge] == LATENCY_EDGES


def test_value_on_a_bound_counts_above_it() -> None:
    histogram = Histogram("/h", bounds=(1.0, 2.0))
    histogram.observe((), 1)
    assert histogram.lines()[1:4] == [
        ':h_bucket{le="1"} 0',
        ':h_bucket{le="2"} 1',
        ':h_bucket{le="+Inf"} 1',
    ]


def test_gauge_of_another_type_prints_zero_as_tfs_does() -> None:
    gauge = OpaqueGauge("/g")
    gauge.set((), 1)
    assert gauge.lines() == ["# TYPE :g gauge", ":g{} 0"]


def test_page_can_be_parsed() -> None:
    """Every sample belongs to the TYPE line above it; buckets grow and end at the count."""
    sample = re.compile(r'([a-zA-Z_:][\w:]*)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (\S+)')
    kind = name = ""
    buckets: list[float] = []
    for line in page_after_traffic().splitlines():
        if line.startswith("#"):
            _, _, name, kind = line.split(" ")
            assert kind in {"counter", "gauge", "histogram"}
            continue
        found = sample.fullmatch(line)
        assert found, line
        value = float(found[3])
        suffix = found[1].removeprefix(name)
        assert suffix in {"histogram": ("_bucket", "_sum", "_count")}.get(kind, ("",))
        if suffix == "_bucket":
            if buckets and value < buckets[-1]:
                buckets.clear()
            buckets.append(value)
        elif suffix == "_count":
            assert buckets == sorted(buckets)
            assert buckets[-1] == value
            buckets.clear()


def test_no_update_is_lost_between_threads() -> None:
    server = ServerMetrics()
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for _ in range(20_000):
            server.request_count.add(("m", "OK"))
            server.request_latency.observe(("m", "predict", "REST"), 50)
        server.request_count.add((f"m{number}", "OK"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.request_count.value(("m", "OK")) == 80_000
    assert server.request_latency.count(("m", "predict", "REST")) == 80_000
    assert server.request_latency.sum(("m", "predict", "REST")) == 80_000 * 50
    assert server.request_count.value(("m3", "OK")) == 1


def test_invented_names_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_SERIES", 3)
    counter, histogram = Counter("/c", ["model"]), Histogram("/h", ["model"])
    gauge = Gauge("/g", ["model"])
    for number in range(10):
        counter.add((f"m{number}",))
        histogram.observe((f"m{number}",), 1)
        gauge.set((f"m{number}",), 1)
    counter.add(("m0",))
    assert counter.value(("m0",)) == 2
    assert len(counter.lines()) == len(gauge.lines()) == 4
    assert len(histogram.lines()) == 1 + 3 * 36


def test_long_label_is_cut_and_newline_is_escaped() -> None:
    counter = Counter("/c", ["model"])
    counter.add(("x" * 5000,))
    counter.add(("x" * 5000,))
    assert counter.lines()[1] == f':c{{model="{"x" * metrics.MAX_LABEL_CHARS}"}} 2'
    counter = Counter("/c", ["model"])
    counter.add(("a\nb",))
    assert counter.lines()[1] == ':c{model="a\\nb"} 1'


def test_wrong_number_of_labels_is_an_error() -> None:
    with pytest.raises(ValueError, match="has labels"):
        Counter("/c", ["model"]).add(("a", "b"))


def test_metric_registers_once() -> None:
    registry = Registry()
    registry.register(Counter("/c"))
    with pytest.raises(ValueError, match="twice"):
        registry.register(Counter("/c"))


def test_invented_names_do_not_take_the_place_of_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_SERIES", 3)
    server = ServerMetrics()
    server.registry.known.add("chopstick")
    for number in range(10):
        server.request_count.add((f"m{number}", "NOT_FOUND"))
    server.request_count.add(("chopstick", "OK"))
    assert server.request_count.value(("chopstick", "OK")) == 1
    assert server.request_count.value(("m9", "NOT_FOUND")) == 0
