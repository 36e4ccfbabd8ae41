"""The 'deep chopstick classifier': two small hidden layers in Keras.

It finds the curve over the length itself, from 186 measurements with 123 parameters, so the L2
penalty does much of the work; see `chopstick evaluate` for whether the depth pays.

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

UNITS = (8, 8)
STEPS = 200
LEARNING_RATE = 0.3
L2 = 1e-3


def train(lengths: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int) -> Any:
    """Fit lengths float32 [N] in mm to labels int64 [N]; see model.trainers.Trainer."""
    scaled = _keras.Input((1,))
    hidden = scaled
    for index, units in enumerate(UNITS):
        hidden = _dense(units, "tanh", seed + index)(hidden)
    scores = _dense(len(CLASSES), "softmax", seed + len(UNITS))(hidden)
    network = _keras.Model(scaled, scores, name="deep")
    return fit(network, lengths, labels, learning_rate=LEARNING_RATE, steps=STEPS)


def _dense(units: int, activation: str, seed: int) -> Any:
    return _keras.layers.Dense(
        units,
        activation=activation,
        kernel_initializer=_keras.initializers.GlorotUniform(seed=seed),
        kernel_regularizer=_keras.regularizers.L2(L2),
    )
