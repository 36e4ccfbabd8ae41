"""REST bodies against TFS's json_tensor.cc: what it takes, what it says, what it writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from serving.protocol import messages, tensors
from serving.protocol.status import Code, ServingError
from serving.server import json_tensor, rapidjson
from serving.server.json_tensor import Document, Format

GOLDEN = Path(__file__).parent / "golden"
FLOAT, DOUBLE, INT32, INT64 = (
    messages.DT_FLOAT,
    messages.DT_DOUBLE,
    messages.DT_INT32,
    messages.DT_INT64,
)
STRING, BOOL, UINT8 = messages.DT_STRING, messages.DT_BOOL, messages.DT_UINT8


def fill(body, **inputs):
    """The layout and the tensors of a body, or the error that it gets."""
    body = body if isinstance(body, bytes) else body.encode()
    request = messages.PredictRequest()
    try:
        document = Document(body)
        document.signature_name()
        layout = json_tensor.fill_predict(request, document, inputs)
    except ServingError as error:
        return error.code, error.message
    arrays = {}
    for name, proto in request.inputs.items():
        arrays[name] = tensors.to_array(proto)
        assert proto.dtype == inputs[name]
    return layout, {name: array.tolist() for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("body", "inputs", "layout", "expected"),
    [
        ('{"instances": [[240.0]]}', {"x": FLOAT}, Format.ROW, {"x": [[240.0]]}),
        ('{"instances": [240, 1.5]}', {"x": FLOAT}, Format.ROW, {"x": [240.0, 1.5]}),
        ('{"instances":[{"x":[240.0]}]}', {"x": FLOAT}, Format.ROW, {"x": [[240.0]]}),
        ('{"inputs":{"x":[[240.0]]}}', {"x": FLOAT}, Format.COLUMNAR, {"x": [[240.0]]}),
        ('{"inputs": [[240.0]]}', {"x": FLOAT}, Format.COLUMNAR, {"x": [[240.0]]}),
        ('{"inputs": 3}', {"x": INT32}, Format.COLUMNAR, {"x": 3}),
        ('{"inputs": []}', {"x": INT32}, Format.COLUMNAR, {"x": []}),
        ('{"instances": [[], []]}', {"x": FLOAT}, Format.ROW, {"x": [[], []]}),
        (
            '{"instances": [{"x":1,"y":"a"},{"y":"b","x":2}]}',
            {"x": INT32, "y": STRING},
            Format.ROW,
            {"x": [1, 2], "y": [b"a", b"b"]},
        ),
        (
            '{"instances": [{"x":[1,2],"y":0.5},{"y":1,"x":[3,4]}]}',
            {"x": INT64, "y": FLOAT},
            Format.ROW,
            {"x": [[1, 2], [3, 4]], "y": [0.5, 1.0]},
        ),
        (
            '{"instances": [{"b64":"aGVsbG8="},{"b64":"d29ybGQ"}]}',
            {"x": STRING},
            Format.ROW,
            {"x": [b"hello", b"world"]},
        ),
        (
            '{"instances": [[{"b64":"aGVs\\nbG8="}],["plain"]]}',
            {"x": STRING},
            Format.ROW,
            {"x": [[b"hello"], [b"plain"]]},
        ),
        ('{"inputs": {"b64":"/w=="}}', {"x": STRING}, Format.COLUMNAR, {"x": b"\xff"}),
        ('{"instances": [true, false]}', {"x": BOOL}, Format.ROW, {"x": [True, False]}),
        ('{"instances": [300, -1]}', {"x": UINT8}, Format.ROW, {"x": [44, 255]}),
        (
            '{"instances": [-9223372036854775808, 9223372036854775807]}',
            {"x": INT64},
            Format.ROW,
            {"x": [-(2**63), 2**63 - 1]},
        ),
        (
            '{"instances": [18446744073709551615, 0]}',
            {"x": messages.DT_UINT64},
            Format.ROW,
            {"x": [2**64 - 1, 0]},
        ),
        # What only TFS takes: a trailing something, bare infinities, overflow to infinity.
        ('{"instances": [1.0]} and more', {"x": FLOAT}, Format.ROW, {"x": [1.0]}),
        (
            '{"instances": [Infinity, -Infinity, Inf, 1e39, -1e39]}',
            {"x": FLOAT},
            Format.ROW,
            {"x": [np.inf, -np.inf, np.inf, np.inf, -np.inf]},
        ),
        ('{"instances": [9e308]}', {"x": DOUBLE}, Format.ROW, {"x": [np.inf]}),
        (
            '{"instances": [1180591620717411303424, 1]}',
            {"x": DOUBLE},
            Format.ROW,
            {"x": [2.0**70, 1.0]},
        ),
        ('{"instances": ["tr\\u00fce"]}', {"x": STRING}, Format.ROW, {"x": ["trüe".encode()]}),
        (b'\xef\xbb\xbf{"instances": [1]}', {"x": INT32}, Format.ROW, {"x": [1]}),
        (b'{"instances": ["\xff"]}', {"x": STRING}, Format.ROW, {"x": [b"\xff"]}),
        (
            '{"instances": ["\\ud83d\\ude00", "\\udc00"]}',
            {"x": STRING},
            Format.ROW,
            {"x": ["😀".encode(), b"\xed\xb0\x80"]},
        ),
        # The first of two members of a name counts.
        ('{"instances": [1], "instances": [2]}', {"x": INT32}, Format.ROW, {"x": [1]}),
        ('{"note": "true", "instances": [1]}', {"x": FLOAT}, Format.ROW, {"x": [1.0]}),
    ],
)
def test_predict_bodies(body, inputs, layout, expected):
    assert fill(body, **inputs) == (layout, expected)


def test_nan_is_a_number():
    layout, arrays = fill('{"instances": [NaN, -NaN]}', x=FLOAT)
    assert layout is Format.ROW
    assert np.isnan(arrays["x"]).all()


INVALID, UNIMPLEMENTED = Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED
ELEMENT = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: {}"


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        ("", {"x": FLOAT}, "JSON Parse error: The document is empty"),
        (" ", {"x": FLOAT}, "JSON Parse error: The document is empty. at offset: 1"),
        ("instances = [1]", {"x": FLOAT}, "JSON Parse error: Invalid value. at offset: 0"),
        ("[1]", {"x": FLOAT}, "JSON Value: [1] Is not object"),
        ("{}", {"x": FLOAT}, "Missing 'inputs' or 'instances' key"),
        ('{"inputs": 1}', {}, "Failed to get input map for signature: DEFAULT"),
        (
            '{"signature_name": 5}',
            {"x": FLOAT},
            'JSON Value: {\n    "signature_name": 5\n} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
        (
            '{"instances": 1, "inputs": 2}',
            {"x": FLOAT},
            'JSON Value: {\n    "instances": 1,\n    "inputs": 2\n} Not formatted correctly '
            "expecting only one of 'inputs' or 'instances' keys to exist ",
        ),
        (
            '{"instances": 1}',
            {"x": FLOAT},
            "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
        ),
        (
            '{"instances": []}',
            {"x": FLOAT},
            "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array",
        ),
        ('{"inputs": {"y":1}}', {"x": FLOAT}, "Missing named input: x in 'inputs' object."),
        (
            '{"instances": ["a"]}',
            {"x": FLOAT},
            ELEMENT.format(0, 'JSON Value: "a" Type: String is not of expected type: float'),
        ),
        (
            '{"instances": [1, true]}',
            {"x": FLOAT},
            ELEMENT.format(1, "JSON Value: true Type: True is not of expected type: float"),
        ),
        (
            '{"instances": [[1, null]]}',
            {"x": FLOAT},
            ELEMENT.format(0, "JSON Value: null Type: Null is not of expected type: float"),
        ),
        (
            '{"inputs": ["1.5"]}',
            {"x": FLOAT},
            'JSON Value: "1.5" Type: String is not of expected type: float',
        ),
        (
            '{"inputs": [1.5]}',
            {"x": INT32},
            "JSON Value: 1.5 Type: Number is not of expected type: int32",
        ),
        (
            '{"inputs": [2147483648]}',
            {"x": INT32},
            "JSON Value: 2147483648 Type: Number is not of expected type: int32",
        ),
        (
            '{"inputs": [-1]}',
            {"x": messages.DT_UINT32},
            "JSON Value: -1 Type: Number is not of expected type: uint32",
        ),
        (
            '{"inputs": [1e3]}',
            {"x": INT64},
            "JSON Value: 1000.0 Type: Number is not of expected type: int64",
        ),
        (
            '{"inputs": [18446744073709551616]}',
            {"x": messages.DT_UINT64},
            "JSON Value: 18446744073709552000.0 Type: Number is not of expected type: uint64",
        ),
        (
            '{"inputs": [1]}',
            {"x": BOOL},
            "JSON Value: 1 Type: Number is not of expected type: bool",
        ),
        (
            '{"instances": [[1,2],[3,4],[5,6,7]]}',
            {"x": INT32},
            ELEMENT.format(2, "Expecting tensor size: 2 but got: 3"),
        ),
        (
            '{"instances": [[1,2],[3,4],[[5,6]]]}',
            {"x": INT32},
            ELEMENT.format(2, "Expecting shape [2] but got: [1,2]"),
        ),
        (
            '{"instances": [1, [1]]}',
            {"x": INT32},
            ELEMENT.format(1, "Expecting shape [] but got: [1]"),
        ),
        (
            '{"inputs": [[1],[2,3]]}',
            {"x": FLOAT},
            "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
        ),
        (
            '{"inputs": [1,[2]]}',
            {"x": FLOAT},
            "Encountered list at unexpected level: 1 expected < 1",
        ),
        (
            '{"inputs": [[1],2]}',
            {"x": FLOAT},
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            '{"inputs": {"x": {"y": 1}}}',
            {"x": FLOAT},
            'JSON Value: {\n    "y": 1\n} Type: Object is not of expected type: float',
        ),
        (
            '{"inputs": {"x": {"y": 1}}}',
            {"x": STRING},
            'JSON Value: {\n    "y": 1\n} not formatted correctly for base64 data',
        ),
        ('{"inputs": {"b64": "a"}}', {"x": STRING}, "Unable to base64 decode"),
        ('{"inputs": {"b64": "aGVsbG8==="}}', {"x": STRING}, "Unable to base64 decode"),
        ('{"inputs": {"b64": "a-_a"}}', {"x": STRING}, "Unable to base64 decode"),
        (
            '{"instances": [1]}',
            {"x": INT32, "y": INT32},
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map",
        ),
        (
            '{"inputs": [1]}',
            {"x": INT32, "y": INT32},
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            "required as per tensorinfo_map",
        ),
        (
            '{"instances": [{"x":1,"y":1},[1]]}',
            {"x": INT32, "y": INT32},
            "Expecting object but got list at item 1 of input list",
        ),
        (
            '{"instances": [1,{"x":1}]}',
            {"x": INT32},
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            '{"instances": [{"x":1,"z":1}]}',
            {"x": INT32, "y": INT32},
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: z",
        ),
        (
            '{"instances": [{"x":1,"y":1},{"x":1}]}',
            {"x": INT32, "y": INT32},
            "Failed to process element: 1 of 'instances' list. JSON object: {\n"
            '    "x": 1\n} keys must be equal to: x,y',
        ),
        (
            '{"instances": [1e999]}',
            {"x": FLOAT},
            "JSON Parse error: Number too big to be stored in double. at offset: 15",
        ),
    ],
)
def test_predict_errors_in_tfs_words(body, inputs, message):
    assert fill(body, **inputs) == (INVALID, message)


def test_types_that_json_does_not_carry():
    text = "Conversion of JSON Value: 1 to type: half"
    half = messages.DT_HALF
    assert fill('{"inputs": [1]}', x=half) == (UNIMPLEMENTED, text)
    assert fill('{"instances": [1]}', x=half) == (
        INVALID,
        f"Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: {text}",
    )


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"a":[1,2}', "Missing a comma or ']' after an array element. at offset: 9"),
        (b'{"a":1,}', "Missing a name for object member. at offset: 7"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at offset: 5"),
        (b'{"a":1 "b"}', "Missing a comma or '}' after an object member. at offset: 7"),
        (b"[1,]", "Invalid value. at offset: 3"),
        (b"]", "The document is empty. at offset: 0"),
        (b'{"a":nul}', "Invalid value. at offset: 8"),
        (b'{"a":-}', "Invalid value. at offset: 6"),
        (b'{"a":Infinit}', "Invalid value. at offset: 12"),
        (b'{"a":1.}', "Miss fraction part in number. at offset: 7"),
        (b'{"a":1e}', "Miss exponent in number. at offset: 7"),
        (b'{"a":' + b"9" * 400 + b"}", None),
        (b'{"a":01}', "Missing a comma or '}' after an object member. at offset: 6"),
        (b'{"a":"\x01"}', "Invalid escape character in string. at offset: 6"),
        (b'{"a":"\\x"}', "Invalid escape character in string. at offset: 6"),
        (b'{"a":"\\u12"}', "Incorrect hex digit after \\u escape in string. at offset: 6"),
        (b'{"a":"\\ud83d"}', "The surrogate pair in string is invalid. at offset: 6"),
        (b'{"a":"b', "Missing a closing quotation mark in string. at offset: 7"),
        (b'{"a":"b\0"}', "Missing a closing quotation mark in string. at offset: 7"),
        (b'{"a":1\0}', "Missing a comma or '}' after an object member. at offset: 6"),
    ],
)
def test_parse_errors_are_rapidjsons(body, error):
    if error is None:
        # The standard library reads it; it only fails where a tensor needs it.
        error = "Number too big to be stored in double. at offset: 5"
        with pytest.raises(rapidjson.JsonError, match=r"Number too big"):
            rapidjson.exact_loads(body)
        return
    with pytest.raises(rapidjson.JsonError) as caught:
        rapidjson.loads(body)
    assert str(caught.value) == error


def test_a_hundred_thousand_levels():
    """TFS's DeeplyNestedWellFormed and DeeplyNestedMalformed."""
    deep = "[" * 100_000 + "]" * 100_000
    assert fill(f'{{"instances":[1], "nested":{deep}}}', x=INT32) == (Format.ROW, {"x": [1]})
    code, message = fill(f'{{"signature_name":{deep}}}', x=INT32)
    assert code == INVALID
    assert message.endswith("'signature_name' key must be a string value.")
    assert len(message) < 400
    # As a tensor it has more dimensions than TensorFlow knows.
    assert fill(f'{{"inputs":{deep}}}', x=INT32) == (INVALID, "tensor parsing error: x")


