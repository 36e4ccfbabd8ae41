"""Calls as messages, and answers as results: what the sync and the asyncio client share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import ArrayLike, NDArray

from serving.client import errors
from serving.client.errors import InvalidRequest
from serving.client.results import (
    Classification,
    ModelMetadata,
    Prediction,
    Signature,
    TensorSpec,
    VersionStatus,
)
from serving.protocol import messages, tensors
from serving.protocol.status import Code

Inputs = Mapping[str, ArrayLike]


def as_array(value: ArrayLike, name: str) -> NDArray[Any]:
    """Return the array to send: an array in its own dtype, numbers and lists as TensorFlow's.

    As in tf.make_tensor_proto, Python's floats become float32 and its ints int32 where they fit.
    Raises InvalidRequest for a ragged list or a dtype that TensorFlow does not have.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidRequest(
            f"input '{name}' is no array: {error}", "Rows must have the same length."
        ) from None
    if isinstance(value, np.generic):
        return array
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.int64 and (
        array.size == 0 or (array.min() >= -(2**31) and array.max() < 2**31)
    ):
        return array.astype(np.int32)
    return array


def merge_inputs(inputs: Inputs | None, named: Inputs) -> Inputs:
    """The inputs of a call, given as a mapping, as keyword arguments or as both."""
    if inputs is None:
        return named
    if not isinstance(inputs, Mapping):
        raise InvalidRequest(
            f"the inputs are a {type(inputs).__name__}, not a mapping of input names to arrays",
            'Such as predict({"chopstick_length": array}) or predict(chopstick_length=array).',
        )
    return {**inputs, **named} if named else inputs


def set_spec(
    spec: messages.ModelSpec,
    model: str,
    version: int | None,
    label: str | None,
    signature: str | None,
) -> None:
    """Write model, version or label, and signature into an empty ModelSpec."""
    spec.name = model
    if version is not None:
        if label is not None:
            raise InvalidRequest(
                f"both version {version} and label '{label}' are given",
                "A label stands for a version: give one of them.",
            )
        try:
            spec.version.value = version
        except (TypeError, ValueError):
            raise InvalidRequest(
                f"{version!r} is not a version number", "Versions are whole numbers of 64 bits."
            ) from None
    elif label is not None:
        spec.version_label = label
    if signature is not None:
        spec.signature_name = signature


def predict_request(
    model: str,
    inputs: Inputs,
    version: int | None,
    label: str | None,
    signature: str | None,
    *,
    outputs: Sequence[str],
) -> messages.PredictRequest:
    """Build the message of one Predict call."""
    request = messages.PredictRequest()
    set_spec(request.model_spec, model, version, label, signature)
    protos = request.inputs
    for name, value in inputs.items():
        array = as_array(value, name)
        try:
            tensors.fill_proto(protos[name], array, as_content=True)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"input '{name}' cannot be sent: {error}", "Use a dtype that TensorFlow has."
            ) from None
    if outputs:
        if isinstance(outputs, str):
            outputs = (outputs,)
        request.output_filter.extend(outputs)
    return request


def prediction(response: messages.PredictResponse, target: str) -> Prediction:
    """Read the answer of one Predict call."""
    spec = response.model_spec
    outputs: dict[str, NDArray[Any]] = {}
    for name, proto in response.outputs.items():
        try:
            array = tensors.to_array(proto)
        except ValueError as error:
            raise errors.from_code(
                Code.INTERNAL, f"output '{name}' is not a tensor: {error}", target
            ) from None
        # tensor_content is viewed in place, and bytes are read-only; an answer is the caller's.
        outputs[name] = array if array.flags.writeable else array.copy()
    return Prediction(outputs, spec.version.value, spec.signature_name)


def classification_request(
    model: str, features: Inputs, version: int | None, label: str | None, signature: str | None
) -> messages.ClassificationRequest:
    """Build the message of one Classify call: row i of every feature is example i."""
    request = messages.ClassificationRequest()
    set_spec(request.model_spec, model, version, label, signature)
    add = request.input.example_list.examples.add
    for row in example_rows(features):
        target = add().features.feature
        for name, values in row.items():
            first = values[0] if values else 0.0
            if isinstance(first, bytes | str):
                target[name].bytes_list.value.extend(
                    [v.encode() if isinstance(v, str) else v for v in values]
                )
            elif isinstance(first, float):
                target[name].float_list.value.extend(values)
            else:
                target[name].int64_list.value.extend(values)
    return request


