"""Section 3: what the gRPC port answers."""

from __future__ import annotations

import math
import signal
import time

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.protocol import messages, tensors
from tests.conformance.harness import (
    AVAILABLE,
    NotApplicable,
    Server,
    case,
    classify_request,
    fill_examples,
    has,
    like,
    metadata_request,
    predict_request,
    profile,
    refusals,
    regress_request,
    same,
    spec,
    starts,
    status_request,
)
from tests.support import http2

profile(
    "main",
    "--enable_grpc_healthcheck_service",
    "--allow_version_labels_for_unavailable_models",
    "--monitoring_config_file={folder}/monitoring.config",
    "--max_num_load_retries=0",
    remote="always",
    full=True,
)

LENGTH = {"chopstick_length": [[240.0]]}


def without(request, field: str):
    request.ClearField(field)
    return request


def tensor(**fields) -> messages.TensorProto:
    shape = fields.pop("shape", [1, 1])
    proto = messages.TensorProto(dtype=messages.DT_FLOAT, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def article(**choice):
    return predict_request("article", LENGTH, **choice)


def typed(kind: type) -> messages.PredictRequest:
    return predict_request("article", {"chopstick_length": np.array([[240]], kind)})


def strings_for_floats() -> messages.PredictRequest:
    return predict_request("article", {"chopstick_length": [["240"]]})


INVALID, MISSING, STATE = "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"

refusals(
    "Predict",
    [
        ("without a model_spec", "grpc.error.missing-model-spec",
         without(article(), "model_spec"), INVALID, "Missing ModelSpec"),
        ("with an empty name", "grpc.error.empty-name",
         predict_request("", LENGTH), INVALID, "ModelSpec has no name specified."),
        ("of an unknown model", "grpc.error.unknown-model",
         predict_request("fork", LENGTH), MISSING, "Servable not found for request: Latest(fork)"),
        ("of an unknown version", "grpc.error.unknown-version",
         article(version=7), MISSING, "Servable not found for request: Specific(article, 7)"),
        ("of version 0", "grpc.error.unknown-version",
         article(version=0), MISSING, "Servable not found for request: Specific(article, 0)"),
        ("of a negative version", "grpc.error.unknown-version",
         article(version=-1), MISSING, "Servable not found for request: Specific(article, -1)"),
        ("of a version of an unknown model", "grpc.error.unknown-version",
         predict_request("fork", LENGTH, version=1), MISSING,
         "Servable not found for request: Specific(fork, 1)"),
        ("with an unknown label", "grpc.error.unknown-label",
         predict_request("half_plus_three", {"x": [1.0]}, label="nope"), INVALID,
         "Unrecognized servable version label: nope"),
        ("with a label of a model without labels", "grpc.error.unknown-label",
         article(label="stable"), INVALID, "Unrecognized servable version label: stable"),
        ("with a label of an unknown model", "grpc.error.unknown-label",
         predict_request("fork", LENGTH, label="stable"), INVALID,
         "Unrecognized servable version label: stable"),
        ("with an unknown signature", "grpc.error.unknown-signature",
         article(signature="nope"), STATE, 'Serving signature key "nope" not found.'),
        ("without inputs", "grpc.error.input-count", predict_request("article", {}), INVALID,
         "input size does not match signature: 0!=1 len({}) != len({chopstick_length}). "
         "Sent extra: {}. Missing but required: {chopstick_length}."),
        ("with an input too many", "grpc.error.input-count",
         predict_request("article", {**LENGTH, "other": [[1.0]], "another": [[1.0]]}), INVALID,
         "input size does not match signature: 3!=1 len({another,chopstick_length,other}) != "
         "len({chopstick_length}). Sent extra: {another,other}. Missing but required: {}."),
        ("with one of two inputs", "grpc.error.input-count",
         predict_request("several", {"b": [1.0]}), INVALID,
         "input size does not match signature: 1!=2 len({b}) != len({a,b}). Sent extra: {}. "
         "Missing but required: {a}."),
        ("with an input of the wrong name", "grpc.error.input-name",
         predict_request("article", {"wrong": [[240.0]]}), INVALID,
         "Signature input alias: chopstick_length(feed name: Placeholder:0) not found in request "
         "and no default value provided. Inputs expected to be in the request {wrong}, or default "
         "input alias set: "),
        ("with the wrong name and another input's default", "grpc.error.input-name",
         predict_request("several", {"plus": [1.0]}, signature="default"), INVALID,
         like(r"Signature input alias: x\(feed name: default_x:0\) not found in request and no "
              r"default value provided\. Inputs expected to be in the request \{plus\}, or default "
              r"input alias set: plus")),
        ("with tensor_content that does not fit the shape", "grpc.error.malformed-tensor",
         predict_request("article", {"chopstick_length": tensor(tensor_content=b"\0\0\0")}),
         INVALID, "tensor parsing error: chopstick_length"),
        ("with more values than the shape holds", "grpc.error.malformed-tensor",
         predict_request("article", {"chopstick_length": tensor(float_val=[1, 2])}),
         INVALID, "tensor parsing error: chopstick_length"),
        ("with a negative dimension", "grpc.error.malformed-tensor",
         predict_request("article", {"chopstick_length": tensor(shape=[-1, 1], float_val=[1])}),
         INVALID, "tensor parsing error: chopstick_length"),
        ("with an invalid dtype", "grpc.error.malformed-tensor",
         predict_request("article", {"chopstick_length": messages.TensorProto()}),
         INVALID, "tensor parsing error: chopstick_length"),
        ("with double for float", "grpc.error.dtype", typed(np.float64), INVALID,
         "Expects arg[0] to be float but double is provided"),
        ("with int64 for float", "grpc.error.dtype", typed(np.int64), INVALID,
         "Expects arg[0] to be float but int64 is provided"),
        ("with int32 for float", "grpc.error.dtype", typed(np.int32), INVALID,
         "Expects arg[0] to be float but int32 is provided"),
        ("with strings for floats", "grpc.error.dtype", strings_for_floats(), INVALID,
         "Expects arg[0] to be float but string is provided"),
        ("with a vector for a matrix", "grpc.error.rank",
         predict_request("article", {"chopstick_length": [240.0, 180.0]}), INVALID,
         starts("In[0] is not a matrix")),
        ("with two columns for one", "grpc.error.inner-dimension",
         predict_request("article", {"chopstick_length": [[240.0, 1.0], [180.0, 1.0]]}), INVALID,
         starts("Matrix size-incompatible: In[0]: [2,2], In[1]: [1,3]")),
        ("with an unknown output", "grpc.error.unknown-output", article(outputs=["foo"]), INVALID,
         "output tensor alias not found in signature: foo Outputs expected to be in the set "
         "{classes_prob}."),
        ("with an unknown output of several", "grpc.error.unknown-output",
         predict_request("several", {"a": [1.0], "b": [2.0]}, outputs=["sum", "x"]), INVALID,
         "output tensor alias not found in signature: x Outputs expected to be in the set "
         "{difference,sum}."),
        ("with an output twice", "grpc.error.duplicate-output",
         article(outputs=["classes_prob", "classes_prob"]), INVALID,
         "duplicate output tensor alias: classes_prob"),
        ("that the model refuses", "grpc.error.model-refuses",
         predict_request("picky", {"x": [float("nan")]}), INVALID,
         has("not a number for me : Tensor had NaN values")),
        ("with an index that is out of range", "grpc.error.model-refuses",
         predict_request("picky", {"index": [9]}, signature="pick"), INVALID,
         has("indices[0] = 9 is not in [0, 3)")),
        ("with an unknown signature of 2,000 characters", "grpc.error.truncated",
         article(signature="s" * 2000), STATE,
         'Serving signature key "' + "s" * (1024 - 23) + "...TRUNCATED"),
    ],
)  # fmt: skip

X = {"x": 2.0}
refusals(
    "Classify",
    [
        ("without a model_spec", "grpc.error.missing-model-spec",
         without(classify_request("half_plus_two", X), "model_spec"), INVALID, "Missing ModelSpec"),
        ("with an unknown signature", "grpc.error.classify-unknown-signature",
         classify_request("half_plus_two", X, signature="nope"), INVALID,
         "No signature was found with the name: nope"),
        ("of an unknown model", "grpc.error.unknown-model",
         classify_request("fork", X), MISSING, "Servable not found for request: Latest(fork)"),
        ("of a signature with two inputs", "grpc.error.classify-signature",
         classify_request("several", X), INVALID, "Expected one input Tensor."),
        ("of a signature with three outputs", "grpc.error.classify-signature",
         classify_request("half_plus_three", X, signature="three"), INVALID,
         "Expected one or two output Tensors, found 3"),
        ("of a signature whose input is not called inputs", "grpc.error.classify-signature",
         classify_request("half_plus_two", X), INVALID,
         starts("No classification inputs found in SignatureDef: ")),
        ("of a signature that regresses", "grpc.error.classify-signature",
         classify_request("half_plus_two", X, signature="regress_x_to_y"), INVALID,
         starts('Expected classification signature outputs to contain at least one of "classes" or '
                '"scores". Signature was: ')),
        ("of scores without a second dimension", "grpc.error.classify-output-shape",
         classify_request("half_plus_three", X, signature="flat"), INVALID,
         "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        ("without examples", "grpc.error.no-examples",
         classify_request("half_plus_two", signature="classify_x_to_y"), INVALID,
         "Input is empty."),
        ("with integers where floats are expected", "grpc.error.example-dtype",
         classify_request("half_plus_two", {"x": 2}, signature="classify_x_to_y"), INVALID,
         has("Key: x, Index: 0.  Data types don't match. Data type: int64 but expected type: "
             "float")),
        ("without a feature", "grpc.error.example-missing-feature",
         classify_request("half_plus_two", {"z": 1.0}, signature="classify_x_to_y"), INVALID,
         has("Feature: x (data type: float) is required but could not be found.")),
    ],
)  # fmt: skip

refusals(
    "Regress",
    [
        ("with an unknown signature", "grpc.error.classify-unknown-signature",
         regress_request("half_plus_two", X, signature="nope"), INVALID,
         "No signature was found with the name: nope"),
        ("of a signature with two outputs", "grpc.error.regress-signature",
         regress_request("half_plus_three", X, signature="classify"), INVALID,
         "Expected one output Tensor."),
        ("of a signature that classifies", "grpc.error.regress-signature",
         regress_request("half_plus_two", X, signature="classify_x_to_y"), INVALID,
         starts("No regression outputs found in SignatureDef: ")),
        ("of a signature whose input is not called inputs", "grpc.error.regress-signature",
         regress_request("half_plus_two", X), INVALID,
         starts("No regression inputs found in SignatureDef: ")),
        ("of two columns", "grpc.error.regress-output-shape",
         regress_request("half_plus_three", X, signature="wide"), INVALID,
         "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]"),
        ("without examples", "grpc.error.no-examples",
         regress_request("half_plus_two", signature="regress_x_to_y"), INVALID, "Input is empty."),
    ],
)  # fmt: skip

refusals(
    "GetModelStatus",
    [
        ("without a model_spec", "grpc.error.missing-model-spec",
         messages.GetModelStatusRequest(), INVALID, "Missing ModelSpec"),
        ("of an unknown model", "grpc.status.unknown-model", status_request("fork"), MISSING,
         "Could not find any versions of model fork"),
        ("of an unknown version", "grpc.status.unknown-version",
         status_request("article", version=7), MISSING, "Could not find version 7 of model article"),
    ],
)  # fmt: skip

refusals(
    "GetModelMetadata",
    [
        ("without a model_spec", "grpc.error.missing-model-spec",
         messages.GetModelMetadataRequest(metadata_field=["signature_def"]), INVALID,
         "Missing ModelSpec"),
        ("without a field", "grpc.metadata.no-field", metadata_request("article"), INVALID,
         "GetModelMetadataRequest must specify at least one metadata_field"),
        ("with an unknown field", "grpc.metadata.unknown-field",
         metadata_request("article", "signature_def", "assets"), INVALID,
         "Metadata field assets is not supported"),
        ("of an unknown model", "grpc.metadata.needs-available",
         metadata_request("fork", "signature_def"), MISSING,
         "Servable not found for request: Latest(fork)"),
        ("of an unknown version", "grpc.metadata.needs-available",
         metadata_request("article", "signature_def", version=7), MISSING,
         "Servable not found for request: Specific(article, 7)"),
    ],
)  # fmt: skip


def multi(
    *tasks: tuple[str, str, str], rows=(X,), name: str = "half_plus_two"
) -> messages.MultiInferenceRequest:
    request = messages.MultiInferenceRequest()
    for method, signature, model in tasks:
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        spec(task.model_spec, model or name, signature=signature)
    fill_examples(request.input.example_list.examples, rows)
    return request


REGRESS, CLASSIFY = ("regress", "regress_x_to_y", ""), ("classify", "classify_x_to_y", "")
refusals(
    "MultiInference",
    [
        ("without tasks", "grpc.error.missing-model-spec", multi(), INVALID, "Missing ModelSpec"),
        ("of two models", "grpc.multi-inference.errors",
         multi(REGRESS, ("classify", "classify", "half_plus_three")), INVALID,
         "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        ("of one signature twice", "grpc.multi-inference.errors", multi(REGRESS, REGRESS), INVALID,
         "Duplicate evaluation of signature: regress_x_to_y"),
        ("of an unknown signature", "grpc.multi-inference.errors",
         multi(("regress", "nope", "")), INVALID,
         "Requested signature not found in model graph: nope"),
        ("of a Predict", "grpc.multi-inference.errors",
         multi(("predict", "serving_default", "")), "UNIMPLEMENTED",
         "Unsupported signature method_name: tensorflow/serving/predict"),
        ("without examples", "grpc.error.no-examples", multi(REGRESS, rows=()), INVALID,
         "Input is empty."),
    ],
)  # fmt: skip


# Services.


@case("grpc.services")
def prediction_and_model_service_share_the_port(server: Server) -> None:
    same(server.outputs("half_plus_three", {"x": [2.0]}), {"y": [4.0]})
    same(server.states("article"), {1: AVAILABLE})


def unimplemented(server: Server, method: str) -> None:
    try:
        server.channel.unary_unary(method)(b"", timeout=10)
    except grpc.RpcError as error:
        same(error.code().name, "UNIMPLEMENTED")
    else:
        raise AssertionError("answered")


@case("grpc.session-service")
def the_session_service_is_not_there(server: Server) -> None:
    unimplemented(server, "/tensorflow.serving.SessionService/SessionRun")


@case("grpc.unknown-method")
def an_unknown_method_is_unimplemented(server: Server) -> None:
    unimplemented(server, "/tensorflow.serving.PredictionService/PredictStreamed2")


def reflected(server: Server) -> set[str]:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    return {service.name for service in answer.list_services_response.service}


@case("grpc.reflection")
def reflection_lists_the_services(server: Server) -> None:
    wanted = {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"}
    assert wanted <= reflected(server), reflected(server)


@case("grpc.profiler-service")
def the_profiler_service_is_there(server: Server) -> None:
    assert "tensorflow.ProfilerService" in reflected(server), reflected(server)


# ModelSpec and PredictResponse.


@case("grpc.spec.latest")
def no_version_is_the_highest_one(server: Server) -> None:
    response = server.predict("half_plus_three", {"x": [2.0]})
    same(response.model_spec.version.value, 2)


@case("grpc.spec.version")
def a_version_is_that_one(server: Server) -> None:
    response = server.predict("half_plus_three", {"x": [2.0]}, version=1)
    same(response.model_spec.version.value, 1)


@case("grpc.spec.label")
def a_label_is_its_version_and_two_may_have_the_same(server: Server) -> None:
    for label, version in (("stable", 1), ("canary", 2), ("also-stable", 1)):
        response = server.predict("half_plus_three", {"x": [2.0]}, label=label)
        same(response.model_spec.version.value, version, label)


@case("grpc.spec.default-signature")
def no_signature_is_serving_default(server: Server) -> None:
    response = server.predict("several", {"a": [5.0], "b": [1.0]})
    same(response.model_spec.signature_name, "serving_default")


@case("grpc.spec.reply")
def the_reply_names_what_answered(server: Server) -> None:
    response = server.predict("half_plus_three", {"x": [2.0]}, label="stable")
    expected = messages.ModelSpec()
    spec(expected, "half_plus_three", 1, signature="serving_default")
    same(response.model_spec, expected)
    classified = server.call(
        "Classify", classify_request("half_plus_two", X, signature="classify_x_to_y")
    )
    expected = messages.ModelSpec()
    spec(expected, "half_plus_two", 123, signature="classify_x_to_y")
    same(classified.model_spec, expected)


@case("grpc.predict.typed-fields")
def outputs_come_in_typed_fields(server: Server) -> None:
    response = server.predict("several", TYPES, signature="types").outputs
    same(list(response["f_out"].float_val), [1.5])
    same(list(response["d_out"].double_val), [1.5])
    same(list(response["i_out"].int_val), [-3])
    same(list(response["l_out"].int64_val), [2**40])
    same(list(response["b_out"].bool_val), [True])
    same(list(response["u_out"].int_val), [200])
    same(list(response["h_out"].half_val), [0x3E00])
    assert not any(output.tensor_content for output in response.values())
    raw = server.predict("strings", {"text": ["a\xff".encode("latin-1")]}).outputs["raw_bytes"]
    same(list(raw.string_val), [b"a\xff"])


TYPES = {
    "f": np.array([1.5], np.float32), "d": np.array([1.5]), "i": np.array([-3], np.int32),
    "l": np.array([2**40]), "b": np.array([True]), "u": np.array([200], np.uint8),
    "h": np.array([1.5], np.float16),
}  # fmt: skip


@case("grpc.predict.tensor-content-in")
def tensor_content_and_typed_fields_are_both_taken(server: Server) -> None:
    for proto in (
        tensor(tensor_content=np.array([240.0], np.float32).tobytes()),
        tensor(float_val=[240.0]),
    ):
        outputs = server.outputs("article", {"chopstick_length": proto})
        same(outputs["classes_prob"], [[0.0, 1.0, 0.0]])


@case("grpc.predict.one-value-fills")
def one_value_fills_the_whole_shape_and_the_last_repeats(server: Server) -> None:
    filled = tensor(shape=[3], float_val=[2.0])
    same(server.outputs("half_plus_three", {"x": filled}), {"y": [4.0, 4.0, 4.0]})
    partly = tensor(shape=[3], float_val=[2.0, 4.0])
    same(server.outputs("half_plus_three", {"x": partly}), {"y": [4.0, 5.0, 5.0]})


@case("grpc.predict.output-filter")
def a_filter_leaves_the_other_outputs_out(server: Server) -> None:
    inputs = {"a": [5.0], "b": [1.0]}
    same(server.outputs("several", inputs), {"sum": [6.0], "difference": [4.0]})
    same(server.outputs("several", inputs, outputs=["difference"]), {"difference": [4.0]})


@case("grpc.predict.newer-fields")
def fields_it_does_not_know_are_ignored(server: Server) -> None:
    request = predict_request("half_plus_three", {"x": [2.0]}).SerializeToString()
    # Field 1000, a varint.
    call = server.channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict",
        response_deserializer=messages.PredictResponse.FromString,
    )
    response = call(request + b"\xc0\x3e\x01", timeout=10)
    same(list(response.outputs["y"].float_val), [4.0])


@case("grpc.predict.default-input")
def an_input_with_a_default_may_be_left_out(server: Server) -> None:
    same(server.outputs("several", {"x": [1.0]}, signature="default"), {"y": [6.0]})
    given = {"x": [1.0], "plus": [2.0]}
    same(server.outputs("several", given, signature="default"), {"y": [3.0]})


@case("grpc.predict.no-rows")
def no_rows_in_no_rows_out(server: Server) -> None:
    response = server.predict("article", {"chopstick_length": np.zeros((0, 1), np.float32)})
    same(tensors.to_array(response.outputs["classes_prob"]).shape, (0, 3))


@case("grpc.predict.nan")
def nan_in_nan_out(server: Server) -> None:
    outputs = server.outputs("article", {"chopstick_length": [[math.nan]]})
    assert all(math.isnan(value) for value in outputs["classes_prob"][0]), outputs


@case("grpc.predict.golden")
def the_articles_weights_give_the_articles_numbers(server: Server) -> None:
    outputs = server.outputs("article", {"chopstick_length": [[10.0], [0.5], [0.0]]})
    expected = [
        [3.9817438e-11, 1.0, 1.8370000e-18],
        [0.2077759, 0.7037261, 0.08849797],
        [0.33170286, 0.33968607, 0.32861105],
    ]
    np.testing.assert_allclose(outputs["classes_prob"], expected, rtol=1e-5)


@case("grpc.predict.models")
def models_of_both_styles_answer(server: Server) -> None:
    same(server.outputs("half_plus_two", {"x": [[2.0], [10.0]]}), {"y": [[3.0], [7.0]]})
    same(server.outputs("half_plus_three", {"x": [2.0, 10.0]}), {"y": [4.0, 8.0]})
    same(server.outputs("half_plus_two", {"x": [3.0, 4.0]}), {"y": [3.5, 4.0]})
    same(
        server.outputs("padded", {"tokens": np.array([[5, 6, 7], [8, 0, 0]])}),
        {"sum": [18, 8], "used": [3, 1]},
    )
    same(server.outputs("vocabulary", {"word": ["wood", "paper", "bamboo"]}), {"index": [2, -1, 0]})
    strings = server.outputs("strings", {"text": ["Ab", ""]})
    same(strings, {"upper": [b"AB", b""], "length": [2, 0], "raw_bytes": [b"Ab", b""]})
    same(server.outputs("picky", {"x": [1.0]}), {"y": [1.0]})
    same(server.outputs("several", {"x": [1.0, 2.0]}, signature="total"), {"total": 3.0})


@case("grpc.predict.large-embedding")
def an_embedding_of_200_mb_is_looked_up(server: Server) -> None:
    if not server.states("embedding"):
        raise NotApplicable("needs the large model (--full)")
    outputs = server.outputs("embedding", {"row": np.array([0, 3_276_799])})
    same(outputs["vector"], [[0.0] * 16, [3276799.0] * 16])


@case("flags.no-message-limit")
def a_request_of_20_mb_is_nothing_unusual(server: Server) -> None:
    rows = np.zeros(5 << 20, np.float32)
    response = server.predict("half_plus_three", {"x": rows})
    same(len(response.outputs["y"].float_val), 5 << 20)


# Classify, Regress, MultiInference.


@case("grpc.classify")
def classify_gives_scores_without_labels(server: Server) -> None:
    request = classify_request("half_plus_two", X, {"x": 10.0}, signature="classify_x_to_y")
    result = server.call("Classify", request).result
    scores = [[(c.label, c.score) for c in row.classes] for row in result.classifications]
    same(scores, [[("", 3.0)], [("", 7.0)]])


@case("grpc.classify", "grpc.classify-tf2")
def classify_takes_a_predict_signature_of_tensorflow_2(server: Server) -> None:
    request = classify_request("half_plus_three", X, signature="classify")
    (row,) = server.call("Classify", request).result.classifications
    same([(c.label, c.score) for c in row.classes], [("small", 2.0), ("large", 4.0)])


@case("grpc.regress")
def regress_gives_a_value_per_example(server: Server) -> None:
    for model, signature, expected in (
        ("half_plus_two", "regress_x_to_y", [3.0, 7.0]),
        ("half_plus_two", "regress_x_to_y2", [4.0, 8.0]),
        ("half_plus_three", "regress", [4.0, 8.0]),
    ):
        request = regress_request(model, X, {"x": 10.0}, signature=signature)
        result = server.call("Regress", request).result
        same([r.value for r in result.regressions], expected, f"{model} {signature}")


@case("grpc.example-context")
def the_context_is_part_of_every_example(server: Server) -> None:
    request = messages.RegressionRequest()
    spec(request.model_spec, "half_plus_two", signature="regress_x_to_y")
    merged = request.input.example_list_with_context
    merged.context.features.feature["x"].float_list.value.append(4.0)
    merged.examples.add()
    fill_examples(merged.examples, [{"x": 6.0}])
    result = server.call("Regress", request).result
    same([r.value for r in result.regressions], [4.0, 5.0])


@case("grpc.multi-inference")
def multi_inference_answers_every_task(server: Server) -> None:
    response = server.call("MultiInference", multi(REGRESS, CLASSIFY))
    first, second = response.results
    same(first.regression_result.regressions[0].value, 3.0)
    same(second.classification_result.classifications[0].classes[0].score, 3.0)
    same(
        [(r.model_spec.version.value, r.model_spec.signature_name) for r in response.results],
        [(123, "regress_x_to_y"), (123, "classify_x_to_y")],
    )


# Status and metadata.


@case("grpc.status.version")
def status_of_a_version_is_of_that_one(server: Server) -> None:
    same(server.states("half_plus_three", version=1), {1: AVAILABLE})


@case("grpc.status.label-ignored")
def status_ignores_a_label(server: Server) -> None:
    same(list(server.states("half_plus_three", label="stable")), [2, 1])
    same(list(server.states("half_plus_three", label="nope")), [2, 1])


@case("grpc.status.newest-first")
def status_is_newest_first(server: Server) -> None:
    same(list(server.states("half_plus_three")), [2, 1])


@case("grpc.status.reply")
def status_always_has_a_status(server: Server) -> None:
    (version,) = server.call("GetModelStatus", status_request("article")).model_version_status
    assert version.HasField("status")
    same((version.state, version.status.error_code, version.status.error_message), (30, 0, ""))


def definitions(server: Server, model: str):
    response = server.call("GetModelMetadata", metadata_request(model, "signature_def"))
    result = messages.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(result)
    return response, result.signature_def


@case("grpc.metadata.signature-def")
def metadata_is_the_map_of_signatures(server: Server) -> None:
    response, found = definitions(server, "half_plus_two")
    same((response.model_spec.name, response.model_spec.version.value), ("half_plus_two", 123))
    same(list(response.metadata), ["signature_def"])
    same(
        set(found),
        {
            "serving_default", "regress_x_to_y", "regress_x_to_y2", "regress_x2_to_y3",
            "classify_x_to_y",
        },
    )  # fmt: skip
    default = found["serving_default"]
    same(default.method_name, "tensorflow/serving/predict")
    same((default.inputs["x"].name, default.inputs["x"].dtype), ("x:0", messages.DT_FLOAT))
    same(found["classify_x_to_y"].method_name, "tensorflow/serving/classify")


@case("grpc.metadata.init-op")
def a_model_of_tensorflow_2_also_lists_its_initialiser(server: Server) -> None:
    _, found = definitions(server, "half_plus_three")
    assert "__saved_model_init_op" in found, set(found)


# Deadlines.


@case("grpc.deadline")
def a_deadline_ends_a_run_and_the_server_goes_on(server: Server) -> None:
    began = time.monotonic()
    request = predict_request("slow", {"iterations": [1500]})
    same(server.refusal("Predict", request, timeout=0.2)[0], "DEADLINE_EXCEEDED")
    assert time.monotonic() - began < 2
    same(server.outputs("slow", {"iterations": [1]}), {"value": [1.0]})


@case("grpc.deadline-past")
def a_deadline_that_is_past_gets_no_answer(server: Server) -> None:
    # Slow: gRPC's timers tick in milliseconds, in which a fast model has its answer.
    body = predict_request("slow", {"iterations": [500]}).SerializeToString()
    with http2.Connection(server.grpc) as connection:
        # gRPC's clients end such a call themselves and send nothing.
        connection.call(1, http2.message(body), grpc_timeout="1n")
        assert connection.read_until(lambda frames: any(http2.ends(f, 1) for f in frames))
        assert connection.status(1) in (None, grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    half = server.outputs("half_plus_two", {"x": [1.0]})
    same(half, {"y": [2.5]})


# Health.


def health(server: Server, service: str) -> str:
    stub = health_pb2_grpc.HealthStub(server.channel)
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise NotApplicable("needs --enable_grpc_healthcheck_service") from None
        return error.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


@case("grpc.health.overall")
def the_whole_server_is_serving(server: Server) -> None:
    same(health(server, ""), "SERVING")


@case("grpc.health.names")
def the_services_are_serving_under_their_short_names(server: Server) -> None:
    same(health(server, "ModelService"), "SERVING")
    same(health(server, "PredictionService"), "SERVING")


@case("shutdown.sigterm-ignored", "shutdown.health-stays", alone=True)
def sigterm_changes_nothing_not_even_health(server: Server) -> None:
    server.owned.child.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert server.owned.child.poll() is None
    same(server.outputs("half_plus_three", {"x": [2.0]}), {"y": [4.0]})
    same(health(server, ""), "SERVING")


@case("grpc.health.unknown")
def any_other_name_is_not_found(server: Server) -> None:
    for name in ("tensorflow.serving.PredictionService", "grpc.health.v1.Health", "article"):
        same(health(server, name), "NOT_FOUND", name)
