"""Lengths and CSV files as people write them; arrays through a client and back."""

import csv
import io
import json
import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.client import Client, wire
from serving.client.lengths import (
    COLUMNS,
    FLOAT32_MAX,
    outside_measured,
    parse_length,
    read_csv,
)
from serving.client.rest import from_json, to_json
from serving.client.results import TensorSpec
from serving.errors import ChopstickError
from serving.protocol import messages, tensors
from tests.unit.client.sockets import predictor


def outcome(function, *arguments, **named):
    """What a function returns, and None; or None, and the error that it may raise."""
    try:
        return function(*arguments, **named), None
    except ChopstickError as error:
        return None, error


LENGTHS = st.floats(1e-30, FLOAT32_MAX, allow_nan=False)
DTYPES = list(tensors.DTYPES.items())


@given(LENGTHS, st.sampled_from(["{}", " {} ", "+{}", "{}\r"]))
def test_a_positive_finite_number_is_a_length(value, form):
    assert parse_length(form.format(value)) == value


@given(st.text(max_size=80))
def test_any_text_is_a_length_or_an_error_that_shows_it(text):
    value, error = outcome(parse_length, text, "file.csv, line 3")
    if error:
        assert error.message.startswith("file.csv, line 3: '")
        assert text[:50] in error.message
        assert error.remedy
    else:
        assert 0 < value < math.inf
        assert 0 < np.float32(value) < np.inf


@pytest.mark.parametrize(
    "text",
    [
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "-0.0",
        "1e-50",
        "1e39",
        "",
        " ",
        "1_0",
        "1,5",
        "0x10",
        "240mm",
    ],
)
def test_what_is_no_length(text):
    with pytest.raises(ChopstickError, match="is not a"):
        parse_length(text)


@given(
    st.lists(LENGTHS, min_size=1, max_size=20),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from(["", "\ufeff"]),
    st.sampled_from(["", "\n", "\n\n \n"]),
)
def test_one_length_a_line(values, newline, header, mark, tail):
    lines = (["Length"] if header else []) + [repr(value) for value in values]
    data = (mark + newline.join(lines) + tail).encode()
    assert read_csv(data, "x.csv") == values


@given(
    st.lists(st.tuples(LENGTHS, st.text(max_size=8)), min_size=1, max_size=10),
    st.sampled_from(COLUMNS),
    st.booleans(),
)
def test_the_column_length_of_a_table(rows, column, first):
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow([column, "note"] if first else ["note", column])
    for value, note in rows:
        writer.writerow([value, note] if first else [note, value])
    assert read_csv(file.getvalue().encode(), "x.csv") == [value for value, _ in rows]


@given(st.binary(max_size=99) | st.text('length0123.,;e-"\n\r\0', max_size=40).map(str.encode))
def test_any_bytes_are_lengths_or_an_error_that_names_the_file(data):
    lengths, error = outcome(read_csv, data, "some.csv")
    if error:
        assert "some.csv" in error.message
        assert error.remedy
    else:
        assert lengths
        assert all(0 < value < math.inf for value in lengths)


@given(st.lists(LENGTHS, max_size=5), st.lists(LENGTHS, max_size=5))
def test_text_in_a_number_column_names_file_line_and_value(before, after):
    lines = [*map(repr, before), "two hundred", *map(repr, after)]
    data = "\n".join(["length", *lines]).encode()
    where = rf"some\.csv, line {len(before) + 2}: 'two hundred' is not a number"
    with pytest.raises(ChopstickError, match=where):
        read_csv(data, "some.csv")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no lengths"),
        (b"\n \n", "no lengths"),
        (b"length\n", "header and no lengths"),
        (b"a,b\n1,2\n", "none is named 'length'"),
        (b"length,b\n1,2\n3\n", "line 3: 1 columns instead of 2"),
        (b"\xff\xfe1\x000\x00", "not UTF-8"),
        (b'length\n"1', "line 2"),
    ],
)
def test_what_is_no_csv_of_lengths(data, what):
    with pytest.raises(ChopstickError, match=what):
        read_csv(data, "x.csv")


@given(st.lists(LENGTHS))
def test_only_lengths_from_180_to_330_are_measured(values):
    outside = outside_measured(values)
    assert all(value < 180 or value > 330 for value in outside)
    assert len(outside) == sum(not 180 <= value <= 330 for value in values)


def arrays(number, dtype):
    shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=4)
    if number == messages.DT_STRING:
        return hnp.arrays(object, shapes, elements=st.binary(max_size=5), fill=st.nothing())
    return hnp.arrays(dtype, shapes)


@pytest.fixture(scope="module")
def echo():
    """A client of a server that gives every input back as an output."""

    def predict(request, _):
        response = messages.PredictResponse(model_spec=request.model_spec)
        for name, proto in request.inputs.items():
            # The server's own way: typed fields of the decoded array.
            response.outputs[name].CopyFrom(tensors.to_proto(tensors.to_array(proto)))
        return response

    with predictor(predict) as target, Client(target, timeout=20) as client:
        yield client


@given(data=st.data())
@pytest.mark.parametrize(("number", "dtype"), DTYPES, ids=[str(d) for _, d in DTYPES])
def test_arrays_of_every_dtype_through_a_client_and_back(echo, number, dtype, data):
    array = data.draw(arrays(number, dtype))
    answer = echo.predict({"x": array}, version=5, signature="echo")
    assert (answer.version, answer.signature) == (5, "echo")
    assert answer["x"].dtype == array.dtype
    assert answer["x"].shape == array.shape
    assert answer["x"].flags.writeable
    equal_nan = dtype.kind in "fc"
    assert np.array_equal(answer["x"], array, equal_nan=equal_nan)


@given(data=st.data())
@pytest.mark.parametrize(("number", "dtype"), DTYPES, ids=[str(d) for _, d in DTYPES])
def test_arrays_of_every_dtype_as_json_and_back(number, dtype, data):
    if dtype.kind == "c":
        return  # refused; see tests/unit/client/test_arguments.py
    array = data.draw(arrays(number, dtype))
    back = from_json(
        json.loads(json.dumps(to_json(array, "x"))), TensorSpec(tensors.dtype_name(number), None)
    )
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert np.array_equal(back, array, equal_nan=dtype.kind == "f")


@given(st.recursive(st.floats(width=32) | st.integers() | st.booleans(), st.lists, max_leaves=12))
def test_nested_lists_are_arrays_or_refused_by_name(value):
    request, error = outcome(wire.predict_request, "m", {"x": value}, None, None, None, outputs=())
    if error:
        assert "'x'" in error.message
    else:
        assert request.inputs["x"].dtype in tensors.DTYPES