def example_rows(features: Inputs) -> list[dict[str, list[Any]]]:
    """Split features along their first axis into one mapping per example.

    Raises InvalidRequest when the features differ in their number of rows or are no arrays.
    """
    columns = {name: as_array(value, name) for name, value in features.items()}
    sizes = {name: len(array) if array.ndim else 0 for name, array in columns.items()}
    if not columns or min(sizes.values()) < 1 or len(set(sizes.values())) != 1:
        raise InvalidRequest(
            f"the features have {sizes or 'no'} rows",
            "Give every feature one row per example, at least one.",
        )
    flat = {}
    for name, array in columns.items():
        if array.dtype.kind not in "fiubSUO":
            raise InvalidRequest(
                f"feature '{name}' has dtype {array.dtype}",
                "An Example holds floats, integers and strings.",
            )
        flat[name] = array.reshape(len(array), -1).tolist()
    count = next(iter(sizes.values()))
    return [{name: rows[i] for name, rows in flat.items()} for i in range(count)]


def classification(response: messages.ClassificationResponse, target: str) -> Classification:
    """Read the answer of one Classify call."""
    rows = [
        [(item.label, item.score) for item in result.classes]
        for result in response.result.classifications
    ]
    spec = response.model_spec
    return classification_of(rows, spec.version.value, spec.signature_name, target)


def classification_of(
    rows: list[list[tuple[str, float]]], version: int | None, signature: str, target: str
) -> Classification:
    """Arrange (label, score) pairs per example as two arrays."""
    if len({len(row) for row in rows}) > 1:
        raise errors.from_code(
            Code.INTERNAL, "the examples have different numbers of classes", target
        )
    shape = (len(rows), len(rows[0]) if rows else 0)
    labels = np.array([name for row in rows for name, _ in row], dtype=np.str_).reshape(shape)
    scores = np.array([score for row in rows for _, score in row], dtype=np.float32)
    return Classification(labels, scores.reshape(shape), version, signature)


def status_request(model: str, version: int | None) -> messages.GetModelStatusRequest:
    """Build the message of one GetModelStatus call."""
    request = messages.GetModelStatusRequest()
    set_spec(request.model_spec, model, version, None, None)
    return request


def statuses(response: messages.GetModelStatusResponse) -> list[VersionStatus]:
    """Read the answer of one GetModelStatus call, newest version first."""
    found = [
        VersionStatus(
            item.version,
            messages.ModelVersionStatus.State.Name(item.state),
            errors.known_code(item.status.error_code),
            item.status.error_message,
        )
        for item in response.model_version_status
    ]
    return sorted(found, key=lambda status: -status.version)


def metadata_request(
    model: str, version: int | None, label: str | None
) -> messages.GetModelMetadataRequest:
    """Build the message of one GetModelMetadata call."""
    request = messages.GetModelMetadataRequest()
    set_spec(request.model_spec, model, version, label, None)
    request.metadata_field.append("signature_def")
    return request


def metadata(response: messages.GetModelMetadataResponse, target: str) -> ModelMetadata:
    """Read the answer of one GetModelMetadata call."""
    packed = response.metadata.get("signature_def")
    found = messages.SignatureDefMap()
    if packed is None or not packed.Unpack(found):
        raise errors.from_code(Code.INTERNAL, "the answer holds no signature_def", target)
    spec = response.model_spec
    return ModelMetadata(
        spec.name,
        spec.version.value,
        {
            name: Signature(
                {key: _tensor_spec(info) for key, info in sorted(definition.inputs.items())},
                {key: _tensor_spec(info) for key, info in sorted(definition.outputs.items())},
                definition.method_name,
            )
            for name, definition in sorted(found.signature_def.items())
            # A TF2 export lists its initialiser as if it were a signature.
            if name != "__saved_model_init_op"
        },
    )


def _tensor_spec(info: messages.TensorInfo) -> TensorSpec:
    shape = info.tensor_shape
    return TensorSpec(
        tensors.dtype_name(info.dtype),
        None if shape.unknown_rank else tuple(dim.size for dim in shape.dim),
    )


def reload_request(config: messages.ModelServerConfig | str) -> messages.ReloadConfigRequest:
    """Build the message of one HandleReloadConfigRequest call from a message or a text proto."""
    request = messages.ReloadConfigRequest()
    if isinstance(config, str):
        try:
            text_format.Parse(config, request.config, descriptor_pool=messages.POOL)
        except text_format.ParseError as error:
            raise InvalidRequest(
                f"the model config is no ModelServerConfig in text format: {error}",
                "Such as model_config_list { config { name: ... base_path: ... } }.",
            ) from None
    else:
        request.config.CopyFrom(config)
    return request


def check_reload(response: messages.ReloadConfigResponse, target: str) -> None:
    """Raise the error that a reload's answer carries in its body, if any."""
    if response.status.error_code:
        raise errors.from_code(response.status.error_code, response.status.error_message, target)
