"""TensorProto and NumPy: every dtype there and back, and TensorFlow as the judge."""

import json
import math
import subprocess
import sys

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.protocol import messages, tensors

NUMERIC = [dtype for dtype in tensors.DTYPES.values() if dtype != np.dtype(object)]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


def same(one, other):
    """Equal in dtype, shape and bits, so that NaN and -0.0 count."""
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    if one.dtype == np.dtype(object):
        assert one.tolist() == other.tolist()
        return
    # A NaN's payload passes through Python's double on the way through float_val.
    nan = np.isnan(one) if one.dtype.kind in "fc" else np.zeros(one.shape, bool)
    other_nan = np.isnan(other) if one.dtype.kind in "fc" else nan
    assert np.array_equal(nan, other_nan)
    kept = [np.where(nan, np.zeros((), a.dtype), a).astype(a.dtype).tobytes() for a in (one, other)]
    assert kept[0] == kept[1]


@given(data=st.data(), as_content=st.booleans())
@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_numbers_there_and_back(dtype, data, as_content):
    array = data.draw(hnp.arrays(dtype, SHAPES))
    proto = tensors.to_proto(array, as_content=as_content)
    wire = messages.TensorProto.FromString(proto.SerializeToString())
    assert tensors.DTYPES[wire.dtype] == dtype
    same(tensors.to_array(wire), array)


@given(
    array=hnp.arrays(object, SHAPES, elements=st.binary(max_size=6), fill=st.nothing()),
    as_content=st.booleans(),
)
def test_bytes_there_and_back(array, as_content):
    proto = tensors.to_proto(array, as_content=as_content)
    same(tensors.to_array(messages.TensorProto.FromString(proto.SerializeToString())), array)


@given(st.lists(st.text(max_size=5), max_size=4))
def test_text_travels_as_utf8(words):
    for array in (np.array(words, object), np.array(words, np.str_)):
        back = tensors.to_array(tensors.to_proto(array)).tolist()
        assert back == [str(word).encode() for word in array.tolist()]


@given(data=st.data(), dtype=st.sampled_from(NUMERIC), as_content=st.booleans())
def test_layout_and_byte_order_do_not_matter(data, dtype, as_content):
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=3, max_side=4)))
    for view in (
        array.T,
        array[::-1],
        array[..., ::2],
        np.asfortranarray(array),
        array.astype(dtype.newbyteorder(">")),
    ):
        expected = view.astype(dtype)
        same(tensors.to_array(tensors.to_proto(view, as_content=as_content)), expected)


@given(data=st.data(), dtype=st.sampled_from(NUMERIC))
def test_a_short_field_repeats_its_last_value(data, dtype):
    values = data.draw(hnp.arrays(dtype, st.integers(1, 4)))
    size = data.draw(st.integers(len(values), 9))
    proto = tensors.to_proto(values)
    proto.tensor_shape.dim[0].size = size
    expected = np.concatenate([values, np.repeat(values[-1:], size - len(values))])
    same(tensors.to_array(proto), expected)


@given(dtype=st.sampled_from(list(tensors.DTYPES)), size=st.integers(0, 5))
def test_no_values_at_all_are_zeros(dtype, size):
    proto = messages.TensorProto(dtype=dtype)
    proto.tensor_shape.dim.add().size = size
    array = tensors.to_array(proto)
    assert array.shape == (size,)
    assert all(value in (0, b"") for value in array.tolist())


PROTOS = st.builds(
    messages.TensorProto,
    dtype=st.integers(0, 130),
    tensor_content=st.binary(max_size=40),
    float_val=st.lists(st.floats(width=32), max_size=5),
    int_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
    half_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
    bool_val=st.lists(st.booleans(), max_size=5),
    string_val=st.lists(st.binary(max_size=3), max_size=5),
    scomplex_val=st.lists(st.floats(width=32), max_size=5),
    uint64_val=st.lists(st.integers(0, 2**64 - 1), max_size=5),
)


DIMS = st.sampled_from([-1, 0, 1, 2, 3, 4, 2**31, 2**62, 2**63 - 1]) | st.integers(-(2**63), 9)