def test_debug_text_stops_after_256_bytes():
    code, message = fill(json.dumps({"instances": ["é" * 50] * 20}), x=INT32)
    assert code == INVALID
    _, message = fill(json.dumps({"instances": 1, "x": list(range(500))}), x=INT32)
    text = message.removeprefix("JSON Value: ").removesuffix(
        " Expecting 'instances' to be an list/array"
    )
    assert 256 <= len(text) < 262
    assert not text.endswith("]")


def test_long_strings_in_a_number_tensor_cost_no_memory():
    """np.array would make room for the longest string times the length of the list."""
    body = b'{"instances": [' + b"1," * 100_000 + b'"' + b"x" * 100_000 + b'"]}'
    code, message = fill(body, x=FLOAT)
    assert code == INVALID
    assert "Type: String is not of expected type: float" in message


@pytest.mark.parametrize("rows", [1, 20_000])
def test_large_documents_are_read_row_by_row(rows, monkeypatch):
    monkeypatch.setattr(rapidjson, "ROWWISE", 10)
    values = [[index / 3, index, 1e-7] for index in range(rows)]
    assert fill(json.dumps({"signature_name": "s", "instances": values}), x=DOUBLE) == (
        Format.ROW,
        {"x": values},
    )
    spaced = json.dumps({"inputs": {"y": [1, 2], "x": values}, "z": {}}, indent=2)
    assert fill(spaced, x=DOUBLE, y=INT32)[1]["x"] == values
    for body in ('{"instances": [1, 2,]}', '{"instances": [1 2]}', '{"instances": [1', "{1}"):
        assert fill(body, x=FLOAT)[0] == INVALID


