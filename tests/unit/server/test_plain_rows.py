"""The fast lane reads what `json_tensor` reads, or nothing; `make fuzz` tries many more bodies."""

import json

import numpy as np
import pytest

from serving.protocol import messages
from serving.server import plain_rows
from tests.fuzz.targets import same_rows, seeds


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [1.0, 2.0, 5.0]}',
        b'{"instances":[1,2,5]}',
        b'{"instances": [[240.0]]}',
        b'{"instances":[[1,-2.5e3],[0,-0.0]]}',
        b'{"instances": [[ 1 ,2 ], [3, 4]]}',
        b'{"instances": [18446744073709551616, 9007199254740993, -0, 1e-400]}',
        json.dumps({"instances": [[n / 7] * 3 for n in range(2000)]}).encode(),
    ],
    ids=lambda body: body[:40].decode(),
)
def test_takes_what_writers_write(body):
    assert same_rows(body)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'{"instances"', b'{"instances": ', b'{"instances": []}',
        b'{"instances": [[]]}', b'{"instances": [[], []]}', b'{"instances": [[1], []]}',
        b'{"instances": [[1], [2, 3]]}', b'{"instances": [[1, 2], [3]]}',
        b'{"instances": [[1],[2]]}', b'{"instances": [[1] , [2]]}', b'{"instances": [[1]2, []]}',
        b'{"instances": [[1], 2[]]}', b'{"instances": [[]1, [2]]}', b'{"instances": [[1], [2]3]}',
        b'{"instances": [[1]], [2]}', b'{"instances": [1], [2]}', b'{"instances": [1, [2]]}',
        b'{"instances": [[1], 2]}', b'{"instances": [[[1]]]}', b'{"instances": [1,]}',
        b'{"instances": [,1]}', b'{"instances": [1 2]}', b'{"instances": [01]}',
        b'{"instances": [1.]}', b'{"instances": [+1]}', b'{"instances": [--1]}',
        b'{"instances": [e]}', b'{"instances": [1e]}', b'{"instances": [NaN]}',
        b'{"instances": [Infinity]}', b'{"instances": [1e400]}', b'{"instances": [true]}',
        b'{"instances": [null]}', b'{"instances": ["1"]}', b'{"instances": [{}]}',
        b'{"instances": [{"x": 1}]}', b'{"instances": [1]} x', b'{"instances": [1]}\n',
        b'{"instances": [1], "instances": [2]}', b'{"instances": [1], "inputs": [2]}',
        b'{"instances": [1], "signature_name": "a"}', b'{"inputs": [1]}', b' {"instances": [1]}',
        b'{"instances": [1\x0b]}', b'{"instances": [1\xff]}', b'{"instances": [1\x00]}',
        b'{"instances": [[1], [2]]]}', b'{"instances": [[1], [2]}', b'{"instances": [[[1], [2]]}',
        b'{"instances": [' + b"[" * 5000 + b"]" * 5000 + b"]}",
        b'{"instances": [' + b"1," * plain_rows.LARGEST_BODY + b"1]}",
    ],
    ids=lambda body: repr(body[:40]),
)  # fmt: skip
def test_leaves_the_rest(body):
    assert not same_rows(body)


def test_leaves_what_does_not_fit_into_a_float32():
    fill = plain_rows.read(b'{"instances": [1e39]}')
    assert fill(messages.DT_FLOAT) is None
    assert fill(messages.DT_DOUBLE).tolist() == [1e39]
    assert fill(messages.DT_INT64) is None


def test_corpus():
    for target in ("json", "predict_body"):
        for seed in seeds(target):
            same_rows(seed)
            same_rows(seed[1:])


def test_arrays_can_be_fed():
    array = plain_rows.read(b'{"instances": [[1.5], [2]]}')(messages.DT_FLOAT)
    np.testing.assert_array_equal(array, np.array([[1.5], [2]], np.float32))
    assert array.flags.c_contiguous
