"""REST bodies to requests and responses to REST bodies, as TFS's util/json_tensor.cc has them.

Numbers go through NumPy in one step where the document allows it. Everything that NumPy would
take differently (a string, a boolean, a ragged list, a number out of range) goes element by element
through the same steps as TFS, so that its errors come out with TFS's words.
"""

from __future__ import annotations

import base64
import enum
import math
import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import messages, tensors
from serving.protocol.status import ServingError, internal, invalid_argument, unimplemented
from serving.protocol.tensors import dtype_name
from serving.server import digits, rapidjson
from serving.server.rapidjson import debug_string, quote

# TensorShape::MaxDimensions(); TFS would go on and fail (or overflow its stack) later.
MAX_RANK = 254

_FLOATS = {messages.DT_FLOAT: np.float32, messages.DT_DOUBLE: np.float64}
_INT_RANGES = {
    messages.DT_INT32: (-(2**31), 2**31 - 1),
    # Values are checked as int32 only, and wrap when the tensor is made.
    messages.DT_INT16: (-(2**31), 2**31 - 1),
    messages.DT_INT8: (-(2**31), 2**31 - 1),
    messages.DT_UINT8: (-(2**31), 2**31 - 1),
    messages.DT_INT64: (-(2**63), 2**63 - 1),
    messages.DT_UINT32: (0, 2**32 - 1),
    messages.DT_UINT64: (0, 2**64 - 1),
}
_FIELDS = {
    messages.DT_FLOAT: "float_val",
    messages.DT_DOUBLE: "double_val",
    messages.DT_STRING: "string_val",
    messages.DT_INT64: "int64_val",
    messages.DT_BOOL: "bool_val",
    messages.DT_UINT32: "uint32_val",
    messages.DT_UINT64: "uint64_val",
}

_FLOAT_MAX = float(np.finfo(np.float32).max)

Inputs = Mapping[str, int]


class Format(enum.Enum):
    """Which layout a predict request came in; the reply has the same."""

    ROW = "instances"
    COLUMNAR = "inputs"


class Document:
    """A parsed body: the top-level object, and what is known of its text."""

    __slots__ = ("body", "members")

    def __init__(self, body: bytes) -> None:
        """Parse; raises ServingError (INVALID_ARGUMENT)."""
        try:
            members = rapidjson.loads(body)
        except rapidjson.JsonError as error:
            # TFS looks for an empty body before RapidJSON does and gives no offset.
            text = str(error) if body else rapidjson.EMPTY.removesuffix(".")
            raise invalid_argument(f"JSON Parse error: {text}") from None
        if type(members) is not dict:
            raise _format_error(members, "Is not object")
        self.members = members
        self.body = body

    def signature_name(self) -> str:
        """The member of that name, or ""; raises ServingError when it is not a string."""
        name = self.members.get("signature_name", "")
        if type(name) is not str:
            raise _format_error(
                self.members,
                "not formatted correctly. 'signature_name' key must be a string value.",
            )
        return name

    def recheck(self) -> None:
        """Raise ServingError where RapidJSON refuses a number that Python reads as infinite."""
        try:
            rapidjson.recheck(self.body)
        except rapidjson.JsonError as error:
            raise invalid_argument(f"JSON Parse error: {error}") from None

    def _holds_only_numbers(self, names: int) -> bool:
        """Whether all values besides `signature_name` are numbers, lists and objects.

        `names`: how many member names there are below the top level. May be False when it need
        not be.
        """
        body = self.body
        members = self.members
        quotes = 2 * (len(members) + names + ("signature_name" in members))
        return not (
            b"\\" in body
            or body.count(b'"') != quotes
            or b"true" in body
            or b"false" in body
            or b"null" in body
        )

    def array(self, value: Any, dtype: int, names: int = 0) -> NDArray[Any] | None:
        """The value as an array, or None when it has to be looked at element by element."""
        if dtype == messages.DT_STRING or not self._holds_only_numbers(names):
            return None
        float_type = _FLOATS.get(dtype)
        limits = _INT_RANGES.get(dtype)
        if float_type is None and limits is None:
            return None
        try:
            with np.errstate(all="ignore"):
                array = _to_array(value, float_type, len(self.body))
                # One pass tells whether all are finite, false alarms apart.
                if limits is None and isfinite(np.add.reduce(array, axis=None)):
                    return array
        except (ValueError, TypeError, OverflowError):
            return None
        if limits is None:
            # Infinite without a literal: a number too large for a double, which RapidJSON
            # refuses, or too large for float32, which it doesn't.
            if b"I" not in self.body and np.isinf(array).any():
                self.recheck()
            return array
        if array.size == 0:
            return array.astype(tensors.DTYPES[dtype])
        if array.dtype.kind not in "iu" or array.min() < limits[0] or array.max() > limits[1]:
            return None
        return array.astype(tensors.DTYPES[dtype])


