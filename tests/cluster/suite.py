"""Cases, what they are given, what they leave, and running them in order."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from kubernetes import client

from tests.cluster import evidence
from tests.cluster.cluster import Cluster
from tests.cluster.stack import OVERLAYS, Stack
from tests.cluster.traffic import NAMESPACE, Clients, Load, Report, traffic
from tests.cluster.usage import Sample

PASS, FAIL, SKIP = "pass", "fail", "skip"


class Skip(Exception):  # noqa: N818 - no error: the case can't be run here
    """A case, or the rest of one, can't be run here; the text says why."""


@dataclass(frozen=True)
class Size:
    """How much load: at least `requests` at `rate` a second beside each change."""

    name: str
    requests: int
    rate: float


# CI's machine has two cores for all nodes, their servers and the client.
CI = Size("ci", 1_500, 100.0)
FULL = Size("full", 10_000, 200.0)


@dataclass
class Change:
    """One change under load: what was done and what came of it."""

    title: str
    report: Report
    seconds: float
    """From the first command until the last pod had ended."""


@dataclass
class Figure:
    """One number that was measured; `target` in words, empty for none."""

    name: str
    value: float
    unit: str
    target: str = ""


@dataclass
class Grid:
    """A table that a case has made, such as the answer of each path to each caller."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass
class Outcome:
    """What became of a case."""

    name: str
    title: str
    outcome: str = PASS
    detail: str = ""
    seconds: float = 0.0
    changes: list[Change] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was seen, in words, such as the reason that an event gave."""


class Context:
    """What a case works with. Figures, notes and changes that it adds are kept if it fails, too."""

    def __init__(self, cluster: Cluster, size: Size, say: Callable[[str], None]) -> None:
        self.cluster = cluster
        self.size = size
        self.callers = Clients(cluster)
        """Who makes the load of `under_load`."""
        self.unmeshed = Stack(cluster, "chopstick", OVERLAYS / "unmeshed")
        self.outcome = Outcome("", "")
        self.lasting = {NAMESPACE, self.unmeshed.namespace}
        self.own: set[str] = set()
        """Namespaces of the case that runs, removed when it has ended."""
        self.say = say
        self.samples: dict[str, Sample] = {}
        """What `deploy` saw of the sidecars' use, by pod; `footprint` compares with it."""

    def set_up(self) -> None:
        """Once, before the first case."""
        self.callers.set_up()

    def tear_down(self) -> None:
        """Once, after the last case: remove what cases share."""
        self.cluster.kubectl(
            "delete", "namespace", *sorted(self.lasting),
            "--ignore-not-found", "--timeout=120s", seconds=130,
        )  # fmt: skip

    def note(self, text: str) -> None:
        """Keep something seen, and show it."""
        self.outcome.notes.append(text)
        self.say(text)

    def figure(self, name: str, value: float, unit: str, target: str = "") -> None:
        """Keep a number."""
        self.outcome.figures.append(Figure(name, value, unit, target))
        self.say(f"{name}: {value:.4g} {unit}" + (f" (target: {target})" if target else ""))

    def grid(self, title: str, header: list[str], rows: list[list[str]]) -> None:
        """Keep a table; the rows' cells are text."""
        self.outcome.grids.append(Grid(title, header, rows))

    def stack(self, namespace: str, overlay: Path) -> Stack:
        """A stack of the case's own, not there yet; removed, with its logs kept, after the case."""
        stack = Stack(self.cluster, namespace, overlay)
        stack.delete()
        self.own.add(namespace)
        return stack

    def clean(self) -> None:
        """Remove what the case has made, without waiting for it."""
        self.callers.delete_started()
        if self.own:
            self.cluster.kubectl(
                "delete", "namespace", *sorted(self.own), "--ignore-not-found", "--wait=false"
            )
        self.own.clear()

    @property
    def lasting_stack(self) -> Stack:
        """The stack that cases share; `baseline` brings it back to what the tree says."""
        return self.unmeshed

    def baseline(self) -> Stack:
        """The shared stack as it is in the tree, three pods ready and nothing else; fast if it is so."""
        stack = self.lasting_stack
        stack.apply()
        stack.rolled_out()
        stack.wait_ready(3)
        return stack

    def serving(self) -> Stack:
        """The same with three ready pods of version 1; its configuration may be another.

        Saves the rollout back to `baseline` where the difference is of no interest.
        """
        stack = self.lasting_stack
        with contextlib.suppress(client.ApiException):
            found, pods = stack.deployment(), stack.pods()
            status = found.status
            images = {c.name: c.image for c in found.spec.template.spec.containers}
            whole = (
                images["server"].endswith("chopstick-classifier:1")
                and status.observed_generation == found.metadata.generation
                and (status.replicas, status.updated_replicas, status.ready_replicas) == (3, 3, 3)
                and len(pods) == 3
            )
            if whole:
                return stack
        return self.baseline()

    @contextlib.contextmanager
    def under_load(
        self,
        stack: Stack,
        title: str,
        *,
        clients: Clients | None = None,
        target: str = "",
        **options: Any,
    ) -> Iterator[Load]:
        """A change under load, kept as one; ends when nothing is terminating any more.

        `clients` makes the load, `callers` by default, on `target`, the stack's gRPC by default;
        `options` are those of `traffic`.
        """
        began = time.monotonic()
        options = {"rate": self.size.rate, "requests": self.size.requests, **options}
        with traffic(clients or self.callers, target or stack.grpc, **options) as load:
            began = time.monotonic()
            self.say(f"{title}: under load")
            yield load
            stack.wait_terminated()
            seconds = time.monotonic() - began
        self.outcome.changes.append(Change(title, load.report, seconds))
        self.say(f"{title}: {seconds:.1f} s, {load.report.words()}")

    @contextlib.contextmanager
    def without_failure(self, stack: Stack, title: str, **options: Any) -> Iterator[Load]:
        """As `under_load`; fails unless every request, and enough of them, got an OK."""
        with self.under_load(stack, title, **options) as load:
            yield load
        load.report.assert_at_least(options.get("requests", self.size.requests))
        load.report.assert_none_failed()


