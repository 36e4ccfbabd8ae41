"""One loaded SavedModel: its signatures and the prepared calls that answer requests."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol import messages, tensors
from serving.protocol.status import (
    ServingError,
    failed_precondition,
    invalid_argument,
    not_found,
)
from serving.server.tensorflow import config_pb2, tf

if TYPE_CHECKING:
    from serving.server.batching import BatchScheduler

DEFAULT_SIGNATURE = "serving_default"
Arrays = list[NDArray[Any]]
Runner = Callable[..., Arrays]

# Prepared calls per signature beyond the one that fetches everything; each output_filter needs
# its own, and a caller could ask for every subset.
MAX_RUNNERS = 32

# A run shorter than this is made in the event loop's thread: a hand-over to a worker costs
# about 0.1 ms and a switch of the GIL twice.
SHORT_RUN_SECONDS = 0.001

_INTERPOLATED = re.compile(
    r"Graph execution error:\n\nDetected at node .*\nNode: '[^\n]*'\n(.*?)"
    r"(?:\n\nOriginal stack trace for .*)?",
    re.DOTALL,
)


class RunTimes:
    """How long runs of one signature take, by the size of their first dimension.

    Sizes are kept by power of two, since a model that is short for one row need not be for
    4,096. A size that was never measured counts as long, so a big batch can't stall the loop by
    being the first of its kind.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = [float("inf")] * 64

    def is_short(self, rows: int) -> bool:
        """Whether a run of this many rows is expected to stay under a millisecond."""
        return self._seconds[rows.bit_length()] < SHORT_RUN_SECONDS

    def add(self, rows: int, seconds: float) -> None:
        """Note one measured run."""
        index = rows.bit_length()
        known = self._seconds[index]
        # A minimum would forget that a model became slow; a plain mean would be spoilt by one
        # run that lost the CPU.
        self._seconds[index] = seconds if known == float("inf") else 0.9 * known + 0.1 * seconds


@dataclass
class Signature:
    """A SignatureDef with what a request needs worked out once."""

    name: str
    definition: messages.SignatureDef
    inputs: tuple[tuple[str, str, int], ...]
    """(alias, tensor name, dtype number), by alias."""
    outputs: dict[str, str]
    """alias: tensor name, by alias."""
    all_outputs: tuple[str, ...]
    feeds: tuple[str, ...]
    """Tensor names of all inputs, by alias."""
    all_fetches: tuple[str, ...]
    """Tensor names of all outputs, by alias."""
    plain_input: int | None
    """The dtype number of the only input, where a float32 is the only output; else None."""
    times: RunTimes = field(default_factory=RunTimes)
    runners: dict[tuple[tuple[str, ...], tuple[str, ...]], Runner] = field(default_factory=dict)


class SavedModelBundle:
    """A SavedModel in a session, with one prepared callable per set of inputs and outputs.

    A session, and not `tf.saved_model.load`, because a session's errors, feeds and threads are
    the ones that TensorFlow Serving has.
    """

    def __init__(self, path: str, tags: list[str], session_config: Any) -> None:
        """Load the version at `path`; raises ServingError with TFS's codes and words."""
        self.path = path
        meta_graph = _read_meta_graph(path, tags)
        self.definitions: dict[str, messages.SignatureDef] = dict(meta_graph.signature_def)
        started = time.perf_counter()
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=session_config)
        try:
            with graph.as_default():
                tf.compat.v1.saved_model.loader.load(self._session, tags, path)
        except Exception as error:
            self._session.close()
            raise _load_error(error) from None
        self.seconds_to_restore = time.perf_counter() - started
        self.signatures = {name: _prepare(name, d) for name, d in self.definitions.items()}
        self.batching: BatchScheduler | None = None
        self.on_build: Callable[[float], None] = lambda _: None
        """Called with the seconds that preparing a callable took."""

    def signature(self, name: str) -> Signature:
        """The signature a Predict asks for; raises ServingError (FAILED_PRECONDITION)."""
        try:
            return self.signatures[name or DEFAULT_SIGNATURE]
        except KeyError:
            raise failed_precondition(
                f'Serving signature key "{name or DEFAULT_SIGNATURE}" not found.'
            ) from None

    def runner(
        self, signature: Signature, feeds: tuple[str, ...], fetches: tuple[str, ...]
    ) -> Runner:
        """A callable that takes the feeds' arrays and returns the fetches' (tensor names)."""
        key = (feeds, fetches)
        runner = signature.runners.get(key)
        if runner is None:
            if len(signature.runners) >= MAX_RUNNERS:
                signature.runners.pop(next(iter(signature.runners)))
            options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
            started = time.perf_counter()
            try:
                prepared = self._session._make_callable_from_options(options)  # noqa: SLF001
            except tf.errors.OpError as error:
                raise ServingError(error.error_code, error.message) from None
            self.on_build(time.perf_counter() - started)
            runner = signature.runners[key] = _translating(prepared)
        return runner

    def close(self) -> None:
        """Free the session; call when no request uses the bundle any more."""
        for signature in self.signatures.values():
            signature.runners.clear()
        self._session.close()


