"""A pytest plugin that lets no skip pass unseen.

Every run says how many tests were skipped and why. With CI=true a skip whose reason is not in
tests/permitted_skips.txt is a failure.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def require_tool(name: str) -> str:
    """The path of a program from `.tools/bin` or PATH; skips the test where there is none."""
    places = os.pathsep.join([str(ROOT / ".tools" / "bin"), os.environ.get("PATH", os.defpath)])
    path = shutil.which(name, path=places)
    if path is None:
        pytest.skip(f"missing tool: {name} (make tools)")
    return path


def require_crds(name: str) -> Path:
    """The folder of custom resource definitions in `.tools/crds`; skips where there is none."""
    folder = ROOT / ".tools" / "crds" / name
    if not folder.is_dir():
        pytest.skip(f"missing tool: {name} (make tools)")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--permitted-skips",
        type=Path,
        metavar="FILE",
        default=ROOT / "tests" / "permitted_skips.txt",
        help="reasons that may skip a test with CI=true, one regular expression a line",
    )


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a report was skipped, as the test said it."""
    # pytest hands over (file, line, "Skipped: reason").
    detail = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return detail.removeprefix("Skipped: ")


def judge(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    """Turn a skip that CI does not permit into a failure."""
    # An expected failure is reported as skipped, too; that one is the test's own statement.
    if not report.skipped or hasattr(report, "wasxfail") or os.environ.get("CI") != "true":
        return
    permitted: Path = config.getoption("--permitted-skips")
    lines = permitted.read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line.strip() and not line.startswith("#")]
    reason = reason_of(report)
    if not any(re.fullmatch(pattern, reason) for pattern in patterns):
        report.outcome = "failed"
        report.longrepr = f"skipped with CI=true, but {permitted.name} does not permit: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    judge(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    judge(report, collector.config)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(reason_of(report) for report in terminalreporter.stats.get("skipped", []))
    total = reasons.total()
    terminalreporter.section(f"{total} test{'' if total == 1 else 's'} skipped", sep="-")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:4d}  {reason}")