# Out.


def reply(layout, **outputs):
    protos = {name: tensors.to_proto(np.asarray(value)) for name, value in outputs.items()}
    return json_tensor.predict_body(protos, layout).decode()


def f32(value):
    return np.array(value, np.float32)


def strings(*values):
    return np.array(values, object)


def test_layouts_are_rapidjsons_pretty_writer():
    one = {"p": f32([[0.1, 0.2], [1, 3e-05]])}
    bare = {"p": f32([2.5, 3, 4.5])}
    several = {
        "label": strings(b"a", b"\xc3\xa9"),
        "image_bytes": strings(b"hello", b"tf"),
        "score": f32([[0.5], [1]]),
    }
    deep = {"p": np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], np.int32)}
    only_bytes = {"p_bytes": np.array([[b"hello", b"world"], [b"tf", b"serving"]], object)}
    parts = []
    for outputs in (one, bare, several, deep, only_bytes):
        for layout in Format:
            body = reply(layout, **outputs)
            parts.append(body)
            parsed = json.loads(body)
            assert list(parsed) == ["predictions" if layout is Format.ROW else "outputs"]
    assert "\n\n".join(parts) + "\n" == (GOLDEN / "predict_replies.txt").read_text()


def test_row_reply_as_seen_on_a_real_server():
    assert reply(Format.ROW, y=f32([2.5, 3, 4.5])) == (
        '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
    )