def _translating(prepared: Callable[..., Arrays]) -> Runner:
    def run(*arrays: NDArray[Any]) -> Arrays:
        try:
            return prepared(*arrays)
        except tf.errors.OpError as error:
            raise ServingError(error.error_code, error.message) from None
        except UnicodeDecodeError as error:
            # TensorFlow quotes the offending bytes in its message, and Python's binding then
            # fails to decode that message. Only bad input is quoted so.
            raise invalid_argument(error.object.decode("utf-8", "replace")) from None

    return run


def _read_meta_graph(path: str, tags: list[str]) -> messages.MetaGraphDef:
    folder = Path(path)
    binary, text = folder / "saved_model.pb", folder / "saved_model.pbtxt"
    if not binary.is_file() and not text.is_file():
        raise not_found(
            "Could not find SavedModel .pb or .pbtxt at supplied export directory path: "
            f"{path}. Check that the directory exists and that you have the right permissions "
            "for accessing it."
        )
    saved_model = messages.SavedModel()
    try:
        if binary.is_file():
            saved_model.ParseFromString(binary.read_bytes())
        else:
            from google.protobuf import text_format

            text_format.Parse(text.read_text("utf-8"), saved_model, descriptor_pool=messages.POOL)
    except Exception:
        # DecodeError, ParseError, or text that is not UTF-8: all mean the same to the operator.
        raise ServingError(15, f"Can't parse {binary} as binary proto") from None
    wanted = set(tags)
    for meta_graph in saved_model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == wanted:
            return meta_graph
    raise not_found(
        "Could not find meta graph def matching supplied tags: { "
        + " ".join(tags)
        + " }. To inspect available tag-sets in the SavedModel, please use the SavedModel CLI: "
        "`saved_model_cli`"
    )


def _load_error(error: Exception) -> ServingError:
    if isinstance(error, ServingError):
        return error
    if isinstance(error, tf.errors.OpError):
        return ServingError(error.error_code, _without_python(error.message))
    return ServingError(2, f"{type(error).__name__}: {error}")


def _without_python(message: str) -> str:
    """The message as C++ has it: Python's session puts where a node was made around it."""
    found = _INTERPOLATED.fullmatch(message)
    return found[1] if found else message


def _prepare(name: str, definition: messages.SignatureDef) -> Signature:
    inputs = tuple(
        (alias, definition.inputs[alias].name, definition.inputs[alias].dtype)
        for alias in sorted(definition.inputs)
    )
    outputs = {alias: definition.outputs[alias].name for alias in sorted(definition.outputs)}
    feeds = tuple(tensor_name for _, tensor_name, _ in inputs)
    dtypes = [info.dtype for info in definition.outputs.values()]
    plain_input = inputs[0][2] if len(inputs) == 1 and dtypes == [messages.DT_FLOAT] else None
    return Signature(
        name,
        definition,
        inputs,
        outputs,
        tuple(outputs),
        feeds,
        tuple(outputs.values()),
        plain_input,
    )


