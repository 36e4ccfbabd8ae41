"""The embedded server against the sheet: a test per way of starting it, with all of its cases.

One test, and not one per case, so that each server is started once however many workers there are.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance import runner
from tests.conformance.harness import CASES, PROFILES

# The long ones first, so that two workers end at about the same time.
SLOWEST = ("start", "reload", "versions", "polled", "switched", "batched")


# Servers are started here, several in turn, on a machine that may be busy.
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "profile",
    sorted(PROFILES, key=lambda name: SLOWEST.index(name) if name in SLOWEST else len(SLOWEST)),
)
def test_the_server_does_what_the_sheet_says(profile: str, tmp_path: Path) -> None:
    results = runner.run_profile(PROFILES[profile], tmp_path)
    assert results
    failed = [result for result in results if result.outcome == runner.FAIL]
    assert not failed, "\n".join(f"{r.case.name}\n    {r.detail[:1500]}" for r in failed)


def test_every_row_has_a_case() -> None:
    covered = {row for case in CASES.values() for row in case.rows}
    assert set(runner.sheet()) - covered == set()


def test_every_case_has_a_row_that_there_is() -> None:
    rows = set(runner.sheet())
    unknown = {case.name: set(case.rows) - rows for case in CASES.values()}
    assert {name: ids for name, ids in unknown.items() if ids} == {}
    assert all(case.rows for case in CASES.values())


def test_every_case_has_a_profile_and_every_profile_a_case() -> None:
    assert {case.profile for case in CASES.values()} == set(PROFILES)


def test_ids_are_readable_and_rows_name_their_source() -> None:
    for row in runner.sheet().values():
        assert re.fullmatch(r"[a-z]+(\.[a-z0-9-]+)+", row.id)
        assert row.section in range(2, 8)
        assert row.does
        assert row.source
