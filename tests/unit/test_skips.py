"""The plugin that counts skips, on real pytest runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.skips import ROOT

SUITE = """
import pytest
from tests.support.skips import require_tool

def test_passes():
    pass

def test_without_tool():
    require_tool("no-such-tool")

@pytest.mark.skip(reason="needs 3 kidneys")
def test_marked():
    pass

@pytest.mark.xfail(reason="known")
def test_expected_failure():
    assert False
"""
PERMITTED = "# why\nmissing tool: .*\n"


def run(folder: Path, *arguments: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "permitted.txt").write_text(PERMITTED)
    command = [sys.executable, "-m", "pytest", "-p", "xdist.plugin", "-p", "tests.support.skips"]
    return subprocess.run(
        [*command, "--permitted-skips", str(folder / "permitted.txt"), *arguments, str(folder)],
        env={
            **os.environ,
            "CI": ci,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "test_suite.py").write_text(SUITE)
    return tmp_path


def test_outside_ci_every_skip_passes_and_is_counted_with_its_reason(suite: Path) -> None:
    done = run(suite)
    assert done.returncode == 0, done.stdout
    assert "2 tests skipped" in done.stdout
    assert "   1  missing tool: no-such-tool (make tools)" in done.stdout
    assert "   1  needs 3 kidneys" in done.stdout


def test_with_ci_only_a_permitted_reason_may_skip_also_under_xdist(suite: Path) -> None:
    done = run(suite, "-n", "1", ci="true")
    assert done.returncode == 1
    assert "1 passed, 1 skipped, 1 xfailed, 1 error" in done.stdout
    assert "permitted.txt does not permit: needs 3 kidneys" in done.stdout
    assert "1 test skipped" in done.stdout


def test_with_ci_a_file_that_skips_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_module.py").write_text(
        "import pytest\npytest.importorskip('no_such_module_at_all')\n"
    )
    done = run(tmp_path, ci="true")
    assert done.returncode not in (0, 5)
    assert "does not permit: could not import 'no_such_module_at_all'" in done.stdout
