"""SavedModels made for tests: `python -m tests.support.models KIND DIRECTORY`.

A process of its own, so that a test process needs no TensorFlow and several can share the result.
"""

import sys


def busy(directory: str) -> None:
    """`iterations` int32 [-1] -> `value` float32 [-1]: work that takes about 1 ms an iteration."""
    import tensorflow as tf

    class Busy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "iterations")])
        def serve(self, iterations: tf.Tensor) -> dict[str, tf.Tensor]:
            _, product = tf.while_loop(
                lambda i, _: i < tf.reduce_max(iterations),
                lambda i, p: (i + 1, tf.linalg.matmul(p, p) * 1e-3),
                (0, tf.eye(256)),
            )
            return {"value": tf.cast(iterations, tf.float32) + 0.0 * tf.reduce_sum(product)}

    module = Busy()
    tf.saved_model.save(module, directory, signatures={"serving_default": module.serve})


def regress(directory: str) -> None:
    """half_plus_two with Predict, Regress and Classify signatures, all of `x`."""
    import tensorflow as tf

    class HalfPlusTwo(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x / 2 + 2}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
        def regress(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            features = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
            return {"outputs": features["x"] / 2 + 2}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
        def classify(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            features = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
            return {"scores": features["x"] / 2 + 2}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.float32, "a"),
                tf.TensorSpec([None], tf.float32, "b"),
            ]
        )
        def both(self, a: tf.Tensor, b: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"sum": a + b, "difference": a - b}

    module = HalfPlusTwo()
    tf.saved_model.save(
        module,
        directory,
        signatures={
            "serving_default": module.serve,
            "regress_x_to_y": module.regress,
            "classify_x_to_y": module.classify,
            "two_inputs": module.both,
        },
    )


if __name__ == "__main__":
    {"busy": busy, "regress": regress}[sys.argv[1]](sys.argv[2])
