"""From a request to one session run and back: Predict, Classify, Regress, MultiInference.

Each `*_call` function checks a request against the loaded bundle and returns a `Call`: which
arrays to feed, what to fetch, and how to make the response of what comes out. Who runs it, and in
which thread, is somebody else's decision. Messages and their order of checking are TFS's
(servables/tensorflow/predict_util.cc, classifier.cc, regressor.cc, multi_inference.cc, util.cc).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.protocol import messages, tensors
from serving.protocol.status import internal, invalid_argument, unimplemented
from serving.server.bundle import (
    DEFAULT_SIGNATURE,
    Arrays,
    Runner,
    SavedModelBundle,
    Signature,
    feed_arrays,
    fetch_aliases,
    write_output,
)

R = TypeVar("R")

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
PREDICT = "tensorflow/serving/predict"
EXAMPLES_INPUT = "inputs"


@dataclass(slots=True)
class Call(Generic[R]):
    """One session run: what goes in, what comes out, what the response is made of."""

    signature: Signature
    runner: Runner
    feeds: tuple[str, ...]
    fetches: tuple[str, ...]
    arrays: Arrays
    finish: Callable[[Arrays], R]
    examples: int = 0
    """tf.Examples in the request; 0 for Predict."""

    @property
    def rows(self) -> int:
        """Size of the first dimension of the first input; 1 where there is none."""
        if self.arrays and self.arrays[0].ndim:
            return int(self.arrays[0].shape[0])
        return 1


def predict_call(
    bundle: SavedModelBundle,
    request: messages.PredictRequest,
    version: int,
    *,
    as_content: bool,
    check_method: bool,
) -> Call[messages.PredictResponse]:
    """Prepare a Predict. Raises ServingError."""
    spec = request.model_spec
    signature = _prediction_signature(bundle, spec.signature_name, check_method=check_method)
    feeds, arrays = feed_arrays(signature, request.inputs)
    aliases, fetches = signature.all_outputs, signature.all_fetches
    if request.output_filter:
        aliases = fetch_aliases(signature, list(request.output_filter))
        fetches = tuple([signature.outputs[alias] for alias in aliases])

    def finish(outputs: Arrays) -> messages.PredictResponse:
        response = messages.PredictResponse()
        _fill_spec(response.model_spec, spec.name, signature.name, version)
        for alias, array in zip(aliases, outputs, strict=True):
            write_output(response.outputs[alias], array, as_content=as_content)
        return response

    return Call(signature, bundle.runner(signature, feeds, fetches), feeds, fetches, arrays, finish)


def plain_call(
    bundle: SavedModelBundle, fill: Callable[[int], NDArray[Any] | None], *, check_method: bool
) -> Call[NDArray[Any]] | None:
    """Prepare a Predict of the default signature from one array to one array, without messages.

    `fill` makes the array, given the input's dtype number. None where it makes none and where the
    signature has more than one input or anything but one float32 as output. Raises ServingError.
    """
    signature = bundle.signatures.get(DEFAULT_SIGNATURE)
    if signature is None or signature.plain_input is None:
        return None
    array = fill(signature.plain_input)
    if array is None:
        return None
    _prediction_signature(bundle, DEFAULT_SIGNATURE, check_method=check_method)
    feeds, fetches = signature.feeds, signature.all_fetches
    runner = bundle.runner(signature, feeds, fetches)
    return Call(signature, runner, feeds, fetches, [array], _only)


def _only(outputs: Arrays) -> NDArray[Any]:
    return outputs[0]


def classify_call(
    bundle: SavedModelBundle,
    request: messages.ClassificationRequest,
    version: int,
    *,
    check_method: bool,
) -> Call[messages.ClassificationResponse]:
    """Prepare a Classify. Raises ServingError."""
    spec = request.model_spec
    signature = _example_signature(bundle, spec)
    feed, fetches = _classification_tensors(signature, check_method=check_method)
    examples = serialized_examples(request.input)

    def finish(outputs: Arrays) -> messages.ClassificationResponse:
        response = messages.ClassificationResponse()
        _fill_spec(response.model_spec, spec.name, signature.name, version)
        _fill_classifications(
            response.result, signature, len(examples), dict(zip(fetches, outputs, strict=True))
        )
        return response

    return _example_call(bundle, signature, (feed,), fetches, examples, finish)


def regress_call(
    bundle: SavedModelBundle,
    request: messages.RegressionRequest,
    version: int,
    *,
    check_method: bool,
) -> Call[messages.RegressionResponse]:
    """Prepare a Regress. Raises ServingError."""
    spec = request.model_spec
    signature = _example_signature(bundle, spec)
    feed, fetches = _regression_tensors(signature, check_method=check_method)
    examples = serialized_examples(request.input)

    def finish(outputs: Arrays) -> messages.RegressionResponse:
        response = messages.RegressionResponse()
        _fill_spec(response.model_spec, spec.name, signature.name, version)
        _fill_regressions(
            response.result, signature, len(examples), dict(zip(fetches, outputs, strict=True))
        )
        return response

    return _example_call(bundle, signature, (feed,), fetches, examples, finish)


def multi_inference_call(
    bundle: SavedModelBundle,
    request: messages.MultiInferenceRequest,
    version: int,
    *,
    check_method: bool,
) -> Call[messages.MultiInferenceResponse]:
    """Prepare a MultiInference: several signatures of one model in one run. Raises ServingError."""
    model = ""
    tasks: list[tuple[messages.InferenceTask, Signature]] = []
    feeds: set[str] = set()
    fetches: set[str] = set()
    for task in request.tasks:
        spec = task.model_spec
        if not spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if model and model != spec.name:
            raise invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        model = spec.name
        name = spec.signature_name or DEFAULT_SIGNATURE
        if any(name == signature.name for _, signature in tasks):
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        if name not in bundle.signatures:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        signature = bundle.signatures[name]
        if task.method_name == CLASSIFY:
            feed, outputs = _classification_tensors(signature, check_method=check_method)
        elif task.method_name == REGRESS:
            feed, outputs = _regression_tensors(signature, check_method=check_method)
        else:
            raise unimplemented(f"Unsupported signature method_name: {task.method_name}")
        tasks.append((task, signature))
        feeds.add(feed)
        fetches.update(outputs)
    examples = serialized_examples(request.input)
    ordered = tuple(sorted(fetches))

    def finish(outputs: Arrays) -> messages.MultiInferenceResponse:
        by_name = dict(zip(ordered, outputs, strict=True))
        response = messages.MultiInferenceResponse()
        for task, signature in tasks:
            result = response.results.add()
            if task.method_name == CLASSIFY:
                _fill_classifications(
                    result.classification_result, signature, len(examples), by_name
                )
            else:
                _fill_regressions(result.regression_result, signature, len(examples), by_name)
            _fill_spec(result.model_spec, task.model_spec.name, signature.name, version)
        return response

    return _example_call(bundle, tasks[0][1], tuple(sorted(feeds)), ordered, examples, finish)


def serialized_examples(source: messages.Input) -> list[bytes]:
    """Each tf.Example of the request as bytes, the shared context first.

    Concatenated protobuf bytes merge, with the later (the example's own) features winning.
    Raises ServingError (INVALID_ARGUMENT) when there is none.
    """
    kind = source.WhichOneof("kind")
    context = b""
    examples: Any = ()
    if kind == "example_list":
        examples = source.example_list.examples
    elif kind == "example_list_with_context":
        context = source.example_list_with_context.context.SerializeToString()
        examples = source.example_list_with_context.examples
    if not examples:
        raise invalid_argument("Input is empty.")
    return [context + example.SerializeToString() for example in examples]


def _example_call(
    bundle: SavedModelBundle,
    signature: Signature,
    feeds: tuple[str, ...],
    fetches: tuple[str, ...],
    examples: list[bytes],
    finish: Callable[[Arrays], R],
) -> Call[R]:
    array: NDArray[Any] = np.empty(len(examples), dtype=object)
    array[:] = examples
    runner = bundle.runner(signature, feeds, fetches)
    return Call(signature, runner, feeds, fetches, [array] * len(feeds), finish, len(examples))


def _prediction_signature(bundle: SavedModelBundle, name: str, *, check_method: bool) -> Signature:
    signature = bundle.signature(name)
    if check_method and signature.definition.method_name not in (PREDICT, CLASSIFY, REGRESS):
        method = signature.definition.method_name
        raise internal(
            "Expected prediction signature method_name to be one of "
            f"{{{PREDICT}, {CLASSIFY}, {REGRESS}}}. Was: {method}"
        )
    return signature


def _example_signature(bundle: SavedModelBundle, spec: messages.ModelSpec) -> Signature:
    name = spec.signature_name or DEFAULT_SIGNATURE
    try:
        return bundle.signatures[name]
    except KeyError:
        raise invalid_argument(f"No signature was found with the name: {name}") from None


def _check_example_input(signature: Signature, kind: str, method: str, *, check: bool) -> None:
    definition = signature.definition
    if check and definition.method_name != method:
        raise invalid_argument(
            f"Expected {kind} signature method_name to be {method}. Was: {definition.method_name}"
        )
    if len(definition.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")


def _input_tensor(signature: Signature, kind: str) -> str:
    definition = signature.definition
    if EXAMPLES_INPUT not in definition.inputs:
        raise invalid_argument(f"No {kind} inputs found in SignatureDef: {definition}")
    return definition.inputs[EXAMPLES_INPUT].name


def _classification_tensors(
    signature: Signature, *, check_method: bool
) -> tuple[str, tuple[str, ...]]:
    _check_example_input(signature, "classification", CLASSIFY, check=check_method)
    outputs = signature.outputs
    if len(outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(outputs)}")
    feed = _input_tensor(signature, "classification")
    fetches = tuple([outputs[alias] for alias in ("classes", "scores") if alias in outputs])
    if not fetches:
        raise invalid_argument(
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {signature.definition}'
        )
    return feed, fetches


def _regression_tensors(signature: Signature, *, check_method: bool) -> tuple[str, tuple[str, ...]]:
    _check_example_input(signature, "regression", REGRESS, check=check_method)
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    feed = _input_tensor(signature, "regression")
    if "outputs" not in signature.outputs:
        raise invalid_argument(
            f"No regression outputs found in SignatureDef: {signature.definition}"
        )
    return feed, (signature.outputs["outputs"],)


def _shape(array: NDArray[Any]) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _check_matrix(array: NDArray[Any], which: str, dtype: int, examples: int) -> None:
    if array.ndim != 2:
        raise invalid_argument(
            f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
        )
    actual = tensors.number_of(array.dtype)
    if actual != dtype:
        raise invalid_argument(
            f"Expected {which} Tensor of {messages.DataType.Name(dtype)}. "
            f"Got: {messages.DataType.Name(actual)}"
        )
    if array.shape[0] != examples:
        raise invalid_argument(
            f"Expected {which} output batch size of {examples}. Got: {array.shape[0]}"
        )


def _fill_classifications(
    result: messages.ClassificationResult,
    signature: Signature,
    examples: int,
    arrays: dict[str, NDArray[Any]],
) -> None:
    classes = arrays.get(signature.outputs.get("classes", ""))
    scores = arrays.get(signature.outputs.get("scores", ""))
    if classes is not None:
        _check_matrix(classes, "classes", messages.DT_STRING, examples)
    if scores is not None:
        _check_matrix(scores, "scores", messages.DT_FLOAT, examples)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid_argument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{classes.shape[1]} vs. {scores.shape[1]}"
        )
    labels = classes.tolist() if classes is not None else None
    values = scores.tolist() if scores is not None else None
    for row in range(examples):
        target = result.classifications.add().classes
        for column in range(len((labels or values or [[]])[row])):
            item = target.add()
            if labels is not None:
                # A label is a string on the wire; TFS's C++ does not check that it is UTF-8.
                item.label = labels[row][column].decode("utf-8", "replace")
            if values is not None:
                item.score = values[row][column]


def _fill_regressions(
    result: messages.RegressionResult,
    signature: Signature,
    examples: int,
    arrays: dict[str, NDArray[Any]],
) -> None:
    array = arrays[signature.outputs["outputs"]]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid_argument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape(array)}"
        )
    if array.shape[0] != examples:
        raise invalid_argument(
            f"Input batch size did not match output batch size: {examples} vs. {array.shape[0]}"
        )
    actual = tensors.number_of(array.dtype)
    if actual != messages.DT_FLOAT:
        raise invalid_argument(
            f"Expected output Tensor of DT_FLOAT.  Got: {messages.DataType.Name(actual)}"
        )
    for value in array.ravel().tolist():
        result.regressions.add(value=value)


def _fill_spec(spec: messages.ModelSpec, name: str, signature_name: str, version: int) -> None:
    spec.name = name
    spec.signature_name = signature_name
    spec.version.value = version