@given(PROTOS, st.lists(DIMS, max_size=4))
@example(messages.TensorProto(dtype=messages.DT_FLOAT), [0, 2**62, 2**62])
@settings(max_examples=300)
def test_any_proto_is_a_tensor_or_a_value_error(proto, dims):
    for size in dims:
        proto.tensor_shape.dim.add().size = size
    try:
        array = tensors.to_array(proto)
    except ValueError:
        return
    assert array.shape == tuple(dims)
    assert array.nbytes <= max(tensors.MAX_FILL_BYTES, proto.ByteSize() * 8)


def test_a_huge_shape_is_refused_before_memory_is():
    proto = messages.TensorProto(dtype=messages.DT_FLOAT, float_val=[1.0])
    for _ in range(4):
        proto.tensor_shape.dim.add().size = 2**40
    with pytest.raises(ValueError, match="1 values for shape"):
        tensors.to_array(proto)


@pytest.mark.parametrize("dtype", ["datetime64[D]", "timedelta64[s]", "V4", "longdouble"])
def test_what_tensorflow_lacks(dtype):
    with pytest.raises(ValueError, match="no TensorFlow dtype"):
        tensors.to_proto(np.zeros(2, dtype))


@pytest.mark.parametrize("value", [[1], [None], [1.5], [[1, 2]], [{}]])
def test_an_object_array_holds_bytes_or_text_only(value):
    with pytest.raises(ValueError, match="bytes or text"):
        tensors.to_proto(np.array(value, object))


# TensorFlow runs in a process of its own: protos go in by hexadecimal line, what it makes of them
# comes back. Cases that TensorFlow and this module must agree on, to the bit.
JUDGE = """
import json, sys
import numpy as np, tensorflow as tf
from tensorflow.core.framework import tensor_pb2

for line in sys.stdin:
    proto = tensor_pb2.TensorProto.FromString(bytes.fromhex(line))
    array = tf.make_ndarray(proto)
    string = proto.dtype == tf.string.as_datatype_enum
    made = tf.make_tensor_proto(array, dtype=proto.dtype, shape=array.shape)
    data = [b.hex() for b in array.ravel().tolist()] if string else array.tobytes().hex()
    print(json.dumps([str(array.dtype), array.shape, data, made.SerializeToString().hex()]))
"""


def test_tensorflow_agrees():
    arrays = []
    random = np.random.default_rng(7)
    for dtype in NUMERIC:
        for shape in ((), (0,), (1,), (1, 1), (3,), (2, 3), (2, 0, 3)):
            raw = random.integers(0, 120, shape)
            array = np.asarray(raw).astype(dtype)
            if dtype.kind == "f" and array.size > 2:
                array.flat[:3] = [math.inf, -math.inf, -0.0]
            arrays.append(array)
    arrays += [
        np.array([b"", b"\\x00\\xff", b"abc"], object),
        np.array([[b"a"]], object),
        np.array(b"scalar", object),
    ]
    protos = [tensors.to_proto(a) for a in arrays]
    protos += [tensors.to_proto(a, as_content=True) for a in arrays if a.dtype != object]
    arrays += [a for a in arrays if a.dtype != object]
    # A field shorter than the shape, as TensorFlow writes a constant.
    for dtype in NUMERIC:
        short = tensors.to_proto(np.array([1, 2]).astype(dtype))
        short.tensor_shape.dim[0].size = 5
        protos.append(short)
        arrays.append(np.array([1, 2, 2, 2, 2]).astype(dtype))
    lines = "\n".join(proto.SerializeToString().hex() for proto in protos)
    judged = subprocess.run(
        [sys.executable, "-c", JUDGE], input=lines, capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stderr
    answers = [json.loads(line) for line in judged.stdout.splitlines()]
    assert len(answers) == len(arrays)
    for array, (dtype, shape, data, made) in zip(arrays, answers, strict=True):
        assert list(array.shape) == shape
        if array.dtype == object:
            assert [value.hex() for value in array.ravel().tolist()] == data
        else:
            assert str(array.dtype) == dtype
            assert array.tobytes().hex() == data
        same(tensors.to_array(messages.TensorProto.FromString(bytes.fromhex(made))), array)
