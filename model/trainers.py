"""What a trainer is, and which there are."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from serving.errors import ChopstickError

# name: (module, one line about it). Modules, not classes: a trainer has no state between runs.
TRAINERS = {
    "softmax": "softmax regression on the scaled length, plain TensorFlow",
    "linear": "linear classifier on the scaled length and its square, Keras",
    "deep": "two hidden layers of 8 units, Keras",
}
DEFAULT = "softmax"


class Trainer(Protocol):
    """A module that fits a classifier."""

    def train(self, lengths: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int) -> Any:
        """Fit lengths float32 [N] in mm to labels int64 [N].

        Returns a trackable callable that maps float32 [-1, 1] to probabilities float32 [-1, 3].
        The same arguments on the same machine give bitwise the same weights.
        """
        ...


def check_name(name: str) -> None:
    """Raise ChopstickError for a name that is no trainer's."""
    if name not in TRAINERS:
        raise ChopstickError(f"unknown trainer '{name}'", f"Choose one of: {', '.join(TRAINERS)}.")


def trainer(name: str) -> Trainer:
    """Import a trainer by name, and TensorFlow with it; raises ChopstickError as `check_name`."""
    check_name(name)
    return cast("Trainer", importlib.import_module(f"model.{name}"))


def probabilities(classifier: Any, lengths: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply a classifier to lengths [N] in mm; returns float32 [N, 3]."""
    outputs = classifier(lengths.astype(np.float32)[:, np.newaxis])
    return np.asarray(outputs, np.float32)