def test_empty_batch():
    assert reply(Format.ROW, y=np.zeros((0, 2), np.int32)) == '{\n    "predictions": []\n}'
    assert reply(Format.ROW, a=f32(np.zeros((0, 3))), b=np.zeros((0, 1), np.int32)) == (
        '{\n    "predictions": []\n}'
    )
    assert reply(Format.COLUMNAR, y=np.zeros((0, 2), np.int32)) == '{\n    "outputs": []\n}'
    assert reply(Format.ROW, y=f32(np.zeros((2, 0)))) == ('{\n    "predictions": [[], []\n    ]\n}')


def test_numbers_as_tfs_writes_them():
    # tensorflow_serving/util/json_tensor_test.cc, and g3doc/api_rest.md.
    values = [9000000, 999999, 0.5, 0.0003, 0.00003, 555557.5, 0.1, 1 / 3, -0.0, 1e-45, 16777217]
    expected = (
        "9e+06, 999999.0, 0.5, 0.0003, 3e-05, 555557.5, 0.1, 0.333333343, -0.0, 1.4013e-45, "
        "16777216.0"
    )
    assert ", ".join(rapidjson.decimals(f32(values))) == expected
    assert ", ".join(rapidjson.decimal(float(np.float32(v))) for v in values) == expected
    assert rapidjson.decimals(f32([np.nan, np.inf, -np.inf, 3])) == [
        "NaN",
        "Infinity",
        "-Infinity",
        "3.0",
    ]
    assert rapidjson.decimals(np.array([1 / 3, 0.1, 2])) == ["0.33333333333333331", "0.1", "2.0"]
    assert rapidjson.decimal(1 / 3, single=False) == "0.33333333333333331"
    top = np.finfo(np.float32).max
    assert rapidjson.decimals(np.full(40, top)) == ["3.40282347e+38"] * 40


