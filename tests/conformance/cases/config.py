"""Section 6: the model configuration, by RPC, by polling and at start."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from serving.protocol import messages
from tests.conformance.harness import (
    AVAILABLE,
    END,
    Process,
    Server,
    case,
    parsed,
    predict_request,
    profile,
    run_to_end,
    same,
    starts,
)
from tests.conformance.models import entry
from tests.support.waiting import wait_for

X = {"x": [0.0]}
RELOAD = profile(
    "reload",
    "--max_num_load_retries=0",
    "--allow_version_labels_for_unavailable_models",
    "--enable_grpc_healthcheck_service",
    only=("half_plus_two", "half_plus_three"),
    remote="models",
    rest=False,
)
PLAIN = profile(
    "plain",
    "--max_num_load_retries=2",
    "--load_retry_interval_micros=1000",
    "--num_load_threads=2",
    single="half_plus_two",
)
PATIENT = profile(
    "patient",
    "--max_num_load_retries=1",
    "--load_retry_interval_micros=6000000",
    single="half_plus_two",
)
POLLED = profile(
    "polled",
    "--model_config_file_poll_wait_seconds=1",
    "--max_num_load_retries=0",
    # REST on the port of gRPC is left out.
    "--rest_api_port={port}",
    only=("half_plus_two",),
    rest=False,
)
START = profile("start", server=False, threads=2)
START_STATE = 10


def fresh(server: Server, name: str, *versions: str) -> Path:
    """A new base path with these versions, named as their spare."""
    folder = server.folder / "fresh" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, source in enumerate(versions, 1):
        shutil.copytree(server.folder / "spare" / source, folder / str(number))
    return folder


def predict_k(server: Server, model: str, **choice) -> float:
    return server.outputs(model, X, **choice)["k"][0]


def refused(server: Server, *entries: str) -> tuple[str, str]:
    return server.refusal("HandleReloadConfigRequest", server.reload_request(*entries))


def half(server: Server) -> None:
    """The base models still answer."""
    same(server.outputs("half_plus_two", {"x": [[2.0]]}), {"y": [[3.0]]})


# Reload by RPC.


@case("reload.adds-and-removes", "reload.blocks-until-new", profile=RELOAD)
def a_model_is_added_when_the_reply_comes_and_removed_again(server: Server) -> None:
    path = fresh(server, "added", "k1")
    server.reload(entry("added", path))
    same(predict_k(server, "added"), 1.0)
    server.reload()
    server.wait_states("added", {1: END})
    expected = ("NOT_FOUND", "Servable not found for request: Latest(added)")
    same(server.refusal("Predict", predict_request("added", X)), expected)
    half(server)


@case("reload.replaces-whole", profile=RELOAD)
def a_reload_replaces_the_whole_configuration(server: Server) -> None:
    one, two = fresh(server, "one", "k1"), fresh(server, "two_", "k2")
    server.reload(entry("one", one))
    server.reload(entry("two_", two))
    server.wait_states("one", {1: END})
    same(predict_k(server, "two_"), 2.0)
    server.reload()


@case("reload.moved", profile=RELOAD)
def a_moved_model_loads_new_numbers_from_the_new_place(server: Server) -> None:
    old, new = fresh(server, "moved", "k1"), fresh(server, "moved-to", "k2", "k3")
    server.reload(entry("moved", old))
    server.reload(entry("moved", new))
    server.wait_states("moved", {2: AVAILABLE, 1: END})
    same(predict_k(server, "moved"), 3.0)
    server.reload()


@case("reload.moved-same-version", profile=RELOAD)
def a_version_of_the_same_number_stays_the_old_one(server: Server) -> None:
    old, new = fresh(server, "same", "k1"), fresh(server, "same-to", "k2")
    server.reload(entry("same", old))
    server.reload(entry("same", new))
    time.sleep(2.2)
    same(predict_k(server, "same"), 1.0)
    server.reload()


@case("reload.new-versions-not-waited-for", profile=RELOAD)
def a_changed_policy_is_answered_at_once(server: Server) -> None:
    path = fresh(server, "policy", "k1", "k2")
    server.reload(entry("policy", path))
    same(server.states("policy"), {2: AVAILABLE})
    began = time.monotonic()
    server.reload(entry("policy", path, "all {}"))
    assert time.monotonic() - began < 1
    server.wait_states("policy", {2: AVAILABLE, 1: AVAILABLE})
    server.reload()


@case("reload.reply", profile=RELOAD)
def the_reply_has_a_status_and_how_much_metrics_grew(server: Server) -> None:
    request = server.reload_request(entry("metered", fresh(server, "metered", "k1")))
    request.metric_names.extend(["/tensorflow/core/graph_runs", "/no/such/metric"])
    response = server.call("HandleReloadConfigRequest", request)
    assert response.HasField("status")
    same((response.status.error_code, response.status.error_message), (0, ""))
    names = {metric.name: metric.int64_value_increase for metric in response.metric}
    same(set(names), {"/tensorflow/core/graph_runs", "/no/such/metric"})
    same(names["/no/such/metric"], 0)
    server.reload()


@case("reload.only-list", profile=RELOAD)
def only_a_list_of_models_may_be_sent(server: Server) -> None:
    text = (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList "
        "is currently supported"
    )
    empty = messages.ReloadConfigRequest()
    same(server.refusal("HandleReloadConfigRequest", empty), ("INVALID_ARGUMENT", text))
    empty.config.custom_model_config.SetInParent()
    same(server.refusal("HandleReloadConfigRequest", empty), ("INVALID_ARGUMENT", text))
    half(server)


@case("reload.duplicate-name", profile=RELOAD)
def a_name_twice_is_refused(server: Server) -> None:
    path = fresh(server, "twice", "k1")
    text = "Illegal to list model twice multiple times in config list"
    same(refused(server, entry("twice", path), entry("twice", path)), ("INVALID_ARGUMENT", text))
    same(server.states("twice"), {})
    half(server)


@case("reload.relative-path", profile=RELOAD)
def a_relative_path_is_refused(server: Server) -> None:
    text = "Expected model m to have an absolute path or URI; got base_path()=models/m"
    same(refused(server, entry("m", "models/m")), ("INVALID_ARGUMENT", text))
    text = "Expected model m to have an absolute path or URI; got base_path()="
    same(refused(server, entry("m", "")), ("INVALID_ARGUMENT", text))
    half(server)


@case("reload.platform-change", profile=RELOAD)
def another_platform_is_refused(server: Server) -> None:
    path = server.folder / "models" / "half_plus_two"
    text = entry("half_plus_two", path).replace('"tensorflow"', '"pytorch"')
    request = messages.ReloadConfigRequest(
        config=parsed(messages.ModelServerConfig, f"model_config_list {{ {text} }}")
    )
    expected = (
        "Illegal to change a model's platform. For model half_plus_two platform was tensorflow and "
        "new platform requested is pytorch"
    )
    got = server.refusal("HandleReloadConfigRequest", request)
    same(got, ("INVALID_ARGUMENT", expected))
    half(server)


@case("reload.broken-new-model", profile=RELOAD)
def a_new_model_that_cannot_load_is_an_unknown_error(server: Server) -> None:
    path = fresh(server, "broken", "mistagged")
    code, message = refused(server, entry("broken", path))
    same(code, "UNKNOWN")
    expected = (
        "1 model(s) did not become available: {{{name: broken version: 1} due to error: NOT_FOUND: "
        "Could not find meta graph def matching supplied tags: { serve }"
    )
    same(message, starts(expected))
    half(server)
    server.reload()


@case("reload.broken-new-model", profile=RELOAD)
def a_model_that_comes_back_broken_is_told_too(server: Server) -> None:
    path = fresh(server, "again", "k1")
    server.reload(entry("again", path))
    server.reload()
    server.wait_states("again", {1: END})
    shutil.copytree(server.folder / "spare" / "mistagged", path / "2")
    same(refused(server, entry("again", path))[0], "UNKNOWN")
    server.reload()


@case("reload.missing-base-path-hangs", profile=RELOAD, alone=True)
def a_new_model_without_base_path_hangs_this_and_later_reloads(server: Server) -> None:
    path = server.folder / "fresh" / "late"
    shutil.rmtree(path, ignore_errors=True)
    request = server.reload_request(entry("late", path))
    same(server.refusal("HandleReloadConfigRequest", request, timeout=1.5)[0], "DEADLINE_EXCEEDED")
    other = server.reload_request()
    same(server.refusal("HandleReloadConfigRequest", other, timeout=1)[0], "DEADLINE_EXCEEDED")
    half(server)
    # It comes after all, and everything goes on.
    fresh(server, "late", "k1")
    wait_for(lambda: server.states("late") and server.reload(), "reloads to go on", 30)
    half(server)


@case("reload.never-loads", "grpc.status.states", profile=RELOAD, last=True)
def a_model_that_never_finishes_loading_stops_no_answers(server: Server) -> None:
    path = fresh(server, "never", "never")
    request = server.reload_request(entry("never", path))
    same(server.refusal("HandleReloadConfigRequest", request, timeout=2.5)[0], "DEADLINE_EXCEEDED")
    same(server.states("never"), {1: 20})
    half(server)
    expected = ("NOT_FOUND", "Servable not found for request: Latest(never)")
    same(server.refusal("Predict", predict_request("never", X)), expected)


# Labels.

K3 = "specific { versions: 1 versions: 2 }"


@case("labels.many-for-one", "labels.new-may-be-unavailable", profile=RELOAD)
def with_the_flag_a_new_label_may_point_to_what_is_not_there(server: Server) -> None:
    path = fresh(server, "labelled", "k1", "k2")
    labels = {"a": 1, "b": 1, "ghost": 9}
    server.reload(entry("labelled", path, K3, labels))
    server.wait_states("labelled", {2: AVAILABLE, 1: AVAILABLE})
    same([predict_k(server, "labelled", label=label) for label in ("a", "b")], [1.0, 1.0])
    same(
        server.refusal("Predict", predict_request("labelled", X, label="ghost")),
        ("NOT_FOUND", "Servable not found for request: Specific(labelled, 9)"),
    )
    server.reload()


@case("labels.moving-needs-available", profile=RELOAD)
def even_with_the_flag_a_label_moves_only_to_what_is_available(server: Server) -> None:
    path = fresh(server, "moving", "k1", "k2")
    server.reload(entry("moving", path, K3, {"stable": 1}))
    server.wait_states("moving", {2: AVAILABLE, 1: AVAILABLE})
    text = (
        "Request to assign label to version 9 of model moving, which is not currently available "
        "for inference"
    )
    got = refused(server, entry("moving", path, K3, {"stable": 9}))
    same(got, ("FAILED_PRECONDITION", text))
    same(predict_k(server, "moving", label="stable"), 1.0)
    server.reload(entry("moving", path, K3, {"stable": 2}))
    same(predict_k(server, "moving", label="stable"), 2.0)
    server.reload()


@case("labels.removed", profile=RELOAD)
def a_label_that_is_left_out_is_gone(server: Server) -> None:
    path = fresh(server, "unlabelled", "k1")
    server.reload(entry("unlabelled", path, labels={"a": 1}))
    server.reload(entry("unlabelled", path))
    same(
        server.refusal("Predict", predict_request("unlabelled", X, label="a")),
        ("INVALID_ARGUMENT", "Unrecognized servable version label: a"),
    )
    server.reload()


def single(
    server: Server, *more: str, policy: str = "", labels=None
) -> messages.ReloadConfigRequest:
    """The one model that `plain` was started with, and more."""
    path = server.folder / "models" / "half_plus_two"
    text = entry("half_plus_two", path, policy, labels) + "".join(more)
    config = parsed(messages.ModelServerConfig, f"model_config_list {{ {text} }}")
    return messages.ReloadConfigRequest(config=config)


def unavailable(version: int, model: str) -> tuple[str, str]:
    return (
        "FAILED_PRECONDITION",
        f"Request to assign label to version {version} of model {model}, which is not currently "
        "available for inference",
    )


@case("labels.need-available", profile=PLAIN)
def without_the_flag_a_label_needs_an_available_version(server: Server) -> None:
    rpc = "HandleReloadConfigRequest"
    same(server.refusal(rpc, single(server, labels={"l": 9})), unavailable(9, "half_plus_two"))
    server.call(rpc, single(server, labels={"l": 123}))
    same(server.outputs("half_plus_two", {"x": [[2.0]]}, label="l"), {"y": [[3.0]]})
    server.call(rpc, single(server))


@case("labels.add-and-label-refused", profile=PLAIN)
def a_version_added_and_labelled_at_once_is_refused_and_not_loaded(server: Server) -> None:
    rpc = "HandleReloadConfigRequest"
    path = fresh(server, "both", "k1", "k2")
    server.call(rpc, single(server, entry("both", path)))
    same(server.states("both"), {2: AVAILABLE})
    labelled = entry("both", path, K3, {"old": 1})
    same(server.refusal(rpc, single(server, labelled)), unavailable(1, "both"))
    time.sleep(2.2)
    same(server.states("both"), {2: AVAILABLE})
    # Load first, then label.
    server.call(rpc, single(server, entry("both", path, K3)))
    server.wait_states("both", {2: AVAILABLE, 1: AVAILABLE})
    server.call(rpc, single(server, labelled))
    same(predict_k(server, "both", label="old"), 1.0)
    server.call(rpc, single(server))


@case("flags.max-num-load-retries", "flags.load-retry-interval", profile=PLAIN)
def two_retries_are_three_attempts(server: Server) -> None:
    path = fresh(server, "retried", "mistagged")
    began = time.monotonic()
    request = single(server, entry("retried", path))
    same(server.refusal("HandleReloadConfigRequest", request)[0], "UNKNOWN")
    assert time.monotonic() - began < 10
    server.call("HandleReloadConfigRequest", single(server))
    log = server.owned.output()
    assert log.count("Loading servable: {name: retried version: 1} failed") == 3, log[-2000:]


@case("flags.num-load-threads-0", profile=PATIENT)
def without_load_threads_a_retry_keeps_other_loads_waiting(server: Server) -> None:
    rpc = "HandleReloadConfigRequest"
    bad, other = fresh(server, "bad", "mistagged"), fresh(server, "other", "k1")
    server.call(rpc, single(server, entry("other", other)))
    request = single(server, entry("bad", bad), entry("other", other))
    same(server.refusal(rpc, request, timeout=1)[0], "DEADLINE_EXCEEDED")
    shutil.copytree(server.folder / "spare" / "k2", other / "2")
    # Time in which it is seen, and would be loaded.
    time.sleep(3)
    states = server.states("other")
    same(states.pop(1), AVAILABLE)
    assert states in ({}, {2: START_STATE}), states
    server.wait_states("other", {2: AVAILABLE, 1: END})
    half(server)


@case("flags.num-load-threads", profile=PLAIN, last=True)
def with_load_threads_a_load_without_end_stops_no_other(server: Server) -> None:
    rpc = "HandleReloadConfigRequest"
    never, other = fresh(server, "never", "never"), fresh(server, "other", "k1")
    server.call(rpc, single(server, entry("other", other)))
    request = single(server, entry("never", never), entry("other", other))
    same(server.refusal(rpc, request, timeout=1.5)[0], "DEADLINE_EXCEEDED")
    same(server.states("never"), {1: 20})
    shutil.copytree(server.folder / "spare" / "k2", other / "2")
    server.wait_states("other", {2: AVAILABLE, 1: END})
    half(server)


@case("health.never-changes", profile=RELOAD)
def health_is_not_tied_to_models(server: Server) -> None:
    from tests.conformance.cases.grpc_api import health

    text = messages.ReloadConfigRequest()
    text.config.model_config_list.SetInParent()
    server.call("HandleReloadConfigRequest", text)
    try:
        server.wait_states("half_plus_two", {123: END})
        same(health(server, ""), "SERVING")
        same(health(server, "PredictionService"), "SERVING")
    finally:
        server.reload()
    half(server)


# By polling the file.


def write(server: Server, *entries: str) -> None:
    """Replace the file at once, as a ConfigMap is."""
    base = entry("half_plus_two", server.folder / "models" / "half_plus_two")
    write_text(server, f"model_config_list {{\n{base}{''.join(entries)}}}\n")


def write_text(server: Server, text: str) -> None:
    path = server.folder / "models.config"
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)


@case("polling.applies-the-file", profile=POLLED)
def a_changed_file_adds_moves_labels_and_removes(server: Server) -> None:
    one, other = fresh(server, "p", "k1"), fresh(server, "p-to", "k2", "k3")
    write(server, entry("p", one))
    server.wait_states("p", {1: AVAILABLE})
    write(server, entry("p", one, labels={"l": 1}))
    wait_for(lambda: labelled(server, "l") == 1.0, "the label")
    write(server, entry("p", other))
    server.wait_states("p", {2: AVAILABLE, 1: END})
    write(server)
    server.wait_states("p", {2: END, 1: END})
    half(server)


def labelled(server: Server, label: str) -> float | None:
    try:
        return predict_k(server, "p", label=label)
    except AssertionError:
        return None


@case("polling.parse-error-keeps-old", profile=POLLED)
def a_file_that_cannot_be_parsed_is_logged_and_the_old_one_kept(server: Server) -> None:
    path = fresh(server, "kept", "k1")
    write(server, entry("kept", path))
    server.wait_states("kept", {1: AVAILABLE})
    write_text(server, "model_config_list { config { name: ")
    wait_for(lambda: "Failed to read ModelServerConfig file" in server.owned.output(), "the error")
    time.sleep(1.2)
    same(predict_k(server, "kept"), 1.0)
    half(server)
    # Valid text, invalid configuration.
    write(server, entry("kept", path), entry("kept", path))
    logged = (
        "PollFilesystemAndReloadConfig failed to ReloadConfig: Illegal to list model kept multiple "
        "times in config list"
    )
    wait_for(lambda: logged in server.owned.output(), "the error")
    same(predict_k(server, "kept"), 1.0)
    write(server)
    server.wait_states("kept", {1: END})


@case("polling.undoes-rpc", "polling.reapplies", profile=POLLED)
def the_file_undoes_what_came_by_rpc(server: Server) -> None:
    write(server)
    path = fresh(server, "undone", "k1")
    base = entry("half_plus_two", server.folder / "models" / "half_plus_two")
    text = f"model_config_list {{ {base} {entry('undone', path)} }}"
    request = messages.ReloadConfigRequest(config=parsed(messages.ModelServerConfig, text))
    server.call("HandleReloadConfigRequest", request)
    server.wait_states("undone", {1: END})
    half(server)


@case("polling.applies-the-file", profile=POLLED)
def a_deleted_file_changes_nothing(server: Server) -> None:
    path = server.folder / "models.config"
    gone = path.rename(path.with_suffix(".gone"))
    time.sleep(1.5)
    half(server)
    gone.rename(path)


@case("reload.missing-base-path-hangs", profile=POLLED, alone=True)
def a_missing_base_path_in_the_file_hangs_later_polls(server: Server) -> None:
    path, other = server.folder / "fresh" / "nowhere", fresh(server, "after", "k1")
    shutil.rmtree(path, ignore_errors=True)
    write(server, entry("nowhere", path))
    time.sleep(2)
    write(server, entry("after", other))
    time.sleep(2)
    same(server.states("after"), {})
    half(server)
    fresh(server, "nowhere", "k1")
    server.wait_states("after", {1: AVAILABLE})


@case("config.platform-missing-poisons", profile=POLLED, last=True)
def after_a_model_without_platform_no_reload_is_taken_any_more(server: Server) -> None:
    path = fresh(server, "poison", "k1")
    error = (
        "PollFilesystemAndReloadConfig failed to ReloadConfig: Illegal setting neither "
        "ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, model "
        "name is poison"
    )
    write(server, entry("poison", path).replace(' model_platform: "tensorflow"', ""))
    wait_for(lambda: error in server.owned.output(), "the error")
    write(server, entry("antidote", path))
    before = server.owned.output().count(error)
    wait_for(lambda: server.owned.output().count(error) >= before + 2, "the error again and again")
    same(server.states("antidote"), {})
    half(server)


@case("config.poll-0-reads-once", profile=RELOAD)
def without_polling_the_file_is_read_once(server: Server) -> None:
    server.owned.output()
    path = server.folder / "models.config"
    text = path.read_text()
    try:
        path.write_text("nonsense {")
        time.sleep(1.2)
        half(server)
        assert "nonsense" not in server.owned.output()
    finally:
        path.write_text(text)


# At start.

START_FLAGS = ("--port=0", "--grpc_socket_path=unused.sock")


def ends(server: Server, *flags: str) -> str:
    """What a server says that ends with exit code 255."""
    folder = server.folder / "start"
    folder.mkdir(exist_ok=True)
    code, output = run_to_end(folder, *flags)
    same(code, 255, f"exit code, with output {output[-500:]!r}")
    return output


def ends_with_config(server: Server, text: str, *flags: str) -> str:
    path = server.folder / "start" / f"config-{abs(hash(text))}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return ends(server, *START_FLAGS, f"--model_config_file={path}", *flags)


def listed(*entries: str) -> str:
    return f"model_config_list {{ {''.join(entries)} }}"


for _name, _row, _text, _error in [
    ("a file that cannot be parsed", "config.parse-error-ends", "nonsense {",
     "Failed to start server. Error: INVALID_ARGUMENT: Invalid protobuf file: '"),
    ("a name twice", "reload.duplicate-name", listed(entry("m", "/m"), entry("m", "/m")),
     "Failed to start server. Error: INVALID_ARGUMENT: Illegal to list model m multiple times in "
     "config list\n"),
    ("a relative path", "flags.base-path-absolute", listed(entry("m", "m")),
     "Failed to start server. Error: INVALID_ARGUMENT: Expected model m to have an absolute path "
     "or URI; got base_path()=m\n"),
    ("no platform", "config.platform-required",
     listed(entry("m", "/m").replace(' model_platform: "tensorflow"', "")),
     "Failed to start server. Error: INVALID_ARGUMENT: Illegal setting neither "
     "ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, model name "
     "is m\n"),
    ("a platform and a type", "config.platform-required",
     listed(entry("m", "/m").replace("base_path", "model_type: TENSORFLOW base_path")),
     "Failed to start server. Error: INVALID_ARGUMENT: Illegal setting both "
     "ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform, model name "
     "is m\n"),
    ("an unknown platform", "config.platform-unknown",
     listed(entry("m", "/m").replace('"tensorflow"', '"pytorch"')),
     "Failed to start server. Error: INVALID_ARGUMENT: Model m requests unsupported platform "
     "pytorch\n"),
]:  # fmt: skip

    def _run(server, text=_text, error=_error):
        same(ends_with_config(server, text), starts(error))

    _run.__name__ = f"at_start_{_name.replace(' ', '_')}_ends_the_process"
    case(_row, profile=START)(_run)


@case("labels.at-start", profile=START)
def labels_at_start_end_the_process_without_the_flag(server: Server) -> None:
    path = server.folder / "models" / "half_plus_three"
    output = ends_with_config(server, listed(entry("h", path, labels={"l": 1})))
    expected = (
        "Failed to start server. Error: FAILED_PRECONDITION: Request to assign label to version 1 "
        "of model h, which is not currently available for inference\n"
    )
    assert expected in output, output[-1000:]


@case("start.failure-ends-255", "start.failure-text", "start.no-fallback", profile=START)
def at_start_a_broken_newest_version_ends_the_process(server: Server) -> None:
    path = fresh(server, "newest", "k1", "mistagged")
    output = ends(server, *START_FLAGS, "--model_name=m", f"--model_base_path={path}",
                  "--max_num_load_retries=0")  # fmt: skip
    expected = (
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: "
        "{{{name: m version: 2} due to error: NOT_FOUND: Could not find meta graph def matching "
        "supplied tags: { serve }"
    )
    assert expected in output, output[-1000:]
    assert output.rstrip().endswith("}, }"), output[-300:]


@case(
    "start.no-port-before-loaded", "start.missing-base-path-waits", "start.log-lines", profile=START
)  # fmt: skip
def at_start_a_missing_base_path_is_waited_for_with_closed_ports(server: Server) -> None:
    import socket

    def is_open(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    path = server.folder / "fresh" / "awaited"
    shutil.rmtree(path, ignore_errors=True)
    with Process(
        server.folder / "awaited", "--model_name=m", f"--model_base_path={path}", wait=False
    ) as process:
        wait_for(lambda: process.output().count("Could not find base path") >= 2, "looks", 60)
        assert process.child.poll() is None
        assert not is_open(process.grpc_port)
        assert not is_open(process.rest_port)
        path.mkdir(parents=True)
        wait_for(lambda: "Did you forget to name your leaf directory" in process.output(), "a look")
        assert not is_open(process.grpc_port)
        shutil.copytree(server.folder / "spare" / "k1", path / "1")
        wait_for(process.is_up, "the server to start")
        same(predict_k(process, "m"), 1.0)
        # The lines that people and scripts look for.
        text = process.output()
        assert "Successfully loaded servable version {name: m version: 1}" in text
        assert f"Running gRPC ModelServer at 0.0.0.0:{process.grpc_port} ..." in text or (
            f"Running gRPC ModelServer at 127.0.0.1:{process.grpc_port} ..." in text
        )
        assert "Exporting HTTP/REST API at:" in text
