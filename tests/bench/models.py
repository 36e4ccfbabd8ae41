"""A model with a fixed cost: `python -m tests.bench.models DIRECTORY MILLISECONDS`.

`x` float32 [-1] -> `y` float32 [-1] = x / 2 + 2, and a product of matrices that takes about so
many milliseconds on this core, however many rows come: what batching is for.
"""

from __future__ import annotations

import sys
import time

SIZE = 256


def fixed_cost(directory: str, milliseconds: float) -> None:
    import tensorflow as tf

    class FixedCost(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int32)]
        )
        def run(self, x: tf.Tensor, steps: tf.Tensor) -> tf.Tensor:
            _, product = tf.while_loop(
                lambda i, _: i < steps,
                lambda i, p: (i + 1, tf.linalg.matmul(p, p) * 1e-3),
                (0, tf.eye(SIZE)),
            )
            return x / 2 + 2 + 0.0 * tf.reduce_sum(product)

    module = FixedCost()
    steps = 64
    module.run(tf.ones([1]), steps)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        module.run(tf.ones([1]), steps)
        times.append(time.perf_counter() - started)
    needed = max(1, round(steps * milliseconds / 1e3 / min(times)))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": module.run(x, tf.constant(needed))}

    tf.saved_model.save(module, directory, signatures={"serving_default": serve})


if __name__ == "__main__":
    fixed_cost(sys.argv[1], float(sys.argv[2]))
