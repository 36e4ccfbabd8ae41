"""Run the cases of a profile, and put what came of them together by row."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import yaml

import tests.conformance.cases  # noqa: F401 - registers the cases
from tests.conformance.harness import CASES, PROFILES, Case, NotApplicable, Profile, Server

SHEET = Path(__file__).with_name("sheet.yaml")
PASS, FAIL, NOT_APPLICABLE, KNOWN = "pass", "fail", "not applicable", "known difference"


@dataclass(frozen=True)
class Row:
    """One claim of the sheet."""

    id: str
    section: int
    does: str
    source: str
    differs_from_sheet: str = ""
    """What the C++ source says where the sheet says something else."""
    stand_in: str = ""
    """Why the embedded server does not do it; its cases have to fail then."""


def sheet() -> dict[str, Row]:
    """The rows by id."""
    rows = [Row(**row) for row in yaml.safe_load(SHEET.read_text(encoding="utf-8"))]
    result = {row.id: row for row in rows}
    if len(result) != len(rows):
        raise ValueError("an id is there twice")
    return result


@dataclass(frozen=True)
class Result:
    """What became of one case."""

    case: Case
    outcome: str
    detail: str = ""
    seconds: float = 0.0


Report = Callable[[Result], None]


def chosen(profile: str, words: Sequence[str] = ()) -> list[Case]:
    """The cases of a profile; those that must be alone come after the others."""
    cases = [
        case
        for case in CASES.values()
        if case.profile == profile
        and all(word in f"{case.name} {' '.join(case.rows)}" for word in words)
    ]
    return sorted(cases, key=lambda case: (case.last, case.alone))


def run_case(case: Case, server: Server, *, stand_in: bool) -> Result:
    """Run one case; whatever it raises is its result."""
    began = time.monotonic()
    outcome, detail = PASS, ""
    try:
        case.run(server)
    except NotApplicable as reason:
        outcome, detail = NOT_APPLICABLE, str(reason)
    except Exception as error:
        outcome = FAIL
        where = traceback.extract_tb(error.__traceback__)[-1]
        if isinstance(error, grpc.RpcError):
            detail = f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]
        else:
            detail = f"{error}" or type(error).__name__
        if not isinstance(error, AssertionError) or not str(error):
            detail = f"{type(error).__name__}: {detail} ({where.filename}:{where.lineno})"
    known = [row.stand_in for row in map(_rows().get, case.rows) if row and row.stand_in]
    if stand_in and known and outcome in (PASS, FAIL):
        if outcome == FAIL:
            outcome, detail = KNOWN, known[0]
        else:
            outcome, detail = FAIL, f"passes, but sheet.yaml says that it can't: {known[0]}"
    return Result(case, outcome, detail, time.monotonic() - began)


_cache: dict[str, Row] = {}


def _rows() -> dict[str, Row]:
    if not _cache:
        _cache.update(sheet())
    return _cache


def run_cases(
    cases: Sequence[Case], server: Server, threads: int, *, stand_in: bool, report: Report
) -> list[Result]:
    """Run the cases of one profile, several at once where it allows that."""
    lock = threading.Lock()
    results: list[Result] = []

    def one(case: Case) -> None:
        result = run_case(case, server, stand_in=stand_in)
        with lock:
            results.append(result)
            report(result)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, [case for case in cases if not case.alone]))
    for case in cases:
        if case.alone:
            one(case)
    return results


def run_profile(
    profile: Profile,
    folder: Path,
    *,
    words: Sequence[str] = (),
    full: bool = False,
    stand_in: bool = True,
    report: Report = lambda _: None,
) -> list[Result]:
    """Start the profile's server and run its cases; a server that won't start fails them all."""
    cases = chosen(profile.name, words)
    if not cases:
        return []
    try:
        with profile.start(folder, full=full) as server:
            assert server is not None
            try:
                return run_cases(cases, server, profile.threads, stand_in=stand_in, report=report)
            finally:
                server.close()
    except AssertionError as error:
        results = [Result(case, FAIL, f"the server did not start: {error}") for case in cases]
        for result in results:
            report(result)
        return results


def run_remote(
    server: Server,
    *,
    words: Sequence[str] = (),
    stand_in: bool = False,
    report: Report = lambda _: None,
) -> list[Result]:
    """Run on a server that is there what can be run on it, what spoils it last."""
    results: list[Result] = []
    spoiling: list[Case] = []
    for profile in PROFILES.values():
        cases = chosen(profile.name, words)
        reason = ""
        if profile.remote == "never":
            reason = "needs a server of its own (SERVER=…)"
        elif profile.remote == "models":
            try:
                server.folder  # noqa: B018
            except NotApplicable as error:
                reason = str(error)
        if not reason:
            spoiling += [case for case in cases if case.last]
            cases = [case for case in cases if not case.last]
            results += run_cases(cases, server, profile.threads, stand_in=stand_in, report=report)
            continue
        for case in cases:
            results.append(Result(case, NOT_APPLICABLE, reason))
            report(results[-1])
    return results + run_cases(spoiling, server, 1, stand_in=stand_in, report=report)


@dataclass(frozen=True)
class RowResult:
    """What became of a row: the worst of its cases."""

    row: Row
    outcome: str
    cases: int
    detail: str


def by_row(results: Iterable[Result]) -> list[RowResult]:
    """Rows in the sheet's order; those without a case that was run are left out."""
    results = list(results)
    table = []
    for row in sheet().values():
        own = [result for result in results if row.id in result.case.rows]
        if not own:
            continue
        for outcome in (FAIL, KNOWN, PASS, NOT_APPLICABLE):
            found = [result for result in own if result.outcome == outcome]
            if found:
                detail = "" if outcome == PASS else found[0].detail
                table.append(RowResult(row, outcome, len(own), detail))
                break
    return table
