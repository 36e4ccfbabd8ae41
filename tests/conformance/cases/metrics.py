"""Section 5: the metrics page."""

from __future__ import annotations

import re

from tests.conformance.harness import (
    NotApplicable,
    Server,
    case,
    classify_request,
    metadata_request,
    predict_request,
    regress_request,
    same,
    status_request,
)

SERVING = ":tensorflow:serving:"
THREE = "half_plus_three"
BOUNDS = (
    "10 18 32.4 58.32 104.976 188.957 340.122 612.22 1102 1983.59 3570.47 6426.84 11568.3 20823 "
    "37481.3 67466.4 121440 218591 393464 708235 1.27482e+06 2.29468e+06 4.13043e+06 7.43477e+06 "
    "1.33826e+07 2.40887e+07 4.33596e+07 7.80473e+07 1.40485e+08 2.52873e+08 4.55172e+08 "
    "8.19309e+08 1.47476e+09 +Inf"
).split()


def types(server: Server) -> dict[str, str]:
    found = re.findall(r"^# TYPE (\S+) (\S+)$", server.page(), re.MULTILINE)
    return dict(found)


def count(model: str, status: str) -> str:
    return f'{SERVING}request_count{{model_name="{model}",status="{status}"}}'


def latency(model: str, api: str, entrypoint: str) -> str:
    labels = f'model_name="{model}",API="{api}",entrypoint="{entrypoint}"'
    return f"{SERVING}request_latency_count{{{labels}}}"


def predict(server: Server, model: str = THREE) -> None:
    server.predict(model, {"x": [2.0]})


def bounds(server: Server, name: str, labels: str) -> list[str]:
    pattern = re.compile(rf'^{name}_bucket\{{{re.escape(labels)}le="([^"]+)"\}} \d+$')
    return [m[1] for line in server.page().splitlines() if (m := pattern.match(line))]


@case("metrics.content-type")
def the_page_is_plain_text(server: Server) -> None:
    server.page()
    reply = server.get("/monitoring/prometheus/metrics")
    same(reply.headers["content-type"], "text/plain")


@case("metrics.format")
def names_are_paths_with_colons_and_there_is_no_help(server: Server) -> None:
    page = server.page()
    assert "# HELP" not in page
    assert page.endswith("\n")
    line = re.compile(
        r'(# TYPE :[A-Za-z0-9_:]+ (counter|gauge|histogram|untyped)'
        r'|:[A-Za-z0-9_:]+\{([A-Za-z0-9_]+="([^"\\]|\\.)*"(,(?=.))?)*\} \S+)'
    )  # fmt: skip
    for text in page.splitlines():
        assert line.fullmatch(text), text


@case("metrics.type-lines")
def type_lines_are_there_before_any_sample(server: Server) -> None:
    kinds = types(server)
    same(kinds.get(f"{SERVING}request_log_count"), "counter")


@case("metrics.no-labels")
def a_metric_without_labels_has_empty_braces(server: Server) -> None:
    predict(server)
    assert ":tensorflow:core:graph_runs{}" in server.samples()


@case("metrics.query")
def a_query_is_not_the_path(server: Server) -> None:
    server.page()
    reply = server.get("/monitoring/prometheus/metrics?x=1")
    same(reply.status, 400)
    same(
        reply.body,
        "Unexpected path: /monitoring/prometheus/metrics?x=1. Should be "
        "/monitoring/prometheus/metrics",
    )


@case("metrics.label-escape")
def quotes_and_backslashes_in_a_label_are_escaped(server: Server) -> None:
    server.page()
    server.refusal("Predict", predict_request('qu"ote\\d', {"x": [1.0]}))
    assert f'{SERVING}request_count{{model_name="qu\\"ote\\\\d",status="NOT_FOUND"}}' in (
        server.samples()
    )


@case("metrics.buckets")
def latency_has_33_bounds_in_microseconds_all_always_there(server: Server) -> None:
    predict(server)
    labels = f'model_name="{THREE}",API="Predict",entrypoint="GRPC",'
    same(bounds(server, f"{SERVING}request_latency", labels), BOUNDS)


@case("metrics.request-count")
def request_count_is_by_model_and_code(server: Server) -> None:
    same(types(server)[f"{SERVING}request_count"], "counter")
    grown = server.growth(lambda: predict(server))
    same(grown[count(THREE, "OK")], 1)


@case("metrics.latency-only-ok")
def latency_is_of_ok_requests_only_and_count_of_all(server: Server) -> None:
    def refused() -> None:
        server.refusal("Predict", predict_request(THREE, {"wrong": [1.0]}))

    grown = server.growth(refused)
    same(grown.get(count(THREE, "INVALID_ARGUMENT")), 1)
    assert not any("request_latency" in name for name in grown), grown
    same(server.growth(lambda: predict(server))[latency(THREE, "Predict", "GRPC")], 1)


