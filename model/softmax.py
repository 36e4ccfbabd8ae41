"""The article's softmax regression, in plain TensorFlow with its own training loop.

logits = scaled length * weights + biases. Against the article: the length is scaled inside the
graph, and a small L2 penalty keeps 186 measurements from being over-read. One straight line per
class cannot say that the middle lengths are the best; `linear` and `deep` can.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model._tensorflow import tensorflow
from model.dataset import CLASSES
from model.scaling import Scaling

tf = tensorflow()

# Convex and well scaled: twice the steps move the loss in its seventh digit.
STEPS = 200
LEARNING_RATE = 2.0
L2 = 0.02


class SoftmaxRegression(tf.Module):  # type: ignore[misc, name-defined]
    """Maps lengths float32 [-1, 1] in mm to probabilities float32 [-1, 3]."""

    def __init__(self, scaling: Scaling, seed: int) -> None:
        super().__init__(name="softmax")
        self.scaling = scaling
        # A stateless draw: the same seed gives the same start whatever ran before.
        start = tf.random.stateless_truncated_normal([1, len(CLASSES)], seed=[seed, 0], stddev=0.1)
        self.weights = tf.Variable(start, name="weights")
        self.biases = tf.Variable(tf.zeros([len(CLASSES)]), name="biases")

    def logits(self, chopstick_length: Any) -> Any:
        """Unnormalised log probabilities, float32 [-1, 3]."""
        return tf.matmul(self.scaling(chopstick_length), self.weights) + self.biases

    def __call__(self, chopstick_length: Any) -> Any:
        """Probabilities, float32 [-1, 3]."""
        return tf.nn.softmax(self.logits(chopstick_length))


def train(lengths: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int) -> Any:
    """Fit lengths float32 [N] in mm to labels int64 [N] by full-batch gradient descent."""
    module = SoftmaxRegression(Scaling.of(lengths), seed)
    variables = [module.weights, module.biases]
    inputs = tf.constant(lengths[:, np.newaxis])
    targets = tf.one_hot(labels, len(CLASSES))

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step() -> None:
        with tf.GradientTape() as tape:
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, module.logits(inputs))
            penalty = L2 / 2 * tf.reduce_sum(module.weights * module.weights)
            loss = tf.reduce_mean(losses) + penalty
        for variable, slope in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(LEARNING_RATE * slope)

    for _ in range(STEPS):
        step()
    return module