# np.array holds the GIL; a large list is converted in steps of about this many bytes of JSON.
_STEP = 256 << 10


def _to_array(value: Any, dtype: Any, size: int) -> NDArray[Any]:
    """np.array(value) in steps; raises what it raises, ValueError for a ragged list."""
    if size <= _STEP or type(value) is not list or len(value) < 2:
        return np.array(value, dtype)
    step = max(1, len(value) * _STEP // size)
    parts = [np.array(value[at : at + step], dtype) for at in range(0, len(value), step)]
    if any(part.dtype != parts[0].dtype for part in parts):
        return np.array(value, dtype)
    return np.concatenate(parts)


# Predict, in.

# Up to this many rows and values a loop in Python costs less than NumPy's fixed costs.
_FEW_ROWS = 64
_FEW_VALUES = 256
_FLOAT_TYPES = ({float}, {int}, {float, int})


def _fill_few(tensor: messages.TensorProto, rows: list[Any], dtype: int) -> bool:
    """Fill a small tensor of float32 from a list, or a list of lists; False when it is not one."""
    if dtype != messages.DT_FLOAT:
        return False
    width = -1
    values = rows
    if type(rows[0]) is list:
        width = len(rows[0])
        if width * len(rows) > _FEW_VALUES:
            return False
        for row in rows:
            if type(row) is not list or len(row) != width:
                return False
        values = rows[0] if len(rows) == 1 else [value for row in rows for value in row]
    if set(map(type, values)) not in _FLOAT_TYPES:
        return False
    for value in values:
        # What does not fit into a float32 goes the long way, where RapidJSON's limits are known.
        if not -_FLOAT_MAX <= value <= _FLOAT_MAX:
            return False
    tensor.dtype = dtype
    dims = tensor.tensor_shape.dim
    dims.add().size = len(rows)
    if width >= 0:
        dims.add().size = width
    tensor.float_val.extend(values)
    return True


def fill_predict(
    request: messages.PredictRequest,
    document: Document,
    inputs: Inputs,
) -> Format:
    """Put the document's tensors into the request; `inputs` is the signature's dtype by alias.

    Numbers travel in `tensor_content`. Raises ServingError.
    """
    members = document.members
    if not inputs:
        raise invalid_argument(
            "Failed to get input map for signature: "
            f"{request.model_spec.signature_name or 'DEFAULT'}"
        )
    if "instances" in members:
        rows = members["instances"]
        if "inputs" in members:
            raise _format_error(
                members,
                "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to "
                "exist ",
            )
        if type(rows) is not list:
            raise _format_error(members, "Expecting 'instances' to be an list/array")
        if not rows:
            raise _format_error(members, "No values in 'instances' array")
        if not _fill_rows_fast(request, document, rows, inputs):
            _fill_rows(request, rows, inputs)
        return Format.ROW
    if "inputs" in members:
        _fill_columns(request, document, members["inputs"], inputs)
        return Format.COLUMNAR
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _fill_rows_fast(
    request: messages.PredictRequest, document: Document, rows: list[Any], inputs: Inputs
) -> bool:
    if type(rows[0]) is not dict:
        if len(inputs) != 1:
            return False
        ((name, dtype),) = inputs.items()
        if len(rows) <= _FEW_ROWS and _fill_few(request.inputs[name], rows, dtype):
            return True
        array = document.array(rows, dtype)
        if array is None:
            return False
        tensors.fill_proto(request.inputs[name], array, as_content=True)
        return True
    count = len(inputs)
    arrays: dict[str, NDArray[Any]] = {}
    try:
        if not all(len(row) == count for row in rows):
            return False
        for name, dtype in inputs.items():
            values = [row[name] for row in rows]
            column = document.array(values, dtype, names=count * len(rows))
            if column is None:
                return False
            arrays[name] = column
    except (KeyError, TypeError):
        return False
    for name, column in arrays.items():
        tensors.fill_proto(request.inputs[name], column, as_content=True)
    return True


def _fill_rows(request: messages.PredictRequest, rows: list[Any], inputs: Inputs) -> None:
    if type(rows[0]) is not dict and len(inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    names = sorted(inputs)
    objects = _is_element_object(rows[0])
    columns: dict[str, _Column] = {}
    for index, row in enumerate(rows):
        if _is_element_object(row) != objects:
            raise invalid_argument(
                f"Expecting object but got list at item {index} of input list"
                if objects
                else f"Expecting value/list but got object at item {index} of input list"
            )
        if not objects:
            try:
                _add_item(columns, row, names[0], inputs)
            except ServingError as error:
                raise invalid_argument(
                    f"Failed to process element: {index} of 'instances' list. "
                    f"Error: {_status(error)}"
                ) from None
            continue
        for name, value in row.items():
            try:
                _add_item(columns, value, name, inputs)
            except ServingError as error:
                raise invalid_argument(
                    f"Failed to process element: {index} key: {name} of 'instances' list. "
                    f"Error: {_status(error)}"
                ) from None
        if sorted(row) != names:
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"{debug_string(row)} keys must be equal to: {','.join(names)}"
            )
    for name, column in columns.items():
        shape = [len(rows), *column.shape]
        _fill_tensor(request.inputs[name], inputs[name], shape, column.values)


class _Column:
    """One input's values over all rows, and the shape that every row must have."""

    __slots__ = ("shape", "size", "values")

    def __init__(self, shape: list[int], size: int, values: list[Any]) -> None:
        self.shape = shape
        self.size = size
        self.values = values


def _add_item(columns: dict[str, _Column], item: Any, name: str, inputs: Inputs) -> None:
    dtype = inputs.get(name)
    if dtype is None:
        raise invalid_argument(f"JSON object: does not have named input: {name}")
    shape = _dense_shape(item, name)
    column = columns.get(name)
    values = column.values if column else []
    before = len(values)
    _flatten(item, 0, dtype, shape, values)
    size = len(values) - before
    if column is None:
        columns[name] = _Column(shape, size, values)
    elif size != column.size:
        raise invalid_argument(f"Expecting tensor size: {column.size} but got: {size}")
    elif shape != column.shape:
        raise invalid_argument(
            f"Expecting shape {_shape_text(column.shape)} but got: {_shape_text(shape)}"
        )


def _fill_columns(
    request: messages.PredictRequest, document: Document, value: Any, inputs: Inputs
) -> None:
    if type(value) is not dict or _is_base64(value):
        if len(inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        items = dict.fromkeys(inputs, value)
        names = 0
    else:
        items = value
        names = len(value)
    for name in sorted(inputs):
        if name not in items:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
        item = items[name]
        dtype = inputs[name]
        array = document.array(item, dtype, names)
        if array is not None:
            tensors.fill_proto(request.inputs[name], array, as_content=True)
            continue
        shape = _dense_shape(item, name)
        values: list[Any] = []
        _flatten(item, 0, dtype, shape, values)
        _fill_tensor(request.inputs[name], dtype, shape, values)


def _fill_tensor(
    tensor: messages.TensorProto, dtype: int, shape: Iterable[int], values: list[Any]
) -> None:
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    getattr(tensor, _FIELDS.get(dtype, "int_val")).extend(values)


def _dense_shape(value: Any, name: str) -> list[int]:
    shape: list[int] = []
    while type(value) is list:
        shape.append(len(value))
        if len(shape) > MAX_RANK:
            raise invalid_argument(f"tensor parsing error: {name}")
        if not value:
            break
        value = value[0]
    return shape


def _flatten(value: Any, level: int, dtype: int, shape: list[int], out: list[Any]) -> None:
    rank = len(shape)
    if type(value) is not list:
        if level != rank:
            raise invalid_argument(
                f"JSON Value: {debug_string(value)} found at incorrect level: {level + 1} in the "
                f"JSON DOM. Expected at level: {rank}"
            )
        if type(value) is dict:
            if dtype != messages.DT_STRING:
                raise _type_error(value, dtype)
            out.append(_decode_base64(value))
        else:
            out.append(_element(value, dtype))
        return
    if level >= rank:
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    if level + 1 == rank and dtype == messages.DT_STRING and all(type(v) is str for v in value):
        out.extend([rapidjson.encode(v) for v in value])
        return
    for item in value:
        _flatten(item, level + 1, dtype, shape, out)


def _element(value: Any, dtype: int) -> Any:
    """One value of a tensor, as the proto field takes it; raises ServingError."""
    kind = type(value)
    if dtype in _FLOATS:
        if kind in (int, float):
            return rapidjson.as_double(value)
    elif dtype == messages.DT_STRING:
        if kind is str:
            return rapidjson.encode(value)
    elif dtype == messages.DT_BOOL:
        if kind is bool:
            return value
    elif dtype in _INT_RANGES:
        low, high = _INT_RANGES[dtype]
        if kind is int and low <= value <= high:
            return value
    else:
        raise unimplemented(
            f"Conversion of JSON Value: {debug_string(value)} to type: {dtype_name(dtype)}"
        )
    raise _type_error(value, dtype)


def _is_base64(value: Any) -> bool:
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def _is_element_object(value: Any) -> bool:
    return type(value) is dict and not _is_base64(value)


_BASE64 = re.compile(rb"([A-Za-z0-9+/]*)([=.]*)")
_BLANK = b" \t\n\v\f\r"


def _decode_base64(value: dict[str, Any]) -> bytes:
    """The bytes of {"b64": "..."}; padding may be missing, blanks don't count (absl)."""
    if not _is_base64(value):
        raise invalid_argument(
            f"JSON Value: {debug_string(value)} not formatted correctly for base64 data"
        )
    text = rapidjson.encode(value["b64"]).translate(None, _BLANK)
    found = _BASE64.fullmatch(text)
    if found is not None:
        digits, padding = found.groups()
        missing = -len(digits) % 4
        if missing != 3 and len(padding) in (0, missing):
            return base64.b64decode(digits + b"=" * missing)
    raise invalid_argument("Unable to base64 decode")


def _type_error(value: Any, dtype: int) -> ServingError:
    return invalid_argument(
        f"JSON Value: {debug_string(value)} Type: {_type_name(value)} is not of expected type: "
        f"{dtype_name(dtype)}"
    )


def _format_error(value: Any, text: str) -> ServingError:
    return invalid_argument(f"JSON Value: {debug_string(value)} {text}")


def _type_name(value: Any) -> str:
    if value is None:
        return "Null"
    if type(value) is bool:
        return str(value)
    for kind, name in ((dict, "Object"), (list, "Array"), (str, "String")):
        if type(value) is kind:
            return name
    return "Number"


def _shape_text(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _status(error: ServingError) -> str:
    return f"{error.code.name}: {error.message}"


# Classify and regress, in.


def fill_examples(
    request: messages.ClassificationRequest | messages.RegressionRequest, document: Document
) -> None:
    """Put the document's examples and context into the request; raises ServingError."""
    members = document.members
    name = document.signature_name()
    if name:
        request.model_spec.signature_name = clean(name)
    has_context = "context" in members
    if has_context:
        _fill_example(request.input.example_list_with_context.context, members["context"], document)
    if "examples" not in members:
        raise _format_error(
            members, "When method is classify, key 'examples' is expected and was not found"
        )
    examples = members["examples"]
    if type(examples) is not list:
        raise _format_error(members, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _format_error(members, "'examples' value is an empty array")
    target = (
        request.input.example_list_with_context.examples
        if has_context
        else request.input.example_list.examples
    )
    for example in examples:
        _fill_example(target.add(), example, document)


def _fill_example(example: messages.Example, value: Any, document: Document) -> None:
    if type(value) is not dict:
        raise invalid_argument(f"Example must be JSON object but got JSON {_type_name(value)}")
    # An example without features still has the field, as in TFS.
    features = example.features.feature
    for name, content in value.items():
        feature = features[clean(name)]
        items = content if type(content) is list else (content,)
        kind = ""
        values: list[Any] = []
        for item in items:
            item_kind, converted = _feature_value(name, item, kind, document)
            if kind and item_kind != kind:
                raise invalid_argument(
                    f"Unexpected element type in feature: {name} expecting type: {kind}"
                )
            kind = item_kind
            values.append(converted)
        if kind:
            getattr(feature, f"{kind}_list").value.extend(values)


def _feature_value(name: str, value: Any, kind: str, document: Document) -> tuple[str, Any]:
    """Which list of the feature takes the value, and as what; raises ServingError."""
    value_type = type(value)
    if value_type is bool:
        return "int64", int(value)
    if value_type is str:
        return "bytes", rapidjson.encode(value)
    if _is_base64(value):
        if kind not in ("", "bytes"):
            return "bytes", b""
        return "bytes", _decode_base64(value)
    if value_type is int and -(2**63) <= value < 2**64:
        if value >= 2**63 and kind in ("", "int64"):
            raise invalid_argument(
                f"Feature: {name} has uint64_t element. Only int64_t is supported."
            )
        return "int64", value
    if value_type in (int, float):
        number = rapidjson.as_double(value)
        if math.isinf(number) and b"I" not in document.body:
            document.recheck()
        return "float", number
    raise invalid_argument(
        f"Feature: {name} has element with unexpected JSON type: {_type_name(value)}"
    )


def clean(text: str) -> str:
    """The text without lone surrogates, which a proto's string can't hold."""
    return text if text.isascii() else rapidjson.encode(text).decode("utf-8", "replace")


# Out.

_LEVELS = ["\n" + "    " * depth for depth in range(MAX_RANK + 4)]


def predict_body(outputs: Mapping[str, messages.TensorProto], layout: Format) -> bytes:
    """The reply's body; raises ServingError for what JSON can't hold."""
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if layout is Format.ROW and len(outputs) == 1:
        ((name, tensor),) = outputs.items()
        if tensor.dtype == messages.DT_FLOAT and tensor.tensor_shape.dim:
            array = _output_array(name, tensor)
            if array.size:
                return float_rows_body(array)
    shapes = [_shape(tensor) for tensor in outputs.values()]
    total = sum(math.prod(shape) for shape in shapes)
    batches = {shape[0] if shape else 0 for shape in shapes}
    if any(
        0 in shape and math.prod([size for size in shape if size]) > _MAX_LISTS for shape in shapes
    ):
        raise invalid_argument("An output has more lists than can be written as JSON")
    if layout is Format.COLUMNAR:
        return rapidjson.encode(_columns(outputs))
    if total <= _BLOCK or len(batches) > 1 or 0 in batches:
        return rapidjson.encode(_rows(outputs))
    return _rows_in_blocks(outputs, batches.pop(), total)


def float_rows_body(array: NDArray[np.float32]) -> bytes:
    """`predict_body` by row for the only output, the most usual one; neither scalar nor empty."""
    if array.size >= rapidjson.MANY or array.ndim > 2:
        text = digits.rows(array)
    else:
        numbers = [rapidjson.decimal(number) for number in array.ravel().tolist()]
        if array.ndim == 2:
            width = array.shape[1]
            starts = range(0, len(numbers), width)
            numbers = [f"[{', '.join(numbers[at : at + width])}]" for at in starts]
        text = ", ".join(numbers).encode()
    return b'{\n    "predictions": [%b\n    ]\n}' % text


def _shape(tensor: messages.TensorProto) -> list[int]:
    return [dim.size for dim in tensor.tensor_shape.dim]


# Elements written at a time. A number that stands as text of its own takes some 70 bytes.
_BLOCK = 1 << 16
# A shape such as [2^40, 0] holds nothing and would be written as 2^40 empty lists.
_MAX_LISTS = 1 << 24


def _rows_in_blocks(outputs: Mapping[str, messages.TensorProto], batch: int, total: int) -> bytes:
    """What `_rows` writes, without holding every number as a string at once."""
    arrays = {name: _output_array(name, tensor) for name, tensor in outputs.items()}
    step = max(1, _BLOCK * batch // total)
    between = ", " if len(arrays) == 1 else "," + _LEVELS[2]
    pieces: list[bytes] = []
    for at in range(0, batch, step):
        block = {
            name: tensors.to_proto(array[at : at + step], as_content=True)
            for name, array in arrays.items()
        }
        text = _rows(block)
        # Between the brackets that every block's text has.
        inner = text[text.index("[") + 1 : text.rindex("\n    ]")]
        pieces.append(
            rapidjson.encode(inner if not at else between + inner.removeprefix(_LEVELS[2]))
        )
    return b'{\n    "predictions": [' + b"".join(pieces) + b"\n    ]\n}"


def _rows(outputs: Mapping[str, messages.TensorProto]) -> str:
    batch = -1
    columns: dict[str, list[str]] = {}
    # TFS goes through a hash map, in no order; here by name.
    named = sorted(outputs.items()) if len(outputs) > 1 else list(outputs.items())
    indent = 3 if len(named) > 1 else 2
    for name, tensor in named:
        shape = _shape(tensor)
        if not shape:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if batch >= 0 and batch != shape[0]:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {shape[0]} expecting: {batch}"
            )
        batch = shape[0]
        items = _elements(name, tensor, shape, indent + len(shape) - 1)
        for depth in range(len(shape) - 1, 0, -1):
            items = _on_lines(items, shape, depth)
        columns[name] = items
    if batch == 0:
        return '{\n    "predictions": []\n}'
    if len(columns) == 1:
        (rows,) = columns.values()
        return f'{{\n    "predictions": [{", ".join(rows)}\n    ]\n}}'
    names = [quote(name) for name in columns]
    member = _LEVELS[3]
    rows = [
        "{"
        + ",".join(f"{member}{name}: {item}" for name, item in zip(names, row, strict=True))
        + "\n        }"
        for row in zip(*columns.values(), strict=True)
    ]
    first, between = _LEVELS[2], "," + _LEVELS[2]
    return f'{{\n    "predictions": [{first}{between.join(rows)}\n    ]\n}}'


def _on_lines(items: list[str], shape: list[int], depth: int) -> list[str]:
    """Join the items into lists of `shape[depth]`, each on one line."""
    size = shape[depth]
    if len(items) == size:
        return [f"[{', '.join(items)}]"] * (1 if items else math.prod(shape[:depth]))
    return [
        f"[{', '.join(items[at : at + size])}]"
        for at in range(0, math.prod(shape[: depth + 1]), size)
    ]


def _columns(outputs: Mapping[str, messages.TensorProto]) -> str:
    several = len(outputs) > 1
    base = 2 if several else 1
    members = []
    for name in sorted(outputs):
        tensor = outputs[name]
        shape = _shape(tensor)
        items = _elements(name, tensor, shape, base + len(shape))
        for depth in range(len(shape) - 1, -1, -1):
            size = shape[depth]
            inner, outer = _LEVELS[base + depth + 1], _LEVELS[base + depth]
            joint = "," + inner
            items = [
                f"[{inner}{joint.join(items[at * size : (at + 1) * size])}{outer}]"
                if size
                else "[]"
                for at in range(math.prod(shape[:depth]))
            ]
        members.append(f"{quote(name)}: {items[0]}" if several else items[0])
    if several:
        joint = "," + _LEVELS[2]
        return f'{{\n    "outputs": {{{_LEVELS[2]}{joint.join(members)}\n    }}\n}}'
    return f'{{\n    "outputs": {members[0]}\n}}'


def _elements(name: str, tensor: messages.TensorProto, shape: list[int], level: int) -> list[str]:
    """Every element as JSON; `level` is how deep an element stands."""
    dtype = tensor.dtype
    if dtype == messages.DT_FLOAT:
        # The common case, without an array for a handful of values.
        numbers = tensor.float_val
        count = len(numbers)
        if 0 < count < rapidjson.MANY and count == math.prod(shape):
            return [rapidjson.decimal(number) for number in numbers]
    writer = _WRITERS.get(dtype)
    array = _output_array(name, tensor)
    if array.size == 0:
        return []
    if dtype == messages.DT_STRING:
        values: list[bytes] = array.ravel().tolist()
        if name.endswith("_bytes"):
            inner, outer = _LEVELS[level + 1], _LEVELS[level]
            return [
                f'{{{inner}"b64": "{base64.b64encode(value).decode()}"{outer}}}' for value in values
            ]
        return [quote(value.decode("utf-8", "surrogateescape")) for value in values]
    if writer is None:
        raise invalid_argument(f"Failed to write JSON value for tensor type: {dtype_name(dtype)}")
    if array.size <= _BLOCK:
        return writer(array)
    flat = array.ravel()
    # In steps, between which other threads have the GIL.
    return [text for at in range(0, flat.size, _BLOCK) for text in writer(flat[at : at + _BLOCK])]


def _output_array(name: str, tensor: messages.TensorProto) -> NDArray[Any]:
    try:
        return tensors.to_array(tensor)
    except ValueError as error:
        raise internal(f"Failed to read output {name}: {error}") from None


def _booleans(array: NDArray[Any]) -> list[str]:
    return ["true" if value else "false" for value in array.ravel().tolist()]


def _integers(array: NDArray[Any]) -> list[str]:
    return [str(value) for value in array.ravel().tolist()]


_WRITERS: dict[int, Callable[[NDArray[Any]], list[str]]] = {
    messages.DT_FLOAT: digits.texts,
    messages.DT_DOUBLE: rapidjson.decimals,
    messages.DT_BOOL: _booleans,
    **dict.fromkeys(_INT_RANGES, _integers),
}


def classification_body(result: messages.ClassificationResult) -> bytes:
    """The reply to classify; raises ServingError (INVALID_ARGUMENT) for an empty result."""
    if not result.classifications:
        raise invalid_argument("Cannot convert empty ClassificationResults to JSON")
    items = []
    for classifications in result.classifications:
        pairs = [
            f"[{quote(entry.label)}, {rapidjson.decimal(entry.score)}]"
            for entry in classifications.classes
        ]
        items.append(f"[{', '.join(pairs)}]")
    return rapidjson.encode(f'{{\n    "results": [{", ".join(items)}\n    ]\n}}')


def regression_body(result: messages.RegressionResult) -> bytes:
    """The reply to regress; raises ServingError (INVALID_ARGUMENT) for an empty result."""
    if not result.regressions:
        raise invalid_argument("Cannot convert empty RegressionResults to JSON")
    values = np.array([entry.value for entry in result.regressions], np.float32)
    return rapidjson.encode(f'{{\n    "results": [{", ".join(rapidjson.decimals(values))}]\n}}')


def error_body(message: str) -> bytes:
    """The body of every error that has one."""
    return rapidjson.encode(f'{{\n    "error": {quote(message)}\n}}')
