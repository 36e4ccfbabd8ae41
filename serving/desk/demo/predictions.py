"""Step 2: the same answers by gRPC, REST and Classify."""

from __future__ import annotations

import asyncio

import numpy as np

from serving.client import INPUT, LABELS, OUTPUT, AsyncClient, AsyncRestClient
from serving.desk.demo.report import Report, Result
from serving.desk.table import bar

TITLE = "predictions by gRPC, REST and Classify"
LENGTHS = (180.0, 210.0, 240.0, 270.0, 300.0, 330.0)
# REST prints float32 with the digits that bring it back exactly; a batch may be added up in
# another order by another replica's thread.
_TOLERANCE = 1e-6
_DEADLINE = 5.0


async def step(grpc: str, rest: str, model: str, report: Report) -> tuple[Result, float]:
    """Predict over all three ways; returns the result and when the first answer was shown, in s."""
    column = np.array([[length] for length in LENGTHS], np.float32)
    async with (
        AsyncClient(grpc, model=model, timeout=_DEADLINE) as client,
        AsyncRestClient(rest, model=model, timeout=_DEADLINE) as rest_client,
    ):
        first = await client.predict({INPUT: column[:1]})
        report.line(f"first prediction: {LENGTHS[0]:.0f} mm -> {_words(first[OUTPUT][0])}")
        shown = report.elapsed
        report.progress(f"first prediction shown after {shown:.1f} s")
        by_grpc, by_rest, by_classify = await asyncio.gather(
            client.predict({INPUT: column}),
            rest_client.predict({INPUT: column}),
            client.classify({INPUT: column}),
        )
    probabilities = np.asarray(by_grpc[OUTPUT])
    names = [list(row) for row in by_classify.labels]
    differences = {
        "REST": _difference(probabilities, by_rest[OUTPUT]),
        "Classify": _difference(probabilities, by_classify.scores),
    }
    report.table(
        ("length", *LABELS, "class", "", "REST differs by", "Classify differs by"),
        [
            (
                f"{length:.0f} mm",
                *(f"{value:.4f}" for value in row),
                LABELS[int(np.argmax(row))],
                bar(float(row.max())),
                f"{np.abs(np.asarray(by_rest[OUTPUT])[index] - row).max():.1g}",
                f"{np.abs(by_classify.scores[index] - row).max():.1g}",
            )
            for index, (length, row) in enumerate(zip(LENGTHS, probabilities, strict=True))
        ],
    )
    labelled = all(row == list(LABELS) for row in names)
    worst = max(differences.values())
    held = (
        worst <= _TOLERANCE and labelled and bool(np.allclose(probabilities.sum(1), 1, atol=1e-5))
    )
    verdict = (
        f"{len(LENGTHS)} lengths from {LENGTHS[0]:.0f} to {LENGTHS[-1]:.0f} mm answered by version "
        f"{by_grpc.version}; largest difference between the three ways {worst:.1g}"
        + ("" if labelled else f"; Classify names the classes {names[0]}, not {list(LABELS)}")
    )
    figures = {
        "first_prediction_seconds": round(shown, 3),
        "version": by_grpc.version,
        "predictions": {
            f"{length:.0f}": [round(float(value), 6) for value in row]
            for length, row in zip(LENGTHS, probabilities, strict=True)
        },
        "largest_difference": differences,
    }
    return report.result(Result(2, TITLE, held, verdict, figures)), shown


def _difference(ours: np.ndarray, theirs: object) -> float:
    other = np.asarray(theirs, np.float32)
    return float(np.abs(ours - other).max()) if other.shape == ours.shape else float("inf")


def _words(row: np.ndarray) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in zip(LABELS, row, strict=True))
