"""Section 6: which directories are versions, and what comes and goes with them."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import grpc

from serving.protocol.services import PredictionServiceStub
from tests.conformance.harness import (
    AVAILABLE,
    END,
    Server,
    case,
    has,
    like,
    predict_request,
    profile,
    same,
    starts,
)
from tests.support.waiting import wait_for

VERSIONS = profile(
    "versions",
    "--max_num_load_retries=0",
    "--allow_version_labels_for_unavailable_models",
    "--monitoring_config_file={folder}/monitoring.config",
    parts=("scratch",),
    remote="models",
    threads=6,
)


def base(server: Server, model: str) -> Path:
    return server.folder / "scratch" / model


def put(server: Server, model: str, name: str, source: str) -> Path:
    """Copy beside and rename into place, as everybody should."""
    folder = base(server, model)
    beside = folder / f".tmp-{name}"
    shutil.copytree(server.folder / "spare" / source, beside)
    return beside.rename(folder / name)


def k(server: Server, model: str, **choice) -> float:
    """The constant of the directory that answered."""
    return server.outputs(model, {"x": [0.0]}, **choice)["k"][0]


def fails(server: Server, model: str, name: str, source: str) -> tuple[int, str]:
    """(code, message) that a version with this content ends with; version 1 goes on."""
    put(server, model, name, source)
    return failed(server, model, int(name))


def failed(server: Server, model: str, version: int) -> tuple[int, str]:
    wait_for(lambda: server.states(model).get(version) == END, f"{model} {version} to fail", 15)
    same(k(server, model), 1.0, "the old version's answer")
    return server.error_of(model, version)


# Names.


@case("versions.simpleatoi-names", profile=VERSIONS)
def a_child_counts_if_its_whole_name_is_a_number(server: Server) -> None:
    same(server.states("names"), {3: AVAILABLE, 2: AVAILABLE, 1: AVAILABLE})
    same([k(server, "names", version=v) for v in (1, 2, 3)], [1.0, 2.0, 3.0])


@case("versions.duplicates", profile=VERSIONS)
def of_two_names_for_one_number_the_last_in_order_wins(server: Server) -> None:
    same(server.states("duplicates"), {1: AVAILABLE})
    same(k(server, "duplicates"), 1.0)


@case("versions.not-checked", profile=VERSIONS)
def a_file_with_a_number_for_a_name_is_a_version_that_fails(server: Server) -> None:
    (base(server, "a_file") / "7").write_text("not a directory")
    code, message = failed(server, "a_file", 7)
    same(code, 5)
    same(message, starts("Could not find SavedModel .pb or .pbtxt at supplied export directory"))


# Policies.


@case("versions.policy-latest", "versions.default-policy", profile=VERSIONS)
def latest_serves_the_highest_and_unloads_the_one_before(server: Server) -> None:
    same(k(server, "switched"), 1.0)
    put(server, "switched", "2", "k2")
    server.wait_states("switched", {2: AVAILABLE, 1: END})
    same(k(server, "switched"), 2.0)
    put(server, "switched", "00010", "k3")
    server.wait_states("switched", {10: AVAILABLE, 2: END, 1: END})
    same(k(server, "switched"), 3.0)


@case("versions.end-stays-listed", profile=VERSIONS)
def an_unloaded_version_stays_listed_as_end_without_error(server: Server) -> None:
    put(server, "rolled_back", "2", "k2")
    server.wait_states("rolled_back", {2: AVAILABLE, 1: END})
    same(server.error_of("rolled_back", 1), (0, ""))
    # Rolling back is taking the newest away.
    shutil.move(base(server, "rolled_back") / "2", base(server, "rolled_back") / ".gone")
    server.wait_states("rolled_back", {2: END, 1: AVAILABLE})
    same(k(server, "rolled_back"), 1.0)


@case("versions.policy-latest-n", profile=VERSIONS)
def latest_two_serves_two(server: Server) -> None:
    same(server.states("two"), {3: AVAILABLE, 2: AVAILABLE})
    put(server, "two", "4", "k1")
    server.wait_states("two", {4: AVAILABLE, 3: AVAILABLE, 2: END})


@case("versions.policy-all", profile=VERSIONS)
def all_serves_all(server: Server) -> None:
    same(server.states("all"), {2: AVAILABLE, 1: AVAILABLE})
    put(server, "all", "5", "k3")
    server.wait_states("all", {5: AVAILABLE, 2: AVAILABLE, 1: AVAILABLE})


@case("versions.policy-specific", profile=VERSIONS)
def specific_serves_those_and_no_other(server: Server) -> None:
    same(server.states("specific"), {3: AVAILABLE, 1: AVAILABLE})
    server_error = server.refusal("Predict", predict_request("specific", {"x": [0.0]}, version=2))
    same(server_error, ("NOT_FOUND", "Servable not found for request: Specific(specific, 2)"))
    put(server, "specific", "4", "k1")
    time.sleep(1.5)
    same(server.states("specific"), {3: AVAILABLE, 1: AVAILABLE})


# What goes away.


@case("versions.empty-unloads-all", profile=VERSIONS)
def an_empty_base_path_unloads_all(server: Server) -> None:
    path = base(server, "emptied") / "1"
    path.rename(base(server, "emptied") / ".gone")
    server.wait_states("emptied", {1: END})
    expected = ("NOT_FOUND", "Servable not found for request: Latest(emptied)")
    same(server.refusal("Predict", predict_request("emptied", {"x": [0.0]})), expected)
    reply = server.get("/v1/models/emptied")
    same((reply.status, reply.json["model_version_status"][0]["state"]), (200, "END"))
    same(server.get("/v1/models/emptied/metadata").status, 404)


@case("rest.status-any-state", profile=VERSIONS)
def status_over_rest_is_200_in_any_state(server: Server) -> None:
    fails(server, "ended", "3", "mistagged")
    reply = server.get("/v1/models/ended/versions/3")
    same(reply.status, 200)
    (version,) = reply.json["model_version_status"]
    same((version["state"], version["status"]["error_code"]), ("END", "NOT_FOUND"))
    same(version["status"]["error_message"], has("Could not find meta graph def matching"))


@case("versions.missing-base-path", "versions.missing-aborts-poll", profile=VERSIONS, alone=True)
def a_missing_base_path_unloads_nothing_and_stops_every_poll(server: Server) -> None:
    folder = base(server, "missing")
    gone = folder.with_name("missing-gone")
    folder.rename(gone)
    try:
        put(server, "all", "77", "k3")
        time.sleep(2.5)
        same(server.states("missing"), {1: AVAILABLE})
        same(k(server, "missing"), 1.0)
        assert 77 not in server.states("all"), "another model's versions were still looked for"
    finally:
        gone.rename(folder)
    wait_for(lambda: server.states("all").get(77) == AVAILABLE, "the polls to go on", 15)


@case("versions.missing-log", profile=VERSIONS, alone=True)
def a_missing_base_path_is_an_error_in_the_log(server: Server) -> None:
    log = server.owned.output
    folder = base(server, "missing")
    gone = folder.with_name("missing-gone")
    folder.rename(gone)
    try:
        pattern = (
            "FileSystemStoragePathSource encountered a filesystem access error: Could not find "
            f"base path {folder} for servable missing with error "
        )
        wait_for(lambda: pattern in log(), "the error in the log", 10)
    finally:
        gone.rename(folder)


# Loads that fail.


@case(
    "versions.corrupt-keeps-old",
    "versions.no-retry-until-gone",
    "versions.load-error-not-found",
    profile=VERSIONS,
)
def a_version_without_a_model_ends_and_is_not_tried_again(server: Server) -> None:
    path = base(server, "corrupt") / "2"
    path.mkdir()
    code, message = failed(server, "corrupt", 2)
    same(code, 5)
    expected = f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
    same(message, starts(expected))
    # What comes later into the same directory is not looked at.
    for child in (server.folder / "spare" / "k2").iterdir():
        (shutil.copytree if child.is_dir() else shutil.copyfile)(child, path / child.name)
    time.sleep(2.2)
    same(server.states("corrupt"), {2: END, 1: AVAILABLE})
    # Gone for a while, and back: another try.
    path.rename(path.with_name(".beside"))
    time.sleep(2.2)
    path.with_name(".beside").rename(path)
    server.wait_states("corrupt", {2: AVAILABLE, 1: END})
    same(server.error_of("corrupt", 2), (0, ""))


@case("versions.load-error-tags", profile=VERSIONS)
def a_model_without_the_tag_serve_is_not_found(server: Server) -> None:
    code, message = fails(server, "mistagged", "2", "mistagged")
    same(code, 5)
    same(message, starts("Could not find meta graph def matching supplied tags: { serve }"))


@case("versions.load-error-truncated", profile=VERSIONS)
def truncated_files_end_with_an_error(server: Server) -> None:
    def truncated(name: str, pattern: str, size: int) -> tuple[int, str]:
        folder = base(server, "truncated")
        beside = folder / f".tmp-{name}"
        shutil.copytree(server.folder / "spare" / "half_plus_two", beside)
        for file in beside.glob(pattern):
            file.write_bytes(file.read_bytes()[:size])
        beside.rename(folder / name)
        return failed(server, "truncated", int(name))

    assert truncated("2", "saved_model.pb", 500)[0]
    same(truncated("3", "variables/variables.data*", 4)[0], 11)
    code, message = truncated("4", "variables/variables.index", 10)
    same(code, 15)
    same(message, like(r"(Unable to open table file|file is too short to be an sstable).*"))


@case("metrics.load-attempts", profile=VERSIONS)
def a_failed_load_is_counted(server: Server) -> None:
    server.page()
    path = base(server, "a_file") / "9"
    path.mkdir()
    failed(server, "a_file", 9)
    name = ":tensorflow:cc:saved_model:load_attempt_count"
    wanted = f'{name}{{model_path="{path}",status="fail"}}'
    samples = server.samples()
    same(samples.get(wanted), 1.0, str([s for s in samples if s.startswith(name)]))


# Switching.


@case("versions.availability-preserving", profile=VERSIONS)
def no_request_fails_while_a_version_is_switched(server: Server) -> None:
    stop = threading.Event()
    failures: list[str] = []
    answered: list[int] = []

    def load() -> None:
        stub = PredictionServiceStub(server.channel)
        request = predict_request("rolling", {"x": [0.0]})
        while not stop.is_set():
            try:
                response = stub.Predict(request, timeout=10)
                answered.append(response.model_spec.version.value)
            except grpc.RpcError as error:
                failures.append(f"{error.code()} {error.details()}")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        wait_for(lambda: len(answered) > 20, "answers", 10)
        put(server, "rolling", "2", "k2")
        wait_for(lambda: answered[-1] == 2, "answers of version 2", 15)
        server.wait_states("rolling", {2: AVAILABLE, 1: END})
    finally:
        stop.set()
        thread.join()
    same(failures, [])
    same(sorted(answered), answered, "versions never go back")


@case("versions.in-flight", "grpc.status.states", profile=VERSIONS)
def a_request_in_flight_keeps_its_version(server: Server) -> None:
    done: list[object] = []

    def ask() -> None:
        request = predict_request("in_flight", {"iterations": [2500]})
        try:
            done.append(server.call("Predict", request, 60).model_spec.version.value)
        except AssertionError as error:
            done.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    put(server, "in_flight", "2", "k2")
    wait_for(lambda: server.states("in_flight").get(2) == AVAILABLE, "version 2", 20)
    state = server.states("in_flight")[1]
    # Where the machine was so fast that the run is over, there is nothing to see.
    assert state == 40 or done, f"version 1 is {state} with a request in flight"
    thread.join()
    same(done, [1])
    server.wait_states("in_flight", {2: AVAILABLE, 1: END}, 20)


# Warm-up.


@case("warmup.before-available", "warmup.metrics", profile=VERSIONS)
def a_version_is_warmed_up_before_it_is_available(server: Server) -> None:
    path = put(server, "warm", "2", "warm_good")
    wait_for(lambda: server.states("warm").get(2) == AVAILABLE, "version 2 of warm", 15)
    samples = server.samples()
    name = ":tensorflow:serving:model_warmup_records_read"
    labels = f'{{model_path="{path}",status="OK"}}'
    same(samples.get(name + labels), 3.0, str([s for s in samples if s.startswith(name)]))
    same(samples.get(":tensorflow:serving:model_warmup_latency_count" + labels), 1.0)


@case("warmup.missing-is-fine", profile=VERSIONS)
def a_version_without_a_file_is_fine(server: Server) -> None:
    same(k(server, "specific", version=1), 1.0)


for _number, (_source, _row, _code, _message) in enumerate([
    ("warm_failing", "warmup.failing-record", 3,
     starts("input size does not match signature: 2!=1")),
    ("warm_many", "warmup.maximum", 3,
     has("Number of warmup records exceeds the maximum (1000) at ")),
    ("warm_session_run", "warmup.unsupported", 12, starts("Unsupported log_type for warmup: ")),
    ("warm_nonsense", "warmup.unparseable", 3, starts("Failed to parse warmup record: ")),
    ("warm_no_records", "warmup.no-records", 15,
     has("Please verify your warmup data is in TFRecord format.")),
], 1):  # fmt: skip

    def _run(server, source=_source, model=f"warm_{_number}", code=_code, message=_message):
        got, text = fails(server, model, "2", source)
        same(got, code, f"code, with message {text!r}")
        same(text, message)

    _run.__name__ = f"{_source}_fails_the_load"
    case(_row, profile=VERSIONS)(_run)