ContextT = TypeVar("ContextT", bound=Context)


@dataclass(frozen=True)
class Case(Generic[ContextT]):
    """One case: it finds the shared stack in any state and leaves it so that `baseline` heals it."""

    name: str
    title: str
    run: Callable[[ContextT], None]


class Registry(Generic[ContextT]):
    """The cases of one suite, in the order of their registration, which is that of running."""

    def __init__(self) -> None:
        self.cases: dict[str, Case[ContextT]] = {}

    def case(
        self, name: str, title: str
    ) -> Callable[[Callable[[ContextT], None]], Callable[[ContextT], None]]:
        """Register a function as a case."""

        def register(function: Callable[[ContextT], None]) -> Callable[[ContextT], None]:
            assert name not in self.cases, name
            self.cases[name] = Case(name, title, function)
            return function

        return register

    def select(self, words: Sequence[str]) -> list[Case[ContextT]]:
        """The cases whose names hold one of the words; all of them without words."""
        return [
            found
            for found in self.cases.values()
            if not words or any(word in found.name for word in words)
        ]


REGISTRY: Registry[Context] = Registry()
case = REGISTRY.case
select = REGISTRY.select
CASES = REGISTRY.cases


def run_case(chosen: Case[ContextT], context: ContextT, kept: Path) -> Outcome:
    """Run one case; whatever it raises is its outcome, with the evidence in `kept`/<name>."""
    context.outcome = outcome = Outcome(chosen.name, chosen.title)
    began = time.monotonic()
    try:
        chosen.run(context)
    except Skip as reason:
        outcome.outcome, outcome.detail = SKIP, str(reason)
    except Exception as error:
        outcome.outcome = FAIL
        outcome.detail = f"{type(error).__name__}: {error}"
        folder = kept / chosen.name
        context.say(f"failed; keeping logs and events in {folder}")
        evidence.collect(context.cluster, sorted(context.lasting | context.own), folder)
        (folder / "failure.txt").write_text(traceback.format_exc())
    finally:
        context.clean()
    outcome.seconds = time.monotonic() - began
    return outcome
