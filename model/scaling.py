"""Millimetres in, standardised units inside: the constants live in the graph, not in the client.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model._tensorflow import tensorflow

tf = tensorflow()


@dataclass(frozen=True)
class Scaling:
    """Mean, standard deviation and range of the training lengths, in millimetres.

    The article fed raw millimetres to a softmax, which saturated it: every real length came out
    as the middle class with probability 1.0.
    """

    mean: float
    deviation: float
    shortest: float
    longest: float

    @classmethod
    def of(cls, lengths: NDArray[np.float32]) -> Scaling:
        """Take the constants from the training lengths [N]; they must not all be equal."""
        exact = lengths.astype(np.float64)
        return cls(
            mean=float(exact.mean()),
            deviation=float(exact.std()),
            shortest=float(exact.min()),
            longest=float(exact.max()),
        )

    def __call__(self, chopstick_length: Any) -> Any:
        """Scale a float32 tensor of any shape.

        A length outside the training range counts as the nearest end of it: nothing was measured
        there, and a polynomial's extrapolation would look like a confident answer.
        """
        inside = tf.clip_by_value(chopstick_length, self.shortest, self.longest)
        return (inside - self.mean) / self.deviation
