"""The state machine by property: what holds for every history, and each reason once by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.health.state import (
    DEAD_SECONDS,
    SILENT_POLLS,
    Answered,
    Drained,
    Erred,
    NoSuchModel,
    Predicted,
    Published,
    Reason,
    Refused,
    State,
    Unanswered,
    Verdict,
    Version,
    VersionState,
    initial,
    step,
)

AVAILABLE, LOADING, END = VersionState.AVAILABLE, VersionState.LOADING, VersionState.END

NUMBERS = st.integers(1, 3)
VERSIONS = st.builds(
    Version, NUMBERS, st.sampled_from(VersionState), st.sampled_from([0, 5]), st.just("why")
)
ONE = Answered((Version(1, AVAILABLE),))
EVENTS = st.one_of(
    # Good news more often than chance alone would bring it.
    st.sampled_from([ONE, Predicted(1, Verdict.GOOD)]),
    st.builds(Answered, st.lists(VERSIONS, max_size=3, unique_by=lambda v: v.number).map(tuple)),
    st.builds(NoSuchModel, st.just("none")),
    st.builds(Erred, st.just("busy")),
    st.builds(Refused, st.just("refused")),
    st.builds(Unanswered, st.just("late")),
    st.builds(Predicted, NUMBERS, st.sampled_from(Verdict), st.just("said")),
    st.builds(
        Published,
        st.lists(st.tuples(NUMBERS, st.just("bad")), max_size=2).map(tuple),
        st.lists(NUMBERS, max_size=2).map(tuple),
    ),
    st.just(Drained()),
)
# Long enough to be ready, lost, and ready again.
HISTORIES = st.lists(EVENTS, max_size=30)
GOOD = [ONE, Predicted(1, Verdict.GOOD)]
REQUIRED = st.sampled_from([None, 1])


def run(events: list, required: int | None = None, state: State | None = None) -> list[State]:
    """The state after each event, a second apart."""
    states = [state or initial("chopstick", required, 0.0)]
    for event in events:
        states.append(step(states[-1], event, states[-1].since + 1.0))
    return states


def after(*events, required: int | None = None) -> State:
    return run(list(events), required)[-1]


def test_every_reason_has_a_status_of_its_own() -> None:
    statuses = {reason: reason.http_status for reason in Reason}
    assert len(set(statuses.values())) == len(Reason)
    assert [r for r, s in statuses.items() if s == 200] == [Reason.READY]


@given(HISTORIES, HISTORIES, REQUIRED)
def test_ready_means_available_and_proven(before: list, later: list, required: int | None) -> None:
    status = None
    proofs: set[int] = set()
    states = run([*before, *GOOD, *later], required)
    for event, old, new in zip([*before, *GOOD, *later], states, states[1:], strict=False):
        if isinstance(event, Answered):
            status = {v.number for v in event.versions if v.state is AVAILABLE}
            proofs &= status
        elif isinstance(event, NoSuchModel | Refused):
            status, proofs = None, set()
        elif isinstance(event, Predicted) and event.verdict is Verdict.GOOD:
            proofs.add(event.version)
        if new.ready:
            assert status
            assert new.version == (required or max(status))
            # A newer version may take over from one that was ready, and is then tried.
            assert new.version in proofs or (old.ready and required is None)
            assert new.started


@given(
    HISTORIES,
    st.lists(
        st.sampled_from(
            [
                Unanswered("late"),
                Erred("RESOURCE_EXHAUSTED"),
                Predicted(1, Verdict.LATER),
                Answered((Version(1, AVAILABLE), Version(2, LOADING), Version(3, END, 5, "why"))),
            ]
        ),
        max_size=20,
    ),
    REQUIRED,
)
def test_overload_never_ends_readiness(before: list, busy: list, required: int | None) -> None:
    ready = run([*(e for e in before if not isinstance(e, Drained)), *GOOD], required)[-1]
    assert ready.ready
    silent, held = 0, []
    for event in busy:
        if not isinstance(event, Predicted):
            silent = silent + 1 if isinstance(event, Unanswered) else 0
        if silent == SILENT_POLLS:
            break
        held.append(event)
    assert all(state.ready for state in run(held, state=ready))


@given(HISTORIES, HISTORIES, REQUIRED)
def test_drained_is_for_good(before: list, later: list, required: int | None) -> None:
    states = run([*before, Drained(), *later], required)
    assert {s.reason for s in states[len(before) + 1 :]} == {Reason.DRAINING}
    assert all(s.untried is None for s in states[len(before) + 1 :])


@given(HISTORIES, REQUIRED)
def test_since_moves_with_the_reason_and_liveness_needs_long_silence(
    events: list, required: int | None
) -> None:
    states = run(events, required)
    for event, old, new in zip(events, states, states[1:], strict=False):
        same = (old.reason, old.version) == (new.reason, new.version)
        assert new.since == old.since if same else new.since > old.since
        assert new.alive(new.last_answer + DEAD_SECONDS)
        if isinstance(event, Answered | NoSuchModel | Erred):
            assert new.alive(new.last_answer + 1e6)


@given(HISTORIES, REQUIRED)
def test_good_news_heals_whatever_was_before(events: list, required: int | None) -> None:
    events = [event for event in events if not isinstance(event, Drained)]
    assert run([*events, *GOOD], required)[-1].ready


@pytest.mark.parametrize(
    ("events", "required", "reason", "said"),
    [
        ([], None, Reason.LOADING, "not been asked"),
        ([Refused("x")], None, Reason.LOADING, "not open yet"),
        ([ONE], None, Reason.LOADING, "waiting for a Predict"),
        ([ONE, Predicted(1, Verdict.LATER, "full")], None, Reason.LOADING, "full"),
        ([Answered((Version(1, LOADING),))], 1, Reason.LOADING, "version 1 is LOADING"),
        ([NoSuchModel("none")], None, Reason.NO_SUCH_MODEL, "none"),
        ([Answered(())], 2, Reason.NO_SUCH_MODEL, "no version 2"),
        ([Answered((Version(1, END),))], None, Reason.NO_SUCH_MODEL, "no version of"),
        ([Answered((Version(1, END, 5, "cut"),))], None, Reason.VERSION_FAILED, "cut"),
        (
            [Answered((Version(2, END, 5, "cut"), Version(1, AVAILABLE)))],
            2,
            Reason.VERSION_FAILED,
            "cut",
        ),
        ([*GOOD, Refused("x")], None, Reason.SERVER_GONE, "x"),
        ([*GOOD, *[Unanswered("x")] * 3], None, Reason.SERVER_SILENT, "x"),
        ([ONE], 2, Reason.WRONG_VERSION, "version 1 is AVAILABLE"),
        ([ONE, Predicted(1, Verdict.BAD, "no")], None, Reason.PREDICT_FAILED, "no"),
        (
            [ONE, Predicted(1, Verdict.BAD, "no"), Predicted(1, Verdict.LATER, "full")],
            None,
            Reason.PREDICT_FAILED,
            "no",
        ),
        ([Published(((2, "bad"),), (1,)), ONE], 2, Reason.UNVERIFIED, "bad"),
        ([Published(((2, "bad"),), ()), Refused("x")], None, Reason.UNVERIFIED, "bad"),
        ([*GOOD, Published(((2, "bad"),), (1,))], None, Reason.READY, ""),
        ([*GOOD, Refused("x"), Erred("busy")], None, Reason.LOADING, "busy"),
        ([*GOOD, Drained()], None, Reason.DRAINING, "end"),
    ],
)
def test_reasons(events: list, required: int | None, reason: Reason, said: str) -> None:
    state = after(*events, required=required)
    assert state.reason is reason
    assert said in state.message


def test_a_new_version_is_tried_without_a_gap_and_judged() -> None:
    two = Answered((Version(2, AVAILABLE), Version(1, VersionState.UNLOADING)))
    taking_over = after(*GOOD, two)
    assert (taking_over.ready, taking_over.version, taking_over.untried) == (True, 2, 2)
    failed = step(taking_over, Predicted(2, Verdict.BAD, "no"), 99.0)
    assert failed.reason is Reason.PREDICT_FAILED


def test_a_version_that_was_unloaded_and_comes_back_has_to_answer_again() -> None:
    back = after(*GOOD, Answered(()), ONE)
    assert (back.reason, back.untried) == (Reason.LOADING, 1)


def test_a_server_that_went_away_has_to_start_again() -> None:
    gone = after(*GOOD, Refused("x"))
    assert not gone.started
    assert gone.alive(gone.last_answer + DEAD_SECONDS)
    assert not gone.alive(gone.last_answer + DEAD_SECONDS + 1)
    assert step(gone, ONE, 99.0).untried == 1


def test_a_server_that_never_opened_its_port_is_left_to_load() -> None:
    assert after(Refused("x")).alive(1e6)
    assert not replace(after(Unanswered("x")), last_answer=0.0).alive(DEAD_SECONDS + 1)
