"""The parts of the end-to-end suite that need no cluster."""

import json
import types

import pytest

import tests.cluster.cases  # noqa: F401 - registers them
from serving.errors import ChopstickError
from serving.load import LoadConfig, LoadResult
from serving.load.recorder import Recorder
from tests.cluster import cluster, faults, report, suite
from tests.cluster.__main__ import PROGRAM
from tests.cluster.traffic import Report, parse
from tests.cluster.usage import sample


def result(*failures: str, ok: int = 3) -> LoadResult:
    recorder = Recorder(LoadConfig("svc:8500", rate=50, duration=1))
    for number in range(ok):
        recorder.sent(number * 0.02, number * 0.02)
        recorder.answered(number * 0.02, number * 0.02 + 0.01, "", 1)
    for code in failures:
        recorder.sent(0.5, 0.5)
        recorder.failed(0.5, 0.75, code, "gone", "")
    found = recorder.result
    found.latency, found.started_at, found.sending = recorder.summary(), 1000.0, 1.0
    return found


def log_of(found: LoadResult) -> str:
    return (
        "  1.0 of 1800 s: 50 sent, 50 ok, 0 failed, 0 under way, p99 3.0 ms\n"
        + json.dumps(found.to_json(), indent=2)
        + "\n"
    )


def test_a_loads_log_is_read():
    found = parse(log_of(result("UNAVAILABLE")), {"kill": 1002.5})
    assert (found.sent, found.ok, found.failed, found.lost) == (4, 3, 1, 1)
    assert found.codes == {"UNAVAILABLE": 1}
    assert found.versions == {1: 3}
    assert found.marks == {"kill": 2.5}
    assert found.p99 == pytest.approx(0.01, rel=0.01)
    assert found.failures[0].at == 0.75
    assert found.goodput == 3.0


@pytest.mark.parametrize("log", ["", "error: unreachable\n", '{\n  "sent": 3,\n'])
def test_a_log_without_report_is_shown(log):
    with pytest.raises(AssertionError, match="left no report"):
        parse(log, {})


def test_one_failure_fails_with_its_time_and_the_marks():
    parse(log_of(result()), {}).assert_none_failed()
    with pytest.raises(AssertionError, match=r"kill at 2\.5 s.*0\.75 s UNAVAILABLE: gone"):
        parse(log_of(result("UNAVAILABLE")), {"kill": 1002.5}).assert_none_failed()
    with pytest.raises(AssertionError, match="only 3 of 1500 requests"):
        parse(log_of(result()), {}).assert_at_least(1500)


def test_a_request_that_was_never_sent_is_a_failure():
    found = result()
    found.overrun = 2
    with pytest.raises(AssertionError, match="2 not sent"):
        parse(log_of(found), {}).assert_none_failed()


SUMMARY = {
    "pods": [
        {"podRef": {"name": "a-0"}},
        {
            "podRef": {"name": "a-1"},
            "containers": [
                {"name": "server", "memory": {}, "cpu": {}},
                {
                    "name": "health",
                    "memory": {"workingSetBytes": 31457280},
                    "cpu": {"time": "2026-11-22T18:34:12Z", "usageCoreNanoSeconds": 454993980},
                },
            ],
        },
    ]
}


def test_the_sidecars_sample_is_found_in_the_kubelets_summary():
    found = sample(SUMMARY, "a-1")
    assert (found.memory, found.cpu, found.at) == (30.0, 0.45499398, 1795372452.0)
    with pytest.raises(AssertionError, match="no container health of a-0"):
        sample(SUMMARY, "a-0")


def test_cases_are_selected_by_parts_of_their_names():
    assert [case.name for case in suite.select(["server-"])] == ["server-killed", "server-stopped"]
    assert len(suite.select([])) == len(suite.CASES)
    with pytest.raises(ChopstickError, match="no case has 'nosuch'"):
        PROGRAM.main(["nosuch"])


def test_without_a_cluster_ci_fails_and_a_desk_skips(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr(cluster.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ChopstickError, match="no cluster answers"):
        PROGRAM.main(["deploy"])
    monkeypatch.delenv("CI")
    assert PROGRAM.main(["deploy"]) == 0
    assert "skipped: 1 case" in capsys.readouterr().err


def test_without_a_fault_command_a_case_skips(monkeypatch):
    monkeypatch.delenv("FAULT", raising=False)
    with pytest.raises(suite.Skip, match="no FAULT"):
        faults.command()
    monkeypatch.setenv("FAULT", "sudo fault")
    assert faults.command() == ["sudo", "fault"]


class NoCluster(suite.Context):
    """A context whose cluster is not there."""

    def __init__(self):
        self.cluster = None
        self.callers = types.SimpleNamespace(delete_started=lambda: None)
        self.lasting, self.own = set(), set()
        self.said = []
        self.say = self.said.append


def test_a_cases_failure_is_its_outcome_and_its_evidence_is_kept(monkeypatch, tmp_path):
    kept = []

    def collect(_cluster, _namespaces, folder):
        folder.mkdir()
        kept.append(folder)

    monkeypatch.setattr(suite.evidence, "collect", collect)

    def breaks(context):
        context.note("seen")
        raise AssertionError("3 of 1500 failed")

    def skips(context):
        raise suite.Skip("a drain needs a second node")

    failed = suite.run_case(suite.Case("a", "A", breaks), NoCluster(), tmp_path)
    assert (failed.outcome, failed.notes) == (suite.FAIL, ["seen"])
    assert "3 of 1500 failed" in failed.detail
    assert kept == [tmp_path / "a"]
    assert "Traceback" in (tmp_path / "a" / "failure.txt").read_text()
    skipped = suite.run_case(suite.Case("b", "B", skips), NoCluster(), tmp_path)
    assert (skipped.outcome, skipped.detail) == (suite.SKIP, "a drain needs a second node")
    totals = report.totals([failed, skipped])
    assert totals == "0 passed, 1 failed (a), 1 skipped (b (a drain needs a second node))"


def test_the_page_says_what_stood_in_and_what_failed(monkeypatch):
    monkeypatch.setenv("STAND_IN", "1")
    outcome = suite.Outcome("rollout", "a rolling update")
    load = parse(log_of(result("UNAVAILABLE")), {})
    assert isinstance(load, Report)
    outcome.changes.append(suite.Change("rolling update", load, 61.2))
    outcome.figures.append(suite.Figure("to ready", 24.18, "s", "< 60"))
    outcome.grids.append(suite.Grid("Codes", ["path", "ingress"], [["Predict", "OK"]]))
    on = report.Results("e2e").machine(suite.FULL, "v1.35.4", 3, {"Linkerd": "edge-26.6.3"})
    text = report.page(json.loads(json.dumps(report.document(suite.FULL, on, [outcome], 100.0))))
    assert "`make e2e FULL=1`" in text
    assert "Kubernetes v1.35.4, Linkerd edge-26.6.3, 3 nodes" in text
    assert "the stand-in with SIGTERM ignored, not TensorFlow Serving" in text
    assert "| rolling update | 4 | 50 | 1 | 10.0 | 10.0 | 10 | 61 |" in text
    assert "| rollout | to ready | 24.2 s | < 60 |" in text
    assert "### Codes\n\n| path | ingress |\n| --- | --- |\n| Predict | OK |" in text
