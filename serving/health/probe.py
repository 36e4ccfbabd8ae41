"""The Predict that proves a version: built from its signature, without NumPy.

Zeros of the signature's shape by default. A model that zeros make fail (a text, a key to look up)
has its own values in a JSON file: `{"input": nested list}`, bytes as `{"b64": "..."}` as in
TensorFlow Serving's REST API.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.protocol import messages

# Each dtype's field of TensorProto and what a value must be.
_FIELDS: dict[int, tuple[str, type]] = {
    messages.DT_FLOAT: ("float_val", float),
    messages.DT_DOUBLE: ("double_val", float),
    messages.DT_HALF: ("half_val", float),
    messages.DT_BFLOAT16: ("half_val", float),
    messages.DT_INT8: ("int_val", int),
    messages.DT_INT16: ("int_val", int),
    messages.DT_INT32: ("int_val", int),
    messages.DT_UINT8: ("int_val", int),
    messages.DT_UINT16: ("int_val", int),
    messages.DT_UINT32: ("uint32_val", int),
    messages.DT_INT64: ("int64_val", int),
    messages.DT_UINT64: ("uint64_val", int),
    messages.DT_BOOL: ("bool_val", bool),
    messages.DT_STRING: ("string_val", bytes),
    messages.DT_COMPLEX64: ("scomplex_val", complex),
    messages.DT_COMPLEX128: ("dcomplex_val", complex),
}
_WORDS = {float: "a number", int: "a whole number", bool: "true or false", bytes: "a text"}


class ProbeError(Exception):
    """No Predict can be built for the model; the text says what to change."""


@dataclass(frozen=True)
class Inputs:
    """Values for a model's inputs, by alias: each a shape and its values in row-major order."""

    values: Mapping[str, tuple[tuple[int, ...], list[Any]]]

    @classmethod
    def read(cls, path: Path) -> Inputs:
        """Read a JSON file; raises ValueError saying what is wrong with it."""
        try:
            body = json.loads(path.read_bytes())
        except OSError as error:
            raise ValueError(f"cannot read '{path}': {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"'{path}' is not JSON: {error}") from None
        if not isinstance(body, dict) or not body:
            raise ValueError(f"'{path}' is not a JSON object with an input in it")
        try:
            return cls({alias: _flatten(value) for alias, value in body.items()})
        except ValueError as error:
            raise ValueError(f"'{path}': {error}") from None


def _flatten(value: Any) -> tuple[tuple[int, ...], list[Any]]:
    if not isinstance(value, list):
        if value is None or (isinstance(value, dict) and set(value) != {"b64"}):
            raise ValueError(f"{json.dumps(value)[:60]} is not a value")
        return (), [value]
    parts = [_flatten(item) for item in value]
    shapes = {shape for shape, _ in parts}
    if len(shapes) > 1:
        raise ValueError(f"{json.dumps(value)[:60]} has rows of different shapes")
    inner = shapes.pop() if shapes else ()
    return (len(parts), *inner), [item for _, items in parts for item in items]


def build_request(
    model: str,
    version: int,
    signature_name: str,
    metadata: messages.GetModelMetadataResponse,
    inputs: Inputs | None,
) -> messages.PredictRequest:
    """A PredictRequest for `version` by the signature that GetModelMetadata told.

    Raises ProbeError when the signature is not there or `inputs` does not fit it.
    """
    signature = _signature(metadata, signature_name)
    request = messages.PredictRequest()
    request.model_spec.name = model
    request.model_spec.version.value = version
    request.model_spec.signature_name = signature_name
    if inputs and (wrong := sorted(set(inputs.values) ^ set(signature.inputs))):
        raise ProbeError(
            f"the inputs given are {sorted(inputs.values)}, signature '{signature_name}' has "
            f"{sorted(signature.inputs)}: correct {wrong} in the file of --inputs"
        )
    for alias, info in signature.inputs.items():
        if info.dtype not in _FIELDS:
            name = messages.DataType.Name(info.dtype)
            raise ProbeError(f"input '{alias}' is {name}, which no request can carry")
        if inputs:
            _fill(request.inputs[alias], alias, info.dtype, *inputs.values[alias])
        else:
            _fill_zeros(request.inputs[alias], info)
    return request


def _signature(metadata: messages.GetModelMetadataResponse, name: str) -> messages.SignatureDef:
    packed = metadata.metadata["signature_def"].value
    found = messages.SignatureDefMap.FromString(packed).signature_def
    if name not in found:
        known = sorted(key for key in found if not key.startswith("__"))
        raise ProbeError(f"the model has no signature '{name}', only {known}: see --signature")
    return found[name]


def _fill_zeros(proto: messages.TensorProto, info: messages.TensorInfo) -> None:
    """One zero: TensorFlow repeats the last value for as long as the shape asks."""
    field, kind = _FIELDS[info.dtype]
    proto.dtype = info.dtype
    proto.tensor_shape.SetInParent()
    if info.tensor_shape.unknown_rank:
        # Most models have a batch for their first dimension.
        proto.tensor_shape.dim.add().size = 1
    for dim in info.tensor_shape.dim:
        proto.tensor_shape.dim.add().size = 1 if dim.size < 0 else dim.size
    zeros = [0.0, 0.0] if kind is complex else [0 if field == "half_val" else kind()]
    getattr(proto, field).extend(zeros)


def _fill(
    proto: messages.TensorProto, alias: str, dtype: int, shape: tuple[int, ...], values: list[Any]
) -> None:
    field, kind = _FIELDS[dtype]
    proto.dtype = dtype
    proto.tensor_shape.SetInParent()
    for size in shape:
        proto.tensor_shape.dim.add().size = size
    name = messages.DataType.Name(dtype)
    try:
        for value in values:
            getattr(proto, field).extend(_convert(value, kind, dtype))
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise ProbeError(
            f"input '{alias}' is {name}: {error}; correct it in the file of --inputs"
        ) from None


def _convert(value: Any, kind: type, dtype: int) -> list[Any]:
    if kind is bytes:
        return [_as_bytes(value)]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = {
        float: number,
        complex: number,
        int: number and float(value).is_integer(),
        bool: isinstance(value, bool),
    }
    if not fits[kind]:
        raise ValueError(f"{json.dumps(value)[:60]} is not {_WORDS.get(kind, 'a number')}")
    if kind is complex:
        return [float(value), 0.0]
    if dtype == messages.DT_HALF:
        # half_val holds the 16 bits of each number.
        return [struct.unpack("<H", struct.pack("<e", value))[0]]
    if dtype == messages.DT_BFLOAT16:
        return [struct.unpack("<I", struct.pack("<f", value))[0] >> 16]
    return [kind(value)]


def _as_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except (TypeError, binascii.Error):
            raise ValueError("the value of b64 is not base64") from None
    raise ValueError(f"{json.dumps(value)[:60]} is not a text")