@case("metrics.latency-only-ok")
def the_same_holds_for_rest(server: Server) -> None:
    grown = server.growth(lambda: server.post(f"/v1/models/{THREE}:predict", "nonsense"))
    same(grown.get(count(THREE, "INVALID_ARGUMENT")), 1)
    assert latency(THREE, "predict", "REST") not in grown, grown


@case("metrics.api-grpc")
def api_of_grpc_is_capitalised(server: Server) -> None:
    def three_calls() -> None:
        predict(server)
        server.call("Classify", classify_request(THREE, {"x": 2.0}, signature="classify"))
        server.call("Regress", regress_request(THREE, {"x": 2.0}, signature="regress"))

    grown = server.growth(three_calls)
    for api in ("Predict", "Classify", "Regress"):
        same(grown.get(latency(THREE, api, "GRPC")), 1, api)
    same(grown[count(THREE, "OK")], 3)


@case("metrics.api-rest")
def api_of_rest_is_in_lower_case(server: Server) -> None:
    def three_calls() -> None:
        server.post(f"/v1/models/{THREE}:predict", {"instances": [2.0]})
        for method in ("classify", "regress"):
            body = {"signature_name": method, "examples": [{"x": 2.0}]}
            server.post(f"/v1/models/{THREE}:{method}", body)

    grown = server.growth(three_calls)
    for api in ("predict", "classify", "regress"):
        same(grown.get(latency(THREE, api, "REST")), 1, api)


@case("metrics.api-rest-get")
def a_status_over_rest_counts_under_an_empty_api(server: Server) -> None:
    grown = server.growth(lambda: server.get(f"/v1/models/{THREE}"))
    same(grown.get(latency(THREE, "", "REST")), 1)
    same(grown.get(count(THREE, "OK")), 1)
    grown = server.growth(lambda: server.get(f"/v1/models/{THREE}/metadata"))
    same(grown.get(latency(THREE, "", "REST")), 1)


@case("metrics.grpc-uncounted")
def other_rpcs_are_not_counted(server: Server) -> None:
    from tests.conformance.cases.grpc_api import CLASSIFY, REGRESS, multi

    def others() -> None:
        server.call("GetModelStatus", status_request(THREE))
        server.call("GetModelMetadata", metadata_request(THREE, "signature_def"))
        server.call("MultiInference", multi(REGRESS, CLASSIFY))

    grown = server.growth(others)
    assert not any("request_count" in name or "request_latency" in name for name in grown), grown


@case("metrics.name-before-lookup")
def an_unknown_model_makes_a_series(server: Server) -> None:
    grown = server.growth(
        lambda: server.refusal("Predict", predict_request("never_heard_of", {"x": [1.0]}))
    )
    same(grown.get(count("never_heard_of", "NOT_FOUND")), 1)


@case("metrics.no-version-label")
def no_series_of_a_request_says_the_version(server: Server) -> None:
    predict(server)
    names = [name for name in server.samples() if name.startswith(f"{SERVING}request_")]
    assert names
    assert not any("version" in name for name in names)


@case("metrics.no-process-metrics")
def there_are_no_process_metrics(server: Server) -> None:
    assert not any("process_" in name for name in types(server))


@case("metrics.unimplemented-uncounted")
def an_unimplemented_call_is_invisible(server: Server) -> None:
    from tests.conformance.cases.grpc_api import unimplemented

    method = "/tensorflow.serving.PredictionService/Nothing"
    grown = server.growth(lambda: unimplemented(server, method))
    assert not any("request_" in name for name in grown), grown


@case("metrics.runtime-latency")
def runtime_latency_is_by_model_api_and_runtime(server: Server) -> None:
    same(types(server)[f"{SERVING}runtime_latency"], "histogram")
    grown = server.growth(lambda: predict(server))
    labels = f'model_name="{THREE}",API="Predict",runtime="TF1"'
    same(grown.get(f"{SERVING}runtime_latency_count{{{labels}}}"), 1)


@case("metrics.example-counts")
def examples_are_counted_for_classify_and_regress_only(server: Server) -> None:
    kinds = types(server)
    same(kinds[f"{SERVING}request_example_counts"], "histogram")
    same(kinds[f"{SERVING}request_example_count_total"], "counter")
    total = f'{SERVING}request_example_count_total{{model="{THREE}"}}'
    requests = f'{SERVING}request_example_counts_count{{model="{THREE}"}}'
    request = regress_request(THREE, {"x": 2.0}, {"x": 3.0}, signature="regress")
    grown = server.growth(lambda: server.call("Regress", request))
    same((grown.get(total), grown.get(requests)), (2, 1))
    same(
        bounds(server, f"{SERVING}request_example_counts", f'model="{THREE}",'),
        [str(2**power) for power in range(15)] + ["+Inf"],
    )
    assert total not in server.growth(lambda: predict(server))