def test_other_types_out():
    assert json.loads(reply(Format.ROW, y=np.array([True, False]))) == {
        "predictions": [True, False]
    }
    assert json.loads(reply(Format.ROW, y=np.array([2**63 - 1], np.int64))) == {
        "predictions": [2**63 - 1]
    }
    assert json.loads(reply(Format.ROW, y=np.array([2**64 - 1], np.uint64))) == {
        "predictions": [2**64 - 1]
    }
    assert reply(Format.ROW, y=strings(b'a"\\/\n\x1f\x7f')) == (
        '{\n    "predictions": ["a\\"\\\\/\\n\\u001F\x7f"\n    ]\n}'
    )


def test_bytes_that_are_no_text_go_out_as_they_are():
    protos = {"y": tensors.to_proto(strings(b"\xff\xfe"))}
    assert b'"\xff\xfe"' in json_tensor.predict_body(protos, Format.ROW)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": f32(1)}, "Tensor name: y has no shape information "),
        (
            {"a": f32([1]), "b": f32([1, 2])},
            "Tensor name: b has inconsistent batch size: 2 expecting: 1",
        ),
        (
            {"y": np.array([1 + 1j], np.complex64)},
            "Failed to write JSON value for tensor type: complex64",
        ),
        (
            {"y": np.array([1], np.float16)},
            "Failed to write JSON value for tensor type: half",
        ),
    ],
)
def test_outputs_that_json_does_not_carry(outputs, message):
    with pytest.raises(ServingError) as caught:
        reply(Format.ROW, **outputs)
    assert caught.value.code == INVALID
    assert caught.value.message == message


