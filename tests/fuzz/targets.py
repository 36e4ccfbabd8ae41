"""What is fuzzed: a function per target that takes bytes and asserts what must always hold.

Bytes, so that whatever failed is a file in `corpus/TARGET/`. The strategies make bytes that come
far: structured ones, and mutations of the corpus.
"""

# ruff: noqa: PT017 - what an error must be is asserted where it is caught; pytest.raises can't say "may"

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from serving.protocol import messages, tensors
from serving.protocol.status import Code, ServingError
from serving.server import inflate, json_tensor, plain_rows, rapidjson
from serving.server.json_tensor import Document, Format

CORPUS = Path(__file__).parent / "corpus"

# Without TensorFlow, which takes seconds to import, there is no `feed_arrays`; with it the target
# `feed` is there, too.
INPUTS = [
    {"x": messages.DT_FLOAT},
    {"x": messages.DT_STRING},
    {"x": messages.DT_INT64},
    {"x": messages.DT_BOOL},
    {"x": messages.DT_DOUBLE, "y_bytes": messages.DT_STRING},
    {"x": messages.DT_UINT8},
    {},
]
PLAIN_NUMBERS = (int, float)


def same(one, other) -> bool:
    """Equal, NaN to itself and 1 to 1.0 included, in type too for what is no number."""
    if isinstance(one, float) or isinstance(other, float):
        if isinstance(one, bool) or isinstance(other, bool):
            return False
        try:
            one, other = float(one), float(other)
        except (TypeError, ValueError, OverflowError):
            return False
        return one == other or (math.isnan(one) and math.isnan(other))
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def loaded(parse: Callable[[bytes], object], data: bytes):
    try:
        return parse(data), None
    except rapidjson.JsonError as error:
        return None, error


