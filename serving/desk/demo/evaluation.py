"""Step 1: what the model is worth beside rules that need no model."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from serving.desk.demo.report import Report, Result
from serving.desk.process import Child, tail
from serving.errors import ChopstickError

TITLE = "model against baseline"


class Workshop:
    """The process that evaluates, then trains the version that step 4 rolls out."""

    def __init__(self, base: Path, version: int, seed: int, log: Path) -> None:
        self._command = [
            *(sys.executable, "-P", "-m", "serving.desk.demo.workshop"),
            *(str(base), str(version), str(seed)),
        ]
        self._log = log
        self._child: Child | None = None

    async def start(self) -> None:
        """Start it; from the main thread."""
        self._child = await Child.start("workshop", self._command, self._log, pipe_stdout=True)

    async def evaluation(self) -> dict[str, Any]:
        """Return model.evaluate's figures; ChopstickError where it failed."""
        found: dict[str, Any] = (await self._next())["evaluation"]
        return found

    async def trained(self) -> Path:
        """Return the directory of the new version, after `evaluation`."""
        return Path((await self._next())["trained"])

    async def stop(self) -> None:
        """End it, if it still runs."""
        if self._child is not None:
            await self._child.stop(1.0)

    async def _next(self) -> dict[str, Any]:
        assert self._child is not None  # noqa: S101
        assert self._child.stdout is not None  # noqa: S101
        line = await self._child.stdout.readline()
        document: dict[str, Any] = json.loads(line) if line else {}
        if not line or "error" in document:
            words = [document["error"]] if "error" in document else tail(self._log)
            raise ChopstickError(
                "evaluation or training failed: " + (words[-1] if words else "no reason given"),
                f"the whole log: {self._log}",
            )
        return document


async def step(workshop: Workshop, report: Report) -> Result:
    """Wait for the evaluation and judge it."""
    found = await workshop.evaluation()
    rows = {row["name"]: row for row in found["models"]}
    majority, prior, model = rows["majority"], rows["prior"], rows[found["best"]]
    report.table(
        ("out of fold, by individual", "accuracy", "log loss", "Brier score"),
        [
            (
                name,
                f"{row['accuracy']:.1%}",
                "infinite" if row["log_loss"] is None else f"{row['log_loss']:.4f}",
                f"{row['brier']:.4f}",
            )
            for name, row in rows.items()
        ],
    )
    low, high = model["gain_low"], model["gain_high"]
    # With 186 measurements nothing beats the class frequencies for certain, and the demo does not
    # pretend it: what must hold is that the probabilities are better than the majority rule's
    # certainty, and not provably worse than the frequencies.
    held = model["brier"] < majority["brier"] and high > 0
    proven = "proven better" if found["proven"] else "no proven gain"
    verdict = (
        f"Brier score {model['brier']:.3f} against {majority['brier']:.3f} of always saying the "
        f"most frequent class ({majority['accuracy']:.1%} right, the model {model['accuracy']:.1%})"
        f"; against the class frequencies ({prior['brier']:.3f}) {proven}: {model['gain']:+.4f} "
        f"nats, 95 % interval {low:+.4f} to {high:+.4f}"
    )
    return report.result(Result(1, TITLE, held, verdict, found))


async def run(workshop: Workshop, report: Report) -> Path:
    """Do step 1 and return the new version's directory."""
    report.progress("evaluating the model beside the start of the replicas")
    await step(workshop, report)
    trained = await workshop.trained()
    report.progress(f"version {trained.name} is trained, for step 4")
    await asyncio.sleep(0)
    return trained
