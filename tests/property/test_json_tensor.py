"""JSON in and out of tensors for any value, and the exact parser against the standard library's."""

import json
import math
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.protocol import messages, tensors
from serving.protocol.status import Code, ServingError
from serving.server import json_tensor, rapidjson
from serving.server.json_tensor import Document, Format

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)
NUMBERS = {
    messages.DT_FLOAT: np.float32,
    messages.DT_DOUBLE: np.float64,
    messages.DT_INT8: np.int8,
    messages.DT_INT16: np.int16,
    messages.DT_INT32: np.int32,
    messages.DT_INT64: np.int64,
    messages.DT_UINT8: np.uint8,
    messages.DT_UINT32: np.uint32,
    messages.DT_UINT64: np.uint64,
    messages.DT_BOOL: np.bool_,
}


def reference(value, *, single):
    """WriteDecimal of json_tensor.cc, a step at a time; float32 is read by way of its bits."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:g}"
    read = float(text)
    if single:
        read = struct.unpack("f", struct.pack("f", read))[0]
    if read != value:
        text = f"{value:.{9 if single else 17}g}"
    return text if "." in text or "e" in text else text + ".0"


@settings(max_examples=150)
@given(
    st.sampled_from([np.float32, np.float64]).flatmap(
        lambda dtype: hnp.arrays(dtype, st.integers(0, 60))
    )
)
def test_decimals_are_the_reference(array):
    single = array.dtype == np.float32
    expected = [reference(value, single=single) for value in array.tolist()]
    assert rapidjson.decimals(array) == expected
    assert [rapidjson.decimal(value, single=single) for value in array.tolist()] == expected


@settings(max_examples=120)
@given(
    st.lists(
        st.tuples(st.integers(-999_999, 999_999), st.integers(-44, 32)), min_size=16, max_size=64
    )
)
def test_decimals_of_short_numbers_are_the_reference(pairs):
    """Numbers of up to six digits, which read back, and their neighbours, which may not."""
    array = np.array([float(f"{digits}e{power}") for digits, power in pairs], np.float32)
    array = np.concatenate([array, np.nextafter(array, np.float32(np.inf))])
    expected = [reference(value, single=True) for value in array.tolist()]
    assert rapidjson.decimals(array) == expected
    assert [rapidjson.decimal(value) for value in array.tolist()] == expected


@st.composite
def number_arrays(draw):
    number = draw(st.sampled_from(sorted(NUMBERS)))
    elements = {}
    if number in (messages.DT_FLOAT, messages.DT_DOUBLE):
        elements = {"elements": {"allow_nan": False}}
    return number, draw(hnp.arrays(NUMBERS[number], SHAPES, **elements))


@settings(max_examples=150)
@given(number_arrays(), st.sampled_from(Format))
def test_numbers_survive_the_round_trip(case, layout):
    number, array = case
    request = messages.PredictRequest()
    body = json.dumps({layout.value: array.tolist()}).encode()
    assert json_tensor.fill_predict(request, Document(body), {"x": number}) is layout
    np.testing.assert_array_equal(tensors.to_array(request.inputs["x"]), array)
    reply = json.loads(json_tensor.predict_body(request.inputs, layout))
    (values,) = reply.values()
    np.testing.assert_array_equal(np.array(values, array.dtype), array)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=4)),
    hnp.arrays(np.int64, st.integers(1, 4)),
    st.lists(st.binary(max_size=8), min_size=4, max_size=4),
)
def test_several_outputs_are_one_json_document(floats, integers, texts):
    rows = min(len(floats), len(integers))
    outputs = {
        "f": tensors.to_proto(floats[:rows]),
        "i": tensors.to_proto(integers[:rows]),
        "s_bytes": tensors.to_proto(np.array(texts[:rows], object)),
    }
    by_row = json.loads(json_tensor.predict_body(outputs, Format.ROW))["predictions"]
    by_column = json.loads(json_tensor.predict_body(outputs, Format.COLUMNAR))["outputs"]
    assert [row["i"] for row in by_row] == by_column["i"]
    assert [row["s_bytes"] for row in by_row] == by_column["s_bytes"]
    np.testing.assert_array_equal([row["f"] for row in by_row], by_column["f"])


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=120)
@given(JSON_VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_both_parsers_read_the_same(value, ascii_only, indent):
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert rapidjson.exact_loads(body) == value
    assert rapidjson.loads(body) == value
    if isinstance(value, dict | list):
        assert rapidjson.exact_loads(body + b"[trailing") == value
        assert rapidjson.loads(body + b"[trailing") == value


INPUTS = {"x": messages.DT_FLOAT, "y": messages.DT_STRING}
ALPHABET = st.sampled_from(
    [
        *'{}[],:" \n',
        '"instances"',
        '"inputs"',
        '"x":',
        '"y":',
        '"b64"',
        "1",
        "-",
        "0.5e",
        "e9",
        "NaN",
        "Inf",
        "null",
        "true",
        '"\\u',
        "d83d",
        "\0",
        "\x7fé",
    ]
)


@settings(max_examples=250)
@given(
    st.lists(ALPHABET, max_size=40).map("".join).map(str.encode) | st.binary(max_size=60),
    st.sampled_from([{"x": messages.DT_FLOAT}, {"y": messages.DT_STRING}, INPUTS]),
)
def test_any_bytes_get_a_request_or_a_clear_error(body, inputs):
    request = messages.PredictRequest()
    for fill in (
        lambda: json_tensor.fill_predict(request, Document(body), inputs),
        lambda: json_tensor.fill_examples(messages.RegressionRequest(), Document(body)),
    ):
        error = error_of(fill)
        if error is not None:
            assert error.code == Code.INVALID_ARGUMENT
            assert error.message
            json.loads(json_tensor.error_body(error.message).decode("utf-8", "replace"))
    for proto in request.inputs.values():
        tensors.to_array(proto)


def error_of(call):
    try:
        call()
    except ServingError as error:
        return error
    return None


@settings(max_examples=120)
@given(JSON_VALUES)
def test_debug_text_is_json_or_cut(value):
    text = rapidjson.debug_string(value)
    if len(rapidjson.encode(text)) < rapidjson.DEBUG_LIMIT and "inf" not in repr(value):
        assert json.loads(text) == value
