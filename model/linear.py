"""The article's Estimator LinearClassifier, whose API no longer exists, in Keras.

An Estimator's linear classifier is a softmax over feature columns. The article gave it one column,
the length, which is what `softmax` does; this one has two, the scaled length and its square, so
that it can say that middle lengths are the best. Still linear in what is learned: six weights and
three biases, and a convex loss. L2 on the weights.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model._fit import fit
from model._tensorflow import keras
from model.dataset import CLASSES

_keras = keras()

STEPS = 100
LEARNING_RATE = 0.3
L2 = 0.01


def train(lengths: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int) -> Any:
    """Fit lengths float32 [N] in mm to labels int64 [N]; see model.trainers.Trainer."""
    scaled = _keras.Input((1,))
    columns = _keras.layers.Concatenate()([scaled, _keras.ops.square(scaled)])
    scores = _keras.layers.Dense(
        len(CLASSES),
        activation="softmax",
        kernel_initializer=_keras.initializers.TruncatedNormal(stddev=0.1, seed=seed),
        kernel_regularizer=_keras.regularizers.L2(L2),
    )(columns)
    network = _keras.Model(scaled, scores, name="linear")
    return fit(network, lengths, labels, learning_rate=LEARNING_RATE, steps=STEPS)