def kind_of(server: Server, name: str, kind: str) -> None:
    found = types(server)
    same(found.get(name), kind, name)


@case("metrics.request-log-count")
def request_log_count_is_a_counter(server: Server) -> None:
    kind_of(server, f"{SERVING}request_log_count", "counter")


@case("metrics.warmup-latency")
def model_warmup_latency_is_a_histogram(server: Server) -> None:
    kind_of(server, f"{SERVING}model_warmup_latency", "histogram")


@case("metrics.warmup-records")
def model_warmup_records_read_is_a_counter(server: Server) -> None:
    kind_of(server, f"{SERVING}model_warmup_records_read", "counter")


@case("metrics.mlmd-map")
def mlmd_map_is_a_gauge(server: Server) -> None:
    kind_of(server, f"{SERVING}mlmd_map", "gauge")


@case("metrics.load-attempts")
def loads_are_counted_by_path_and_outcome(server: Server) -> None:
    name = ":tensorflow:cc:saved_model:load_attempt_count"
    kind_of(server, name, "counter")
    found = [key for key in server.samples() if key.startswith(name)]
    pattern = re.compile(name + r'\{model_path="[^"]*/half_plus_two/00000123",status="success"\}')
    assert any(pattern.fullmatch(key) for key in found), found


@case("metrics.load-latency")
def load_latency_is_a_counter_of_microseconds(server: Server) -> None:
    name = ":tensorflow:cc:saved_model:load_latency"
    kind_of(server, name, "counter")
    values = [v for key, v in server.samples().items() if key.startswith(name + "{model_path=")]
    assert values
    assert all(value > 100 for value in values), values


@case("metrics.load-latency-by-stage")
def load_latency_by_stage_is_a_histogram(server: Server) -> None:
    name = ":tensorflow:cc:saved_model:load_latency_by_stage"
    kind_of(server, name, "histogram")
    stages = {m[1] for key in server.samples() if (m := re.search(name + r'.*stage="(\w+)"', key))}
    same(stages, {"restore_graph", "init_graph"})


@case("metrics.graph-runs")
def runs_of_the_graph_and_their_time_are_counted(server: Server) -> None:
    kind_of(server, ":tensorflow:core:graph_runs", "counter")
    kind_of(server, ":tensorflow:core:graph_run_time_usecs", "counter")
    request = predict_request("slow", {"iterations": [5]})
    grown = server.growth(lambda: server.call("Predict", request))
    assert grown.get(":tensorflow:core:graph_runs{}", 0) >= 1, grown
    assert grown.get(":tensorflow:core:graph_run_time_usecs{}", 0) > 100, grown


@case("metrics.direct-session-runs")
def runs_of_sessions_are_counted(server: Server) -> None:
    grown = server.growth(lambda: predict(server))
    assert grown.get(":tensorflow:core:direct_session_runs{}", 0) >= 1, grown


@case("metrics.session-created")
def session_created_is_a_gauge(server: Server) -> None:
    kind_of(server, ":tensorflow:core:session_created", "gauge")


@case("metrics.graph-run-histograms")
def graph_run_histograms_are_there(server: Server) -> None:
    for name in ("time_usecs_histogram", "input_tensor_bytes", "output_tensor_bytes"):
        kind_of(server, f":tensorflow:core:graph_run_{name}", "histogram")


@case("metrics.graph-builds")
def graph_builds_are_counted(server: Server) -> None:
    found = types(server)
    for name in ("graph_build_calls", "graph_build_time_usecs"):
        same(found.get(f":tensorflow:core:{name}"), "counter", name)


@case("metrics.tensorflow-internals")
def tensorflows_own_metrics_are_on_the_page(server: Server) -> None:
    found = types(server)
    for name in (
        ":tensorflow:core:graph_pending_queue_length_histogram",
        ":tensorflow:core:graph_optimization_usecs",
        ":tensorflow:core:saved_model:read:count",
        ":tensorflow:core:saved_model:read:api",
        ":tensorflow:core:saved_model:read:path",
        ":tensorflow:core:saved_model:read:fingerprint",
    ):
        assert name in found, name


@case("metrics.batching-types")
def batching_has_a_wrapped_run_count_and_a_queuing_latency(server: Server) -> None:
    kind_of(server, f"{SERVING}batching_session:wrapped_run_count", "counter")
    kind_of(server, f"{SERVING}batching_session:queuing_latency", "histogram")


@case("metrics.health-uncounted")
def health_is_not_counted(server: Server) -> None:
    from tests.conformance.cases.grpc_api import health

    try:
        health(server, "")
    except NotApplicable:
        server.page()
        raise
    grown = server.growth(lambda: health(server, ""))
    assert not any("request_" in name for name in grown), grown
