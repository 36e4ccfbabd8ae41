"""Every float32 gets the digits that `rapidjson.decimal` gives it alone."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server import digits, json_tensor, rapidjson


def assert_same(values):
    texts = digits.texts(values)
    assert len(texts) == values.size
    expected = rapidjson.decimals(values)
    wrong = [(text, wanted) for text, wanted in zip(texts, expected, strict=True) if text != wanted]
    assert not wrong, f"{len(wrong)} of {values.size}: {wrong[:5]}"


@pytest.fixture
def rng():
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def test_any_bits(rng):
    assert_same(rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32))


def test_any_bits_without_an_exponent(rng):
    # 2**-14 to 2**20 is a little more than what is written without one.
    exponents = rng.integers(127 - 14, 127 + 21, 300_000, dtype=np.uint32)
    fractions = rng.integers(0, 2**23, 300_000, dtype=np.uint32)
    assert_same((exponents << 23 | fractions).view(np.float32))


def test_few_digits(rng):
    for places in range(7):
        assert_same(np.round(rng.uniform(-1000, 1000, 20_000), places).astype(np.float32))


def test_halves_of_halves(rng):
    # Ends in 5: what rounding a tie depends on.
    numbers = rng.integers(0, 2**20, 100_000) / 2.0 ** rng.integers(0, 24, 100_000)
    assert_same(numbers.astype(np.float32))


def test_edges():
    tens = np.array([10.0**power for power in range(-46, 39)], np.float32)
    edges = np.concatenate(
        [tens, np.nextafter(tens, np.float32(0)), np.nextafter(tens, np.float32(np.inf))]
    )
    special = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf], np.float32)
    assert_same(np.concatenate([edges, -edges, special]))
    signalling = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    assert_same(signalling)
    assert digits.texts(np.empty(0, np.float32)) == []


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_floats(values):
    array = np.array(values, np.float32)
    assert digits.texts(array) == [rapidjson.decimal(value) for value in array.tolist()]


@pytest.mark.parametrize(
    "shape",
    [(1,), (70_000,), (20_000, 3), (3, 20_000), (2, 2, 20_000), (5, 1, 2, 3), (4,) + (1,) * 31],
    ids=str,
)
@pytest.mark.parametrize("is_odd", [False, True])
def test_any_shape(rng, shape, is_odd):
    array = rng.normal(size=shape).astype(np.float32)
    if is_odd:
        array.ravel()[:: max(2, array.size // 50)] = 1e-20
    body = json_tensor.float_rows_body(array)
    text = body.decode()
    assert text.startswith('{\n    "predictions": [')
    assert text.endswith("\n    ]\n}")
    np.testing.assert_array_equal(np.array(json.loads(text)["predictions"], np.float32), array)
    inner = text.removeprefix('{\n    "predictions": [').removesuffix("\n    ]\n}")
    assert inner == json.dumps(json.loads(f"[{inner}]", parse_float=_Text))[1:-1].replace('"', "")


class _Text(str):
    """A number's own text, so that only brackets, commas and blanks are compared."""

    __slots__ = ()
