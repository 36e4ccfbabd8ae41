"""The model versions of the suite, good and bad, made once and kept in build/e2e/models.

`python -m tests.cluster.models DIRECTORY` makes them in a process of its own: the runner needs no
TensorFlow. Each has a manifest that fits its files, bad ones too: what is under test is what the
server and the sidecar find out, not what the image's build does.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

GOOD, NEXT, CORRUPT, FAILING, HEAVY = 1, 2, 3, 4, 5
# Another seed, so that the versions answer differently.
_NEXT_SEED = 2018
# 256 x 256 matrix products of about 1 ms: a request then costs the server much more CPU than the
# client, which shares the machine's cores with it.
_HEAVY_PRODUCTS = 6

EVERY = [
    ("chopstick", GOOD),
    ("chopstick", NEXT),
    ("chopstick", CORRUPT),
    ("chopstick", FAILING),
    ("chopstick", HEAVY),
    ("half_plus_two", 1),
]


def make(folder: Path) -> None:
    """Make the versions that are missing below `folder`, each whole or not at all."""
    makers: dict[tuple[str, int], Callable[[Path], None]] = {
        ("chopstick", GOOD): lambda base: _train(base, GOOD),
        ("chopstick", NEXT): lambda base: _train(base, NEXT, seed=_NEXT_SEED),
        ("chopstick", CORRUPT): _corrupt,
        ("chopstick", FAILING): lambda base: _saved(base / str(FAILING), _failing()),
        ("chopstick", HEAVY): lambda base: _saved(base / str(HEAVY), _heavy()),
        ("half_plus_two", 1): _half_plus_two,
    }
    for name, version in EVERY:
        base = folder / name
        if not (base / str(version)).exists():
            print(f"making {name} version {version}", file=sys.stderr, flush=True)
            base.mkdir(parents=True, exist_ok=True)
            makers[name, version](base)


def _train(base: Path, version: int, **options: int) -> None:
    from model.train import train

    train(base=base, version=version, **options)


def _corrupt(base: Path) -> None:
    """Version 1 with its weights cut short, as a copy that was broken off."""
    from model import manifest

    version = base / ".making"
    shutil.rmtree(version, ignore_errors=True)
    shutil.copytree(base / str(GOOD), version)
    (data,) = (version / "variables").glob("variables.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    (version / manifest.MANIFEST).unlink()
    manifest.write(version, {})
    version.rename(base / str(CORRUPT))


def _half_plus_two(base: Path) -> None:
    import tensorflow as tf

    from tests.support import models

    tf.get_logger().setLevel("ERROR")  # AutoGraph's note that it has nothing to do there
    _publish(base / "1", models.regress)


def _publish(version: Path, save: Callable[[str], None]) -> None:
    from model import manifest

    making = version.with_name(".making")
    shutil.rmtree(making, ignore_errors=True)
    save(str(making))
    manifest.write(making, {})
    making.rename(version)


def _saved(version: Path, module: object) -> None:
    import tensorflow as tf

    _publish(version, lambda to: tf.saved_model.save(module, to, signatures=module.serve))


def _failing() -> object:
    """Loads, and fails every Predict; no warm-up that would notice it."""
    import tensorflow as tf

    class Failing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, "chopstick_length")])
        def serve(self, chopstick_length: tf.Tensor) -> dict[str, tf.Tensor]:
            never = tf.reduce_all(tf.math.is_inf(chopstick_length))
            with tf.control_dependencies([tf.debugging.Assert(never, ["this model always fails"])]):
                return {"classes_prob": tf.repeat(chopstick_length, 3, axis=1)}

    return Failing()


def _heavy() -> object:
    """The classifier's signature, with work that takes milliseconds."""
    import tensorflow as tf

    class Heavy(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, "chopstick_length")])
        def serve(self, chopstick_length: tf.Tensor) -> dict[str, tf.Tensor]:
            _, product = tf.while_loop(
                lambda i, _: i < _HEAVY_PRODUCTS,
                lambda i, p: (i + 1, tf.linalg.matmul(p, p) * 1e-3),
                # Of the input, or it would be computed once, when the graph is optimized.
                (0, tf.eye(256) * tf.reduce_mean(chopstick_length)),
            )
            equal = tf.fill([tf.shape(chopstick_length)[0], 3], 1 / 3)
            return {"classes_prob": equal + 0.0 * tf.reduce_sum(product)}

    return Heavy()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
