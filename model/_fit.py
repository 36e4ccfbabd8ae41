"""Full-batch training of a small Keras model behind the shared scaling, the same every time.

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model._tensorflow import keras, tensorflow
from model.scaling import Scaling

tf = tensorflow()
_keras = keras()


class Scaled(tf.Module):  # type: ignore[misc, name-defined]
    """A Keras model of the standardised length; maps mm float32 [-1, 1] to float32 [-1, 3]."""

    def __init__(self, scaling: Scaling, network: Any) -> None:
        super().__init__(name=network.name)
        self.scaling = scaling
        self.network = network

    def __call__(self, chopstick_length: Any) -> Any:
        """Probabilities, float32 [-1, 3]."""
        return self.network(self.scaling(chopstick_length), training=False)


def fit(
    network: Any,
    lengths: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    learning_rate: float,
    steps: int,
) -> Scaled:
    """Minimise cross-entropy plus the network's own penalties in `steps` full-batch steps.

    lengths float32 [N] in mm, labels int64 [N]. Every step sees every row, so there is no order to
    shuffle. All steps are one call of a compiled function: `Model.fit` takes three times as long
    for the same weights.
    """
    scaling = Scaling.of(lengths)
    inputs = scaling(tf.constant(lengths[:, np.newaxis]))
    targets = tf.constant(labels)
    loss_of = _keras.losses.SparseCategoricalCrossentropy()
    variables = network.trainable_variables
    # Full batches have no noise to average out, and tracing Adam costs more than it saves.
    optimizer = _keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True)
    optimizer.build(variables)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def descend() -> None:
        def step(index: Any) -> tuple[Any]:
            with tf.GradientTape() as tape:
                loss = loss_of(targets, network(inputs, training=True)) + sum(network.losses)
            slopes = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(slopes, variables, strict=True))
            return (index + 1,)

        tf.while_loop(lambda index: index < steps, step, (tf.constant(0),))

    # Traced once and called once on purpose; called directly, TensorFlow warns about that.
    descend.get_concrete_function()()
    return Scaled(scaling, network)
