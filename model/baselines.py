"""What a neural model has to beat: two rules that ignore the length, and one that is no network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.dataset import CLASSES

Lengths = NDArray[np.float32]
Labels = NDArray[np.int64]
Probabilities = NDArray[np.floating]
# Lengths [N] in mm to probabilities [N, 3].
Predictor = Callable[[Lengths], Probabilities]


def majority(lengths: Lengths, labels: Labels, seed: int) -> Predictor:  # noqa: ARG001
    """The most frequent class, for certain, whatever the length."""
    return _constant(np.eye(len(CLASSES))[np.argmax(np.bincount(labels, minlength=len(CLASSES)))])


def prior(lengths: Lengths, labels: Labels, seed: int) -> Predictor:  # noqa: ARG001
    """The class frequencies plus one of each (Laplace), whatever the length."""
    counts = np.bincount(labels, minlength=len(CLASSES)) + 1.0
    return _constant(counts / counts.sum())


def boosting(lengths: Lengths, labels: Labels, seed: int) -> Predictor:
    """scikit-learn's gradient boosting on the length: 30 shallow trees per class."""
    from sklearn.ensemble import GradientBoostingClassifier

    trees = GradientBoostingClassifier(
        n_estimators=30, learning_rate=0.05, max_depth=2, random_state=seed
    )
    trees.fit(lengths[:, np.newaxis], labels)

    def predict(at: Lengths) -> Probabilities:
        p = np.zeros((len(at), len(CLASSES)))
        # A fold without one of the classes has fewer columns.
        p[:, trees.classes_] = trees.predict_proba(at[:, np.newaxis])
        return p

    return predict


def _constant(p: Probabilities) -> Predictor:
    return lambda at: np.tile(p, (len(at), 1))
