"""TensorProto to NumPy and back, with TensorFlow's rules and without TensorFlow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import messages

DTYPES: dict[int, np.dtype[Any]] = {
    messages.DT_FLOAT: np.dtype(np.float32),
    messages.DT_DOUBLE: np.dtype(np.float64),
    messages.DT_INT32: np.dtype(np.int32),
    messages.DT_UINT8: np.dtype(np.uint8),
    messages.DT_INT16: np.dtype(np.int16),
    messages.DT_INT8: np.dtype(np.int8),
    messages.DT_STRING: np.dtype(object),
    messages.DT_COMPLEX64: np.dtype(np.complex64),
    messages.DT_INT64: np.dtype(np.int64),
    messages.DT_BOOL: np.dtype(np.bool_),
    messages.DT_UINT16: np.dtype(np.uint16),
    messages.DT_COMPLEX128: np.dtype(np.complex128),
    messages.DT_HALF: np.dtype(np.float16),
    messages.DT_UINT32: np.dtype(np.uint32),
    messages.DT_UINT64: np.dtype(np.uint64),
}
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}

# The field of TensorProto that carries a dtype's values when tensor_content is empty.
_FIELDS = {
    messages.DT_FLOAT: "float_val",
    messages.DT_DOUBLE: "double_val",
    messages.DT_INT32: "int_val",
    messages.DT_UINT8: "int_val",
    messages.DT_INT16: "int_val",
    messages.DT_INT8: "int_val",
    messages.DT_STRING: "string_val",
    messages.DT_COMPLEX64: "scomplex_val",
    messages.DT_INT64: "int64_val",
    messages.DT_BOOL: "bool_val",
    messages.DT_UINT16: "int_val",
    messages.DT_COMPLEX128: "dcomplex_val",
    messages.DT_HALF: "half_val",
    messages.DT_UINT32: "uint32_val",
    messages.DT_UINT64: "uint64_val",
}

# A caller may declare a huge shape around a single value, which TensorFlow would repeat for as long
# as there is memory. Past this many bytes of repeated values that is refused: enough for a batch of
# zeros in a warm-up record, and no way to fill a server's memory with a request of 60 bytes.
MAX_FILL_BYTES = 64 << 20
# TensorShape::MaxDimensions() of TensorFlow; NumPy's own limit is 64.
MAX_RANK = 254
# What a string costs in a tensor besides its text: a pointer here, TensorFlow's 24 bytes there.
_STRING_BYTES = 32

# Field numbers of the values that a message holds as their plain bytes, one after the other.
_PLAIN_FIELDS = {
    messages.DT_FLOAT: 5,
    messages.DT_DOUBLE: 6,
    messages.DT_COMPLEX64: 9,
    messages.DT_COMPLEX128: 12,
}
# Values moved in one step: a thread that moves millions lets others have the GIL in between.
_STEP = 1 << 16
# From this many values on it is faster to hand a message its bytes than its values.
_MANY = 16


def dtype_name(number: int) -> str:
    """TensorFlow's DataTypeString: `float` for DT_FLOAT, `int64_ref` for DT_INT64_REF."""
    name = messages.DataType.Name(number)
    return name.removeprefix("DT_").lower()


def number_of(dtype: np.dtype[Any]) -> int:
    """The DataType number of a NumPy dtype; str, bytes and object are DT_STRING.

    Raises ValueError for a dtype that TensorFlow does not have.
    """
    if dtype.kind in "SUO":
        return messages.DT_STRING
    try:
        # Byte order is NumPy's business: big-endian float32 is float32 to TensorFlow.
        return _NUMBERS[dtype if dtype.isnative else dtype.newbyteorder("=")]
    except KeyError:
        raise ValueError(f"no TensorFlow dtype for NumPy's {dtype}") from None


