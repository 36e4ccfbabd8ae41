"""Scores of probabilistic predictions, in NumPy. Each takes p [N, K] and labels int [N]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.int64]

# A probability of zero for what happened would make the log loss infinite.
_SMALLEST = 1e-7


def accuracy(p: Floats, labels: Labels) -> float:
    """Share of rows whose most probable class is the label; higher is better."""
    return float(np.mean(np.argmax(p, axis=1) == labels))


def log_losses(p: Floats, labels: Labels) -> NDArray[np.float64]:
    """Negative log probability of the label in nats, per row [N]; lower is better."""
    chosen = np.asarray(p, np.float64)[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.maximum(chosen, _SMALLEST)))


def brier_scores(p: Floats, labels: Labels) -> NDArray[np.float64]:
    """Squared distance to the one-hot label, summed over classes (0 to 2), per row [N]."""
    exact = np.asarray(p, np.float64)
    return np.asarray(np.sum((exact - np.eye(exact.shape[1])[labels]) ** 2, axis=1))


def calibration_error(p: Floats, labels: Labels, bins: int = 5) -> float:
    """Expected calibration error over all classes (classwise ECE); lower is better.

    Each class's probabilities go into at most `bins` bins of about equal count; the result is the
    mean distance between what was said and how often it happened, weighted by rows, averaged over
    classes. Equal count and not equal width: predictions here crowd into a few narrow ranges.
    Equal probabilities share a bin, else the order of the rows would decide.
    """
    errors = []
    for index in range(p.shape[1]):
        said = np.asarray(p[:, index], np.float64)
        happened = labels == index
        edges = np.unique(np.quantile(said, np.linspace(0, 1, bins + 1)[1:-1]))
        places = np.digitize(said, edges)
        gaps = [
            np.sum(places == place)
            * abs(said[places == place].mean() - happened[places == place].mean())
            for place in np.unique(places)
        ]
        errors.append(sum(gaps) / len(labels))
    return float(np.mean(errors))


def summary(p: Floats, labels: Labels) -> dict[str, float]:
    """Accuracy, log loss, Brier score and calibration error by name."""
    return {
        "accuracy": accuracy(p, labels),
        "log_loss": float(log_losses(p, labels).mean()),
        "brier": float(brier_scores(p, labels).mean()),
        "calibration_error": calibration_error(p, labels),
    }