def depth(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


def fuzz_json(data: bytes) -> None:
    """Both parsers agree on every document, and with the standard library where it accepts."""
    value, error = loaded(rapidjson.loads, data)
    exact, exact_error = loaded(rapidjson.exact_loads, data)
    if error is None and exact_error is not None:
        # Left to `recheck`, which runs where such a number is used.
        assert exact_error.reason == rapidjson.TOO_BIG, exact_error
        return
    assert (error is None) == (exact_error is None), (error, exact_error)
    if error is not None:
        assert str(error) == str(exact_error)
        assert 0 <= error.offset <= len(data)
        return
    if depth(data) < 200:
        assert same(value, exact), (value, exact)
        again, _ = loaded(rapidjson.loads, data)
        assert same(value, again)
        try:
            text = data.decode()
            standard = json.loads(text, object_pairs_hook=_first)
        except (ValueError, RecursionError):
            pass
        else:
            # Escapes of half a pair and whole numbers beyond a double are where they part.
            if "\\ud" not in text.lower() and not any(n in text for n in ("Infinity", "1" * 300)):
                assert same(exact, standard), (exact, standard)
    text = rapidjson.debug_string(value)
    assert len(rapidjson.encode(text)) < rapidjson.DEBUG_LIMIT + 8 * len(data) + 64


def _first(pairs):
    members: dict[str, object] = {}
    for name, value in pairs:
        members.setdefault(name, value)
    return members


def fuzz_predict_body(data: bytes) -> None:
    """Any body is a request whose tensors are whole, or one INVALID_ARGUMENT."""
    inputs = INPUTS[data[0] % len(INPUTS)] if data else {}
    results = []
    for _ in range(2):
        request = messages.PredictRequest()
        try:
            layout = json_tensor.fill_predict(request, Document(data[1:]), inputs)
        except ServingError as error:
            assert error.code in (Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED), error
            assert error.message
            body = json_tensor.error_body(error.message)
            json.loads(body.decode("utf-8", "replace"))
            results.append((error.code, error.message))
        else:
            assert isinstance(layout, Format)
            assert set(request.inputs) == set(inputs)
            for alias, proto in request.inputs.items():
                assert proto.dtype == inputs[alias]
                try:
                    array = tensors.to_array(proto)
                except ValueError:
                    # More dimensions than NumPy has: refused again, as a tensor.
                    assert len(proto.tensor_shape.dim) > 64
                    continue
                assert array.nbytes <= 64 * len(data) + 64
            results.append((layout, request.SerializeToString(deterministic=True)))
    assert results[0] == results[1]


def same_rows(data: bytes) -> bool:
    """Whether the fast lane takes the body, for some dtype; the exact way reads the same then."""
    fill = plain_rows.read(data)
    taken = False
    for dtype in (messages.DT_FLOAT, messages.DT_DOUBLE, messages.DT_INT32, messages.DT_STRING):
        array = fill(dtype) if fill else None
        if array is None:
            continue
        taken = True
        request = messages.PredictRequest()
        layout = json_tensor.fill_predict(request, Document(data), {"x": dtype})
        exact = tensors.to_array(request.inputs["x"])
        assert layout is Format.ROW
        assert (array.dtype, array.shape) == (exact.dtype, exact.shape)
        assert array.tobytes() == exact.tobytes()
    return taken


def fuzz_plain_rows(data: bytes) -> None:
    """What the fast lane takes it reads as `json_tensor` does."""
    same_rows(data)


def fuzz_examples_body(data: bytes) -> None:
    """Any body is a classify request or one INVALID_ARGUMENT."""
    request = messages.ClassificationRequest()
    try:
        json_tensor.fill_examples(request, Document(data))
    except ServingError as error:
        assert error.code == Code.INVALID_ARGUMENT
        json.loads(json_tensor.error_body(error.message).decode("utf-8", "replace"))
    else:
        assert request.input.ByteSize() <= 16 * len(data) + 64


def fuzz_tensor(data: bytes) -> None:
    """Any TensorProto is an array no larger than allowed, or a ValueError; an array comes back."""
    proto = messages.TensorProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:
        assert type(error).__name__ == "DecodeError"
        return
    try:
        array = tensors.to_array(proto)
    except ValueError as error:
        assert str(error)
        return
    assert array.shape == tuple(dim.size for dim in proto.tensor_shape.dim)
    assert array.nbytes <= tensors.MAX_FILL_BYTES + 16 * len(data)
    if array.nbytes > 1 << 16:
        return
    for as_content in (False, True):
        back = tensors.to_array(tensors.to_proto(array, as_content=as_content))
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        if array.dtype == object:
            assert back.tolist() == array.tolist()
        else:
            np.testing.assert_array_equal(back, array)
    if array.ndim and array.dtype.kind != "c" and array.dtype != np.float16:
        outputs = {"x": tensors.to_proto(array)}
        for layout in Format:
            try:
                body = json_tensor.predict_body(outputs, layout)
            except ServingError as error:
                assert error.code == Code.INVALID_ARGUMENT
                continue
            (values,) = json.loads(body.decode("utf-8", "replace")).values()
            if array.dtype != object and array.size:
                assert np.array(values, array.dtype).shape == array.shape


@functools.cache
def _signature():
    from serving.server.bundle import _prepare

    definition = messages.SignatureDef()
    for alias, dtype in (("x", messages.DT_FLOAT), ("y", messages.DT_BFLOAT16)):
        definition.inputs[alias].name = f"{alias}:0"
        definition.inputs[alias].dtype = dtype
    definition.defaults["y"].dtype = messages.DT_BFLOAT16
    definition.defaults["y"].half_val.append(0)
    return _prepare("serving_default", definition)


def fuzz_feed(data: bytes) -> None:
    """Any PredictRequest is fed or gets INVALID_ARGUMENT, and memory follows its size."""
    from serving.server.bundle import feed_arrays

    request = messages.PredictRequest()
    try:
        request.ParseFromString(data)
    except Exception as error:
        assert type(error).__name__ == "DecodeError"
        return
    try:
        names, arrays = feed_arrays(_signature(), request.inputs)
    except ServingError as error:
        assert error.code == Code.INVALID_ARGUMENT
        assert error.message
        return
    assert names == ("x:0", "y:0")
    assert all(array.nbytes <= tensors.MAX_FILL_BYTES + 16 * len(data) for array in arrays)


def fuzz_compressed(data: bytes) -> None:
    """Anything compressed inflates to the limit at most, or is refused."""
    limit = 4096
    try:
        plain = inflate.inflate(data, limit)
    except ValueError:
        return
    assert len(plain) <= limit


# Strategies.

_PIECES = st.sampled_from(
    [
        *(b'{ } [ ] , : " \\ / 0 1 - + . e E 9 \n \0 \x7f \xff \xc3\xa9'.split(b" ")),
        b'"instances":', b'"inputs":', b'"signature_name":', b'"examples":', b'"context":', b'"x":',
        b'"y_bytes":', b'{"b64":"', b"AAA=", b"NaN", b"Infinity", b"-Infinity", b"-Inf", b"null",
        b"true", b"false", b"1e308", b"1e400", b"-0.0", b"18446744073709551616", b"\\ud83d",
        b"\\ude00", b"\\u0000", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 70, b"]" * 70, b"1" * 311,
    ]
)  # fmt: skip
_SOUP = st.lists(_PIECES, max_size=30).map(b"".join)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.fixed_dictionaries({"b64": st.sampled_from(["", "AA==", "AA", "A", "\n"])})
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "y_bytes", "b64", "z"]), inner, max_size=3)
    ),
    max_leaves=12,
)
_BODIES = st.dictionaries(
    st.sampled_from(["instances", "inputs", "signature_name", "examples", "context", "x"]),
    _VALUES,
    max_size=3,
).map(lambda value: json.dumps(value).encode())


