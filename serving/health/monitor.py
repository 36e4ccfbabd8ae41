"""The current state and who wants to know when it changes."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.health.state import Event, State, initial, step

Listener = Callable[[State, State], None]


class Monitor:
    """Holds the state and tells `listeners` of every change.

    They are called with the old and the new state when reason, message or version differ.
    """

    def __init__(self, model: str, required: int | None) -> None:
        self.state = initial(model, required, time.monotonic())
        self.listeners: list[Listener] = []

    def apply(self, event: Event) -> State:
        """Fold an event in and return the new state."""
        old, self.state = self.state, step(self.state, event, time.monotonic())
        new = self.state
        if (old.reason, old.message, old.version) != (new.reason, new.message, new.version):
            for listener in self.listeners:
                listener(old, new)
        return new

    def seconds(self) -> float:
        """Seconds that the current reason has held."""
        return time.monotonic() - self.state.since

    def alive(self) -> bool:
        """Whether the server deserves to live, see `State.alive`."""
        return self.state.alive(time.monotonic())
