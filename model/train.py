"""From data to an exported version: what `chopstick train` does, usable from Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from model import export, metrics
from model._tensorflow import keras, tensorflow
from model.dataset import CLASSES, EDGES, Dataset, load
from model.trainers import DEFAULT, check_name, probabilities, trainer

DEFAULT_SEED = 1991


@dataclass(frozen=True)
class Trained:
    """An exported version; `scores` are on the data it was trained with, rounded to 6 digits."""

    directory: Path
    version: int
    trainer: str
    seed: int
    rows: int
    scores: dict[str, float]


def train(
    *,
    base: Path = export.DEFAULT_BASE,
    name: str = DEFAULT,
    version: int | None = None,
    seed: int = DEFAULT_SEED,
    data: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Train with the named trainer and export to `base`; `progress` is told what is being done.

    Raises ChopstickError for an unknown trainer, bad data, a version that exists, or a base path
    that cannot be written. The cheap checks come before the expensive import.
    """
    check_name(name)
    dataset = load(data)
    if version is not None:
        export.check_version(base, version)
    progress("importing TensorFlow")
    chosen = trainer(name)
    progress(f"training {name} on {len(dataset)} measurements")
    classifier = chosen.train(dataset.lengths, dataset.labels, seed=seed)
    scores = _scores(classifier, dataset)
    progress(f"exporting to {base}")
    directory = export.export(
        classifier, base, version=version, facts=_facts(dataset, name, seed, scores)
    )
    return Trained(directory, int(directory.name), name, seed, len(dataset), scores)


def _scores(classifier: Any, dataset: Dataset) -> dict[str, float]:
    found = metrics.summary(probabilities(classifier, dataset.lengths), dataset.labels)
    return {name: round(value, 6) for name, value in found.items()}


def _facts(dataset: Dataset, name: str, seed: int, scores: dict[str, float]) -> dict[str, Any]:
    return {
        "trainer": name,
        "seed": seed,
        "classes": list(CLASSES),
        "class_edges": list(EDGES),
        "data": {"name": dataset.name, "rows": len(dataset), "sha256": dataset.digest},
        "metrics": {"training": scores},
        "versions": {
            "chopstick-serving": metadata.version("chopstick-serving"),
            "keras": keras().__version__,
            "tensorflow": tensorflow().__version__,
        },
    }
