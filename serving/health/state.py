"""Ready or not, and why: a pure function of what has been seen, without clock, network or task.

`step(state, event, now)` folds what happened into the state. Every reason has an HTTP status of its
own, since a kubelet's event shows the status of a failed probe and never its body.

Ready means: the version that this pod must serve is AVAILABLE and has once answered a real Predict.
From then on only four things end it: that version is no longer AVAILABLE, the server refuses
connections, it leaves `SILENT_POLLS` polls unanswered, or the pod is drained. Slow answers and
RESOURCE_EXHAUSTED never do: overload would take out all replicas at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

# One poll may be lost to a pause of the server or the machine; three in a row, at the default of a
# second each, are what the readiness contract (docs/adr/0004) calls silence.
SILENT_POLLS = 3
# Seconds without any answer before the server counts as dead. A kubelet that asks every 10 s and
# gives up at the third failure restarts it about a minute after its last answer: overload that
# leaves polls unanswered has passed by then, or the clients have.
DEAD_SECONDS = 30.0


class Reason(Enum):
    """Why a pod is ready or not; the name of each as it stands in metrics, bodies and logs."""

    READY = "ready"
    LOADING = "loading"
    NO_SUCH_MODEL = "no_such_model"
    VERSION_FAILED = "version_failed"
    SERVER_GONE = "server_gone"
    SERVER_SILENT = "server_silent"
    WRONG_VERSION = "wrong_version"
    PREDICT_FAILED = "predict_failed"
    UNVERIFIED = "unverified"
    DRAINING = "draining"

    @property
    def http_status(self) -> int:
        """The status of /readyz, one per reason."""
        return _HTTP[self]


_HTTP = {
    Reason.READY: 200,
    Reason.LOADING: 503,
    Reason.NO_SUCH_MODEL: 404,
    Reason.VERSION_FAILED: 500,
    Reason.SERVER_GONE: 502,
    Reason.SERVER_SILENT: 504,
    Reason.WRONG_VERSION: 412,
    Reason.PREDICT_FAILED: 422,
    Reason.UNVERIFIED: 409,
    Reason.DRAINING: 410,
}


class VersionState(IntEnum):
    """ModelVersionStatus.State of get_model_status.proto."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class Version:
    """One version as GetModelStatus tells it; `code` and `message` say what failed."""

    number: int
    state: VersionState
    code: int = 0
    message: str = ""


@dataclass(frozen=True)
class Answered:
    """GetModelStatus told the model's versions."""

    versions: tuple[Version, ...]


@dataclass(frozen=True)
class NoSuchModel:
    """GetModelStatus answered NOT_FOUND."""

    message: str


@dataclass(frozen=True)
class Erred:
    """GetModelStatus answered another error: the server lives, of the model it says nothing."""

    message: str


@dataclass(frozen=True)
class Refused:
    """Nothing listens at the server's address."""

    message: str


@dataclass(frozen=True)
class Unanswered:
    """Somebody listens, but no answer came in time."""

    message: str


class Verdict(Enum):
    """What a Predict says of a version."""

    GOOD = "good"
    LATER = "later"  # too busy to tell; ask again
    BAD = "bad"


@dataclass(frozen=True)
class Predicted:
    """A version answered a Predict, or did not."""

    version: int
    verdict: Verdict
    message: str = ""


@dataclass(frozen=True)
class Published:
    """What the publisher found on the volume: versions it refused, by number, and why."""

    refused: tuple[tuple[int, str], ...]
    published: tuple[int, ...]


@dataclass(frozen=True)
class Drained:
    """The pod is about to end."""


Event = Answered | NoSuchModel | Erred | Refused | Unanswered | Predicted | Published | Drained


