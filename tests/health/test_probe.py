"""The Predict that proves a version: zeros by the signature, or values from a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.health.probe import Inputs, ProbeError, build_request
from serving.protocol import messages, tensors
from tests.health.processes import metadata, signature

TYPES = {
    "DT_FLOAT": 1.5,
    "DT_DOUBLE": 1.5,
    "DT_HALF": 1.5,
    "DT_INT8": -3,
    "DT_INT16": -3,
    "DT_INT32": -3,
    "DT_INT64": -3,
    "DT_UINT8": 3,
    "DT_UINT16": 3,
    "DT_UINT32": 3,
    "DT_UINT64": 3,
    "DT_BOOL": True,
    "DT_STRING": "ab",
    "DT_COMPLEX64": 1.5,
    "DT_COMPLEX128": 1.5,
}


def build(dtype: int, dims: tuple[int, ...], inputs: Inputs | None = None) -> messages.TensorProto:
    told = metadata(serving_default=signature(dtype, dims))
    request = build_request("m", 3, "serving_default", told, inputs)
    assert request.model_spec.name == "m"
    assert request.model_spec.version.value == 3
    return request.inputs["x"]


def read(tmp_path: Path, value: Any) -> Inputs:
    path = tmp_path / "inputs.json"
    path.write_text(json.dumps(value))
    return Inputs.read(path)


@pytest.mark.parametrize("name", TYPES)
def test_zeros_and_values_of_every_type_as_numpy_reads_them(name: str, tmp_path: Path) -> None:
    dtype = getattr(messages, name)
    zeros = tensors.to_array(build(dtype, (-1, 2, 3)))
    assert zeros.shape == (1, 2, 3)
    assert all(value in {0, b""} for value in zeros.ravel().tolist())
    value = TYPES[name]
    given = tensors.to_array(build(dtype, (-1, 2), read(tmp_path, {"x": [[value, value]]})))
    assert given.shape == (1, 2)
    assert given.ravel().tolist() == [b"ab" if value == "ab" else value] * 2


def test_scalars_unknown_ranks_and_bfloat16(tmp_path: Path) -> None:
    assert tensors.to_array(build(messages.DT_FLOAT, ())).shape == ()
    unknown = signature(messages.DT_FLOAT, ())
    unknown.inputs["x"].tensor_shape.unknown_rank = True
    told = metadata(serving_default=unknown)
    request = build_request("m", 1, "serving_default", told, None)
    assert tensors.to_array(request.inputs["x"]).shape == (1,)
    half = build(messages.DT_BFLOAT16, (1,), read(tmp_path, {"x": [1.0]}))
    # The upper half of float32 1.0, 0x3F800000.
    assert list(half.half_val) == [0x3F80]
    bits = np.array([0x3F80 << 16], np.uint32).view(np.float32)
    assert bits[0] == 1.0


def test_bytes_are_base64_as_in_the_rest_api(tmp_path: Path) -> None:
    proto = build(messages.DT_STRING, (1,), read(tmp_path, {"x": [{"b64": "AAE="}]}))
    assert list(proto.string_val) == [b"\0\1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("{}", "is not a JSON object"),
        ('{"x": [[1], [1, 2]]}', "rows of different shapes"),
        ('{"x": [[1], 2]}', "rows of different shapes"),
        ('{"x": null}', "null is not a value"),
        ('{"x": {"a": 1}}', "is not a value"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "inputs.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        Inputs.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "value", "said"),
    [
        (messages.DT_FLOAT, "ab", 'DT_FLOAT: "ab" is not a number'),
        (messages.DT_INT32, 1.5, "1.5 is not a whole number"),
        (messages.DT_INT32, 1 << 40, "DT_INT32: "),
        (messages.DT_HALF, 1e9, "DT_HALF: "),
        (messages.DT_BOOL, 1, "1 is not true or false"),
        (messages.DT_FLOAT, True, "true is not a number"),
        (messages.DT_STRING, 1, "1 is not a text"),
        (messages.DT_STRING, {"b64": "?"}, "not base64"),
        (messages.DT_STRING, {"b64": 1}, "not base64"),
    ],
)
def test_a_value_that_does_not_fit(dtype: int, value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ProbeError) as caught:
        build(dtype, (1,), read(tmp_path, {"x": [value]}))
    assert said in str(caught.value)
    assert "--inputs" in str(caught.value)


def test_other_inputs_than_the_signature_s_and_types_without_values(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"correct \['x', 'y'\]"):
        build(messages.DT_FLOAT, (1,), read(tmp_path, {"y": [1]}))
    with pytest.raises(ProbeError, match="is DT_RESOURCE, which no request can carry"):
        build(messages.DT_RESOURCE, (1,))
    with pytest.raises(ProbeError, match=r"no signature 'a', only \['serving_default'\]"):
        build_request("m", 1, "a", metadata(serving_default=signature()), None)
