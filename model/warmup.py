"""The requests that a server answers before it calls a new version available."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from model._tensorflow import tensorflow
from serving.protocol import messages
from serving.protocol.tensors import to_proto

# The name that TensorFlow Serving looks for below assets.extra.
WARMUP_FILE = "tf_serving_warmup_requests"
# A server warms up the version it is loading whatever name the record has; a fixed one keeps the
# bytes the same for every base path.
SERVABLE = "chopstick"
# One length, as most requests have, and a row of the lengths that were measured.
_BATCHES: tuple[tuple[float, ...], ...] = (
    (240.0,),
    (180.0, 210.0, 240.0, 270.0, 300.0, 330.0),
)


def records() -> list[messages.PredictionLog]:
    """One record per signature and batch size."""
    found = []
    for lengths in _BATCHES:
        predict = messages.PredictRequest()
        predict.model_spec.name = SERVABLE
        predict.model_spec.signature_name = "serving_default"
        column = np.asarray(lengths, np.float32)[:, np.newaxis]
        predict.inputs["chopstick_length"].CopyFrom(to_proto(column))
        classify = messages.ClassificationRequest()
        classify.model_spec.name = SERVABLE
        classify.model_spec.signature_name = "classify"
        for length in lengths:
            example = classify.input.example_list.examples.add()
            example.features.feature["chopstick_length"].float_list.value.append(length)
        found += [
            messages.PredictionLog(predict_log=messages.PredictLog(request=predict)),
            messages.PredictionLog(classify_log=messages.ClassifyLog(request=classify)),
        ]
    return found


def write(path: Path, logs: Iterable[messages.PredictionLog]) -> None:
    """Write PredictionLogs as a TFRecord file; the bytes depend on the records alone."""
    tf = tensorflow()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString(deterministic=True))