@dataclass(frozen=True)
class State:
    """All that is known; times are seconds of one monotonic clock.

    `reason`, `message`, `version` (the one that the reason is about) and `since` are the outcome,
    the rest is what it follows from.
    """

    model: str
    required: int | None
    since: float
    last_answer: float
    reason: Reason = Reason.LOADING
    message: str = "the model server has not been asked yet"
    version: int | None = None
    # The pod was ready once since the server last went away.
    started: bool = False
    # The server has answered since this process began.
    answered: bool = False
    # Answered, and not gone since: `versions` or `missing` is what it said.
    known: bool = False
    refused: str = ""
    silent: int = 0
    missing: str = ""
    note: str = ""
    versions: tuple[Version, ...] = ()
    proven: int | None = None
    predicted: Predicted | None = None
    blocked: str = ""
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether requests may come."""
        return self.reason is Reason.READY

    @property
    def untried(self) -> int | None:
        """The version that should answer a Predict next; None when there is none to try."""
        target = _target(self)
        if self.draining or self.refused or target is None or target == self.proven:
            return None
        return target

    def alive(self, now: float) -> bool:
        """Whether the *server* deserves to live: False only after long silence or refusal.

        A port that never answered and refuses is no sign: TensorFlow Serving opens none while it
        loads. While a restarted server loads, this may be False and does no harm: the startup
        probe, which `started` answers, holds the liveness probe back.
        """
        unheard = self.silent > 0 or (self.refused and self.answered)
        return not (unheard and now - self.last_answer > DEAD_SECONDS)


def initial(model: str, required: int | None, now: float) -> State:
    """The state before anything was seen; `required` None means the newest version that loads."""
    return State(model=model, required=required, since=now, last_answer=now)


def step(state: State, event: Event, now: float) -> State:
    """The state after `event` at `now`; `since` moves when the reason or the version does."""
    seen = _see(state, event, now)
    reason, message, version = _judge(seen)
    since = seen.since if (reason, version) == (state.reason, state.version) else now
    return replace(
        seen,
        reason=reason,
        message=message,
        version=version,
        since=since,
        started=seen.started or reason is Reason.READY,
    )


def _see(state: State, event: Event, now: float) -> State:
    heard = replace(state, answered=True, refused="", silent=0, last_answer=now)
    match event:
        case Answered(versions):
            available = {v.number for v in versions if _is_available(v)}
            return replace(
                heard,
                known=True,
                missing="",
                note="",
                versions=versions,
                # What was unloaded and loaded again has to answer again.
                proven=state.proven if state.proven in available else None,
                predicted=state.predicted
                if state.predicted and state.predicted.version in available
                else None,
            )
        case NoSuchModel(message):
            return replace(
                heard,
                known=True,
                missing=message,
                note="",
                versions=(),
                proven=None,
                predicted=None,
            )
        case Erred(message):
            return replace(heard, note=message)
        case Refused(message):
            # Whatever listens there next is another process, and starts with nothing.
            return replace(
                state,
                refused=message,
                silent=0,
                known=False,
                started=False,
                missing="",
                note="",
                versions=(),
                proven=None,
                predicted=None,
            )
        case Unanswered(message):
            return replace(state, silent=state.silent + 1, note=message)
        case Predicted(version, verdict):
            if verdict is Verdict.GOOD:
                return replace(state, proven=version, predicted=event)
            last = state.predicted
            settled = last and last.version == version and last.verdict is Verdict.BAD
            if verdict is Verdict.LATER and settled:
                return state
            return replace(state, predicted=event)
        case Published(refused, published):
            return replace(state, blocked=_blocked(state.required, dict(refused), published))
        case Drained():
            return replace(state, draining=True)


def _blocked(required: int | None, refused: dict[int, str], published: tuple[int, ...]) -> str:
    """Why the version to serve never reaches the server; empty when nothing is in its way."""
    if required is not None:
        return "" if required in published else refused.get(required, "")
    if refused and not published:
        return refused[max(refused)]
    return ""


def _target(state: State) -> int | None:
    """The version to serve, if it is AVAILABLE."""
    if not state.known:
        return None
    available = [v.number for v in state.versions if _is_available(v)]
    if state.required is not None:
        return state.required if state.required in available else None
    return max(available, default=None)


def _judge(state: State) -> tuple[Reason, str, int | None]:
    wanted = state.required
    if state.draining:
        return Reason.DRAINING, "the pod is about to end", state.version
    if state.silent >= SILENT_POLLS:
        text = f"{SILENT_POLLS} polls in a row or more had no answer: {state.note}"
        return Reason.SERVER_SILENT, text, state.version
    if state.refused and state.answered:
        return Reason.SERVER_GONE, state.refused, state.version
    if not state.known:
        if state.blocked:
            return Reason.UNVERIFIED, state.blocked, wanted
        if state.refused:
            # TensorFlow Serving loads first and opens its port then.
            return Reason.LOADING, f"the port is not open yet: {state.refused}", wanted
        return Reason.LOADING, state.note or state.message, wanted
    target = _target(state)
    if target is not None:
        return _judge_available(state, target)
    reason, message = _judge_absent(state)
    if state.blocked and reason in _BLOCKABLE:
        return Reason.UNVERIFIED, state.blocked, wanted
    return reason, message, wanted


def _judge_available(state: State, target: int) -> tuple[Reason, str, int | None]:
    if state.proven == target:
        return Reason.READY, "", target
    tried = state.predicted if state.predicted and state.predicted.version == target else None
    if tried and tried.verdict is Verdict.BAD:
        return Reason.PREDICT_FAILED, tried.message, target
    if state.ready:
        # A newer version took over a moment ago; nothing speaks against it yet.
        return Reason.READY, "", target
    waiting = f": {tried.message}" if tried else ""
    return Reason.LOADING, f"version {target} is AVAILABLE, waiting for a Predict{waiting}", target


# A version that never reached the server explains each of these.
_BLOCKABLE = {Reason.LOADING, Reason.NO_SUCH_MODEL, Reason.WRONG_VERSION}


def _judge_absent(state: State) -> tuple[Reason, str]:
    """Why the version to serve is not AVAILABLE, the server having told its versions."""
    if state.missing:
        return Reason.NO_SUCH_MODEL, state.missing
    own = [v for v in state.versions if state.required in {None, v.number}]
    if fate := _fate(own):
        return fate
    other = max((v.number for v in state.versions if _is_available(v)), default=None)
    if other is not None:
        text = f"version {state.required} of model {state.model} is required"
        return Reason.WRONG_VERSION, f"{text}, version {other} is AVAILABLE"
    if fate := _fate(state.versions):
        return fate
    what = "no version" if state.required is None else f"no version {state.required}"
    return Reason.NO_SUCH_MODEL, f"{what} of model {state.model} on the server"


def _fate(versions: Sequence[Version]) -> tuple[Reason, str] | None:
    """What becomes of versions none of which is AVAILABLE; None when nothing does."""
    for version in sorted(versions, key=lambda v: -v.number):
        if version.state <= VersionState.LOADING:
            return Reason.LOADING, f"version {version.number} is {version.state.name}"
    for version in sorted(versions, key=lambda v: -v.number):
        if version.state is VersionState.END and version.code:
            return Reason.VERSION_FAILED, f"version {version.number}: {version.message}"
    return None


def _is_available(version: Version) -> bool:
    return version.state is VersionState.AVAILABLE