def test_content_and_typed_fields_give_the_same_reply():
    array = f32(np.arange(60).reshape(20, 3) / 7)
    typed = {"y": tensors.to_proto(array)}
    packed = {"y": tensors.to_proto(array, as_content=True)}
    for layout in Format:
        assert json_tensor.predict_body(typed, layout) == json_tensor.predict_body(packed, layout)


# Classify and regress.


def example(body):
    request = messages.ClassificationRequest()
    json_tensor.fill_examples(request, Document(json.dumps(body).encode()))
    return request


def test_examples_and_context():
    request = example(
        {
            "signature_name": "custom",
            "context": {"query": "pizza", "location": ["sfo"]},
            "examples": [
                {"names": ["foo", {"b64": "aGVsbG8="}], "ratings": [8.0, 9.5], "age": 20},
                {"intboolmix": [1, True, False], "none": []},
                {},
            ],
        }
    )
    assert request.model_spec.signature_name == "custom"
    context = request.input.example_list_with_context.context.features.feature
    assert list(context["query"].bytes_list.value) == [b"pizza"]
    assert list(context["location"].bytes_list.value) == [b"sfo"]
    first, second, third = request.input.example_list_with_context.examples
    features = first.features.feature
    assert list(features["names"].bytes_list.value) == [b"foo", b"hello"]
    assert list(features["ratings"].float_list.value) == [8.0, 9.5]
    assert list(features["age"].int64_list.value) == [20]
    assert list(second.features.feature["intboolmix"].int64_list.value) == [1, 1, 0]
    assert second.features.feature["none"].WhichOneof("kind") is None
    assert not third.features.feature


def test_examples_without_context():
    request = example({"examples": [{"x": 1}]})
    assert request.input.WhichOneof("kind") == "example_list"
    assert len(request.input.example_list.examples) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {},
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        (
            {"examples": 1},
            "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array",
        ),
        (
            {"examples": []},
            "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
        ),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"context": [], "examples": [{}]}, "Example must be JSON object but got JSON Array"),
        (
            {"examples": [{"x": None}]},
            "Feature: x has element with unexpected JSON type: Null",
        ),
        (
            {"examples": [{"x": [[1]]}]},
            "Feature: x has element with unexpected JSON type: Array",
        ),
        (
            {"examples": [{"x": {"y": 1}}]},
            "Feature: x has element with unexpected JSON type: Object",
        ),
        (
            {"examples": [{"x": [1, 2.5]}]},
            "Unexpected element type in feature: x expecting type: int64",
        ),
        (
            {"examples": [{"x": ["a", 2.5]}]},
            "Unexpected element type in feature: x expecting type: bytes",
        ),
        (
            {"examples": [{"x": 2**63}]},
            "Feature: x has uint64_t element. Only int64_t is supported.",
        ),
        ({"examples": [{"x": {"b64": "*"}}]}, "Unable to base64 decode"),
    ],
)
def test_example_errors_in_tfs_words(body, message):
    with pytest.raises(ServingError) as caught:
        example(body)
    assert (caught.value.code, caught.value.message) == (INVALID, message)


def test_classification_and_regression_replies():
    result = messages.ClassificationResult()
    for scores in ((0.25, 0.75), (1, 0)):
        classes = result.classifications.add().classes
        classes.add(label="low", score=scores[0])
        classes.add(label="high", score=scores[1])
    assert json_tensor.classification_body(result).decode() == (
        '{\n    "results": [[["low", 0.25], ["high", 0.75]], [["low", 1.0], ["high", 0.0]]\n'
        "    ]\n}"
    )
    regression = messages.RegressionResult()
    regression.regressions.add(value=42)
    regression.regressions.add(value=0.1)
    assert json_tensor.regression_body(regression).decode() == ('{\n    "results": [42.0, 0.1]\n}')
    for body, empty in (
        (json_tensor.classification_body, messages.ClassificationResult()),
        (json_tensor.regression_body, messages.RegressionResult()),
    ):
        with pytest.raises(ServingError, match="Cannot convert empty"):
            body(empty)


def test_error_body():
    assert json_tensor.error_body('no "x"\n').decode() == '{\n    "error": "no \\"x\\"\\n"\n}'
