"""Our messages and TensorFlow's in one process, imported in either order."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

OURS = "from serving.protocol import messages"
THEIRS = """
import tensorflow
from tensorflow_serving.apis import predict_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
"""
# The same request in both, serialised: our descriptors are theirs, and neither stands in the other's way.
SAME_BYTES = """
def request(request_class, tensor_class, dtype):
    made = request_class()
    made.model_spec.name = "chopstick"
    made.model_spec.version.value = 3
    made.model_spec.signature_name = "serving_default"
    made.output_filter.append("classes_prob")
    tensor = tensor_class(dtype=dtype, float_val=[180.0, 240.5, float("nan")])
    tensor.tensor_shape.dim.add(size=3)
    tensor.tensor_shape.dim.add(size=1)
    made.inputs["chopstick_length"].CopyFrom(tensor)
    made.inputs["another"].CopyFrom(tensor_class(dtype=dtype, tensor_content=b"\\0\\1"))
    return made.SerializeToString(deterministic=True)

ours = request(messages.PredictRequest, messages.TensorProto, messages.DT_FLOAT)
theirs = request(predict_pb2.PredictRequest, tensor_pb2.TensorProto, types_pb2.DT_FLOAT)
assert ours == theirs and len(ours) > 100, (ours, theirs)
assert messages.PredictRequest.FromString(theirs).model_spec.version.value == 3
assert predict_pb2.PredictRequest.FromString(ours).output_filter == ["classes_prob"]
assert messages.PredictRequest.DESCRIPTOR is not predict_pb2.PredictRequest.DESCRIPTOR
"""


@pytest.mark.parametrize(
    "order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours-first", "theirs-first"]
)
def test_both_imports_live_together_and_write_the_same_bytes(order: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([*order, SAME_BYTES])],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_nothing_is_registered_in_the_default_pool() -> None:
    code = """
from google.protobuf import descriptor_pool
from serving.protocol import messages, services
messages.PredictRequest(), messages.HealthCheckRequest()
for name in ("tensorflow.serving.PredictRequest", "tensorflow.TensorProto"):
    messages.POOL.FindMessageTypeByName(name)
    try:
        descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        continue
    raise SystemExit(name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