def to_array(proto: messages.TensorProto) -> NDArray[Any]:
    """Return the tensor as an array of the declared shape; strings are bytes in an object array.

    As in TensorFlow, `tensor_content` wins over the typed field, and a typed field with fewer
    values than the shape asks for repeats its last one. Raises ValueError when the proto does not
    describe a tensor.
    """
    number = proto.dtype
    dtype = DTYPES.get(number)
    if dtype is None:
        raise ValueError(f"unsupported dtype {number}")
    shape = shape_of(proto)
    size = math.prod(shape)

    content = proto.tensor_content
    if content:
        if number == messages.DT_STRING:
            raise ValueError("tensor_content does not carry strings here")
        if len(content) != size * dtype.itemsize:
            raise ValueError(f"{len(content)} bytes of content for shape {list(shape)}")
        return np.frombuffer(content, dtype=dtype).reshape(shape)

    values = getattr(proto, _FIELDS[number])
    given = len(values)
    each = dtype.itemsize
    if number == messages.DT_STRING:
        each = _STRING_BYTES + (len(values[-1]) if given else 0)
    if (size - given) * each > MAX_FILL_BYTES:
        raise ValueError(f"{given} values for shape {list(shape)}")
    if number in (messages.DT_COMPLEX64, messages.DT_COMPLEX128):
        part = np.float32 if number == messages.DT_COMPLEX64 else np.float64
        if given % 2:
            raise ValueError("odd number of values for a complex tensor")
        flat = np.array(values, dtype=part).view(dtype)
        given //= 2
    elif number == messages.DT_HALF:
        raw = np.array(values, dtype=np.int64)
        flat = (raw & 0xFFFF).astype(np.uint16).view(np.float16)
    elif number == messages.DT_STRING:
        flat = np.empty(given, dtype=object)
        for at in range(0, given, _STEP):
            flat[at : at + _STEP] = values[at : at + _STEP]
    elif _FIELDS[number] == "int_val" and number != messages.DT_INT32:
        # Narrow types wrap as TensorFlow's static_cast does; NumPy 2 would raise.
        flat = np.array(values, dtype=np.int32).astype(dtype)
    elif given <= _MANY:
        # NumPy's way to a message's values has a fixed cost of 2 us.
        flat = np.fromiter(values, dtype, given)
    else:
        flat = np.array(values, dtype=dtype)

    if given == size:
        return flat.reshape(shape)
    if given > size:
        raise ValueError(f"{given} values for shape {list(shape)}")
    if given == 0:
        fill: Any = b"" if number == messages.DT_STRING else 0
        return np.full(shape, fill, dtype=dtype)
    padded = np.empty(size, dtype=dtype)
    padded[:given] = flat
    padded[given:] = flat[-1]
    return padded.reshape(shape)


def shape_of(proto: messages.TensorProto) -> tuple[int, ...]:
    """The declared shape; raises ValueError for one that no tensor has."""
    tensor_shape = proto.tensor_shape
    if tensor_shape.unknown_rank:
        raise ValueError("unknown rank")
    dims = tensor_shape.dim
    if len(dims) > MAX_RANK:
        raise ValueError(f"{len(dims)} dimensions")
    shape = tuple([dim.size for dim in dims])
    if shape and min(shape) < 0:
        raise ValueError(f"negative dimension in shape {list(shape)}")
    return shape


def to_proto(array: NDArray[Any], *, as_content: bool = False) -> messages.TensorProto:
    """Return a TensorProto of the array, in typed fields, or in `tensor_content` when asked.

    Text is sent as UTF-8. Raises ValueError for a dtype that TensorFlow does not have.
    """
    proto = messages.TensorProto()
    fill_proto(proto, array, as_content=as_content)
    return proto


def fill_proto(
    proto: messages.TensorProto, array: NDArray[Any], *, as_content: bool = False
) -> None:
    """Write the array into an empty TensorProto (see `to_proto`)."""
    number = number_of(array.dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    proto.dtype = number
    dims = proto.tensor_shape.dim
    for size in array.shape:
        dims.add().size = size
    if number == messages.DT_STRING:
        proto.string_val.extend([_as_bytes(value) for value in array.ravel().tolist()])
    elif as_content:
        proto.tensor_content = np.ascontiguousarray(array).tobytes()
    elif number in _PLAIN_FIELDS and array.size >= _MANY:
        content = np.ascontiguousarray(array).tobytes()
        proto.MergeFromString(_bytes_prefix(_PLAIN_FIELDS[number], len(content)) + content)
    elif number in (messages.DT_COMPLEX64, messages.DT_COMPLEX128):
        part = np.float32 if number == messages.DT_COMPLEX64 else np.float64
        flat = np.ascontiguousarray(array).ravel().view(part)
        getattr(proto, _FIELDS[number]).extend(flat.tolist())
    elif number == messages.DT_HALF:
        proto.half_val.extend(np.ascontiguousarray(array).ravel().view(np.uint16).tolist())
    else:
        flat, target = array.ravel(), getattr(proto, _FIELDS[number])
        for at in range(0, flat.size, _STEP):
            target.extend(flat[at : at + _STEP].tolist())


def _bytes_prefix(field: int, length: int) -> bytes:
    """Tag and length of a packed field, as protobuf writes them."""
    prefix = bytearray([field << 3 | 2])
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def _as_bytes(value: Any) -> bytes:
    """A string's bytes; raises ValueError for what is none (bytes(3) would be three zeros)."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise ValueError(f"a string tensor holds bytes or text, not {type(value).__name__}")