def _mutate(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    changed = bytearray(data)
    for at, drop, put in changes:
        start = at % (len(changed) + 1)
        changed[start : start + drop] = put
    return bytes(changed)


_CHANGES = st.lists(
    st.tuples(st.integers(0, 400), st.integers(0, 4), st.binary(max_size=4) | _PIECES), max_size=4
)


def seeds(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def _mutations(target: str) -> st.SearchStrategy[bytes]:
    return st.builds(_mutate, st.sampled_from(seeds(target)), _CHANGES)


_SIZES = st.sampled_from([0, 1, 2, 3, 5, -1, 64, 1 << 24, 1 << 28, 1 << 31, 1 << 62, -(1 << 63)])
_DTYPES = st.integers(0, 30) | st.sampled_from([101, 999, -1, 2**31 - 1])


@st.composite
def _protos(draw) -> messages.TensorProto:
    proto = messages.TensorProto(dtype=draw(_DTYPES))
    for size in draw(st.lists(_SIZES, max_size=4)):
        proto.tensor_shape.dim.add().size = size
    if draw(st.booleans()):
        proto.tensor_content = draw(st.binary(max_size=40))
    small = st.integers(-(2**31), 2**31 - 1)
    for name, values in (
        ("float_val", st.floats(width=32)),
        ("double_val", st.floats()),
        ("int_val", small),
        ("half_val", small),
        ("string_val", st.binary(max_size=9)),
        ("bool_val", st.booleans()),
        ("int64_val", st.integers(-(2**63), 2**63 - 1)),
        ("uint64_val", st.integers(0, 2**64 - 1)),
        ("scomplex_val", st.floats(width=32)),
    ):
        if draw(st.integers(0, 3)) == 0:
            getattr(proto, name).extend(draw(st.lists(values, max_size=5)))
    proto.tensor_shape.unknown_rank = draw(st.integers(0, 20)) == 0
    return proto


@st.composite
def _requests(draw) -> bytes:
    request = messages.PredictRequest()
    for alias in draw(st.sets(st.sampled_from(["x", "y", "z", ""]), max_size=3)):
        request.inputs[alias].CopyFrom(draw(_protos()))
    return request.SerializeToString()


_TEXT_NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.integers(-(2**80), 2**80).map(str)
    | st.sampled_from(["0", "-0", "-0.0", "1E5", "1e+05", "0e999", "1e308", "3.4028236e38"])
    | st.text("0123456789.-+eE", min_size=1, max_size=8)
)
_ROW_PIECES = st.sampled_from(
    ["[", "]", ",", ", ", "], [", "],[", "[[", "]]", "]}", "}", "{", '"', " ", "1", "-", "e", "t"]
)
_ROW_SOUP = st.builds(
    lambda start, pieces, end: f"{start}{''.join(pieces)}{end}".encode(),
    st.sampled_from(['{"instances": [[', '{"instances":[[', '{"instances": [', '{"instances":[']),
    st.lists(_ROW_PIECES | _TEXT_NUMBERS, max_size=9),
    st.sampled_from(["]]}", "]}", "]"]),
)
_TEXT_ROWS = st.integers(0, 3).flatmap(
    lambda width: st.lists(st.lists(_TEXT_NUMBERS, min_size=width, max_size=width), max_size=4)
)
_GOOD_ROWS = st.builds(
    lambda rows, comma: (
        f'{{"instances": [{comma.join(f"[{comma.join(row)}]" for row in rows)}]}}'.encode()
    ),
    _TEXT_ROWS,
    st.sampled_from([",", ", ", " ,", ",  "]),
)

_PREFIXED = st.builds(lambda first, rest: bytes([first]) + rest, st.integers(0, 6), _BODIES | _SOUP)

# name: (function, strategy, share of the inputs)
TARGETS: dict[
    str, tuple[Callable[[bytes], None], Callable[[], st.SearchStrategy[bytes]], float]
] = {
    "json": (fuzz_json, lambda: _SOUP | _mutations("json") | _BODIES, 0.35),
    "predict_body": (fuzz_predict_body, lambda: _PREFIXED | _mutations("predict_body"), 0.20),
    "plain_rows": (
        fuzz_plain_rows,
        lambda: _ROW_SOUP | _GOOD_ROWS | _mutations("plain_rows"),
        0.10,
    ),
    "examples_body": (fuzz_examples_body, lambda: _BODIES | _mutations("examples_body"), 0.10),
    "tensor": (
        fuzz_tensor,
        lambda: _protos().map(lambda proto: proto.SerializeToString()) | _mutations("tensor"),
        0.15,
    ),
    "feed": (fuzz_feed, lambda: _requests() | _mutations("feed"), 0.07),
    "compressed": (
        fuzz_compressed,
        lambda: _mutations("compressed") | st.binary(max_size=60),
        0.03,
    ),
}