def feed_arrays(
    signature: Signature, given: Mapping[str, messages.TensorProto]
) -> tuple[tuple[str, ...], Arrays]:
    """Turn a request's inputs into (tensor names, arrays).

    Raises ServingError (INVALID_ARGUMENT) with TFS's words (predict_util.cc) for a wrong number of
    inputs, a wrong name, a malformed tensor or a wrong dtype.
    """
    inputs = signature.inputs
    defaults = signature.definition.defaults
    if len(given) > len(inputs) or (len(given) < len(inputs) and not defaults):
        raise invalid_argument(_size_mismatch(signature, given))
    arrays: Arrays = []
    for position, (alias, tensor_name, dtype) in enumerate(inputs):
        proto = given.get(alias)
        if proto is None:
            if alias not in defaults:
                raise invalid_argument(
                    f"Signature input alias: {alias}(feed name: {tensor_name}) not found in "
                    "request and no default value provided. Inputs expected to be in the request "
                    f"{{{','.join(sorted(given))}}}, or default input alias set: "
                    f"{','.join(sorted(defaults))}"
                )
            proto = defaults[alias]
        arrays.append(_array(alias, position, dtype, proto))
    return signature.feeds, arrays


def _array(alias: str, position: int, dtype: int, proto: messages.TensorProto) -> NDArray[Any]:
    try:
        array = tensors.to_array(proto) if proto.dtype in tensors.DTYPES else _rare_array(proto)
    except (ValueError, TypeError, OverflowError, MemoryError):
        raise invalid_argument(f"tensor parsing error: {alias}") from None
    if proto.dtype != dtype:
        raise invalid_argument(
            f"Expects arg[{position}] to be {tensors.dtype_name(dtype)} but "
            f"{tensors.dtype_name(proto.dtype)} is provided"
        )
    return array


def _rare_array(proto: messages.TensorProto) -> NDArray[Any]:
    """Let TensorFlow decode bfloat16, quantized and other rare types; raises ValueError."""
    # At most eight bytes each. TensorFlow would repeat a value for as long as there is memory.
    if math.prod(tensors.shape_of(proto)) * 8 > max(tensors.MAX_FILL_BYTES, 8 * proto.ByteSize()):
        raise ValueError("a huge shape with few values")
    try:
        array: NDArray[Any] = tf.make_ndarray(
            tf.make_tensor_proto(0).FromString(proto.SerializeToString())
        )
    except Exception as error:
        # A KeyError for a resource, an AttributeError for a variant: Python's, not the caller's.
        raise ValueError(str(error)) from None
    return array


def _size_mismatch(signature: Signature, given: Mapping[str, messages.TensorProto]) -> str:
    sent, wanted = set(given), {alias for alias, _, _ in signature.inputs}

    def join(names: set[str]) -> str:
        return ",".join(sorted(names))

    return (
        f"input size does not match signature: {len(sent)}!={len(wanted)} len({{{join(sent)}}}) "
        f"!= len({{{join(wanted)}}}). Sent extra: {{{join(sent - wanted)}}}. "
        f"Missing but required: {{{join(wanted - sent)}}}."
    )


def fetch_aliases(signature: Signature, output_filter: list[str]) -> tuple[str, ...]:
    """The outputs a request wants; raises ServingError (INVALID_ARGUMENT) with TFS's words."""
    if not output_filter:
        return signature.all_outputs
    seen: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {{{','.join(signature.all_outputs)}}}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return tuple(output_filter)


def write_output(proto: messages.TensorProto, array: NDArray[Any], *, as_content: bool) -> None:
    """Write one output array into the response's tensor."""
    if array.dtype.kind in "SUO" or array.dtype in _NATIVE:
        tensors.fill_proto(proto, array, as_content=as_content)
    else:
        proto.ParseFromString(tf.make_tensor_proto(array).SerializeToString())


_NATIVE = frozenset(np.dtype(d) for d in tensors.DTYPES.values())
