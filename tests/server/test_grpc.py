"""The gRPC port of a running server: answers, errors and their exact words."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.protocol import messages, tensors
from tests.support.servers import ModelServer
from tests.support.skips import require_tool


@pytest.fixture(scope="module")
def server(
    chopstick_models: Path,
    half_plus_two_models: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ModelServer]:
    folder = tmp_path_factory.mktemp("grpc")
    config = folder / "models.config"
    config.write_text(
        "model_config_list {"
        f' config {{ name: "chopstick" base_path: "{chopstick_models}"'
        ' model_platform: "tensorflow" version_labels { key: "stable" value: 1 } }'
        f' config {{ name: "half" base_path: "{half_plus_two_models}"'
        ' model_platform: "tensorflow" } }'
    )
    flags = (f"--model_config_file={config}", "--allow_version_labels_for_unavailable_models")
    with ModelServer(folder, None, *flags, rest=False) as server:
        yield server


def predict_request(
    lengths: object = ((240.0,),), name: str = "chopstick", dtype: type = np.float32
) -> messages.PredictRequest:
    request = messages.PredictRequest()
    request.model_spec.name = name
    tensors.fill_proto(request.inputs["chopstick_length"], np.array(lengths, dtype))
    return request


def test_predict_answers_with_the_concrete_version_and_signature(server: ModelServer) -> None:
    response = server.predictions.Predict(predict_request([[180.0], [330.0]]), timeout=10)
    probabilities = tensors.to_array(response.outputs["classes_prob"])
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert not np.allclose(probabilities[0], probabilities[1])
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    # TFS answers in typed fields unless it is told otherwise.
    assert response.outputs["classes_prob"].float_val


def test_predict_by_label_is_predict_by_version(server: ModelServer) -> None:
    by_label = predict_request()
    by_label.model_spec.version_label = "stable"
    by_version = predict_request()
    by_version.model_spec.version.value = 1
    assert server.predictions.Predict(by_label, timeout=10) == server.predictions.Predict(
        by_version, timeout=10
    )


def test_predict_of_no_rows_answers_no_rows(server: ModelServer) -> None:
    response = server.predictions.Predict(predict_request(np.zeros((0, 1))), timeout=10)
    assert tensors.to_array(response.outputs["classes_prob"]).shape == (0, 3)


def test_predict_of_nan_answers_nan(server: ModelServer) -> None:
    response = server.predictions.Predict(predict_request([[np.nan]]), timeout=10)
    assert np.isnan(tensors.to_array(response.outputs["classes_prob"])).all()


def wrong(change: Callable[[messages.PredictRequest], object]) -> messages.PredictRequest:
    request = predict_request()
    change(request)
    return request


def rename_input(request: messages.PredictRequest) -> None:
    request.inputs["length"].CopyFrom(request.inputs["chopstick_length"])
    del request.inputs["chopstick_length"]


def add_input(request: messages.PredictRequest) -> None:
    request.inputs["other"].CopyFrom(request.inputs["chopstick_length"])


def break_tensor(request: messages.PredictRequest) -> None:
    request.inputs["chopstick_length"].ClearField("float_val")
    request.inputs["chopstick_length"].tensor_content = b"\0\0\0"


NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
REFUSED = [
    ("no spec", wrong(lambda r: r.ClearField("model_spec")), INVALID, "Missing ModelSpec"),
    (
        "empty name",
        wrong(lambda r: setattr(r.model_spec, "name", "")),
        INVALID,
        "ModelSpec has no name specified.",
    ),
    (
        "unknown model",
        predict_request(name="fork"),
        NOT_FOUND,
        "Servable not found for request: Latest(fork)",
    ),
    (
        "unknown version",
        wrong(lambda r: setattr(r.model_spec.version, "value", 7)),
        NOT_FOUND,
        "Servable not found for request: Specific(chopstick, 7)",
    ),
    (
        "unknown label",
        wrong(lambda r: setattr(r.model_spec, "version_label", "canary")),
        INVALID,
        "Unrecognized servable version label: canary",
    ),
    (
        "unknown signature",
        wrong(lambda r: setattr(r.model_spec, "signature_name", "nope")),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    ),
    (
        "no input",
        wrong(lambda r: r.inputs.clear()),
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({chopstick_length}). "
        "Sent extra: {}. Missing but required: {chopstick_length}.",
    ),
    (
        "one input too many",
        wrong(add_input),
        INVALID,
        "input size does not match signature: 2!=1 len({chopstick_length,other}) != "
        "len({chopstick_length}). Sent extra: {other}. Missing but required: {}.",
    ),
    (
        "wrong input name",
        wrong(rename_input),
        INVALID,
        "Signature input alias: chopstick_length(feed name: serving_default_chopstick_length:0) "
        "not found in request and no default value provided. Inputs expected to be in the request "
        "{length}, or default input alias set: ",
    ),
    (
        "malformed tensor",
        wrong(break_tensor),
        INVALID,
        "tensor parsing error: chopstick_length",
    ),
    (
        "double for float",
        predict_request(dtype=np.float64),
        INVALID,
        "Expects arg[0] to be float but double is provided",
    ),
    (
        "int64 for float",
        predict_request([[240]], dtype=np.int64),
        INVALID,
        "Expects arg[0] to be float but int64 is provided",
    ),
    (
        "unknown output",
        wrong(lambda r: r.output_filter.append("foo")),
        INVALID,
        "output tensor alias not found in signature: foo Outputs expected to be in the set "
        "{classes_prob}.",
    ),
    (
        "output twice",
        wrong(lambda r: r.output_filter.extend(["classes_prob"] * 2)),
        INVALID,
        "duplicate output tensor alias: classes_prob",
    ),
]


@pytest.mark.parametrize(
    ("request_", "code", "message"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_predict_refuses(
    server: ModelServer,
    request_: messages.PredictRequest,
    code: grpc.StatusCode,
    message: str,
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        server.predictions.Predict(request_, timeout=10)
    assert (refused.value.code(), refused.value.details()) == (code, message)


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_predict_refuses_a_wrong_shape(server: ModelServer, shape: tuple[int, ...]) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        server.predictions.Predict(predict_request(np.full(shape, 240.0)), timeout=10)
    assert refused.value.code() is INVALID


def example_request(
    kind: type, signature: str, name: str = "half", feature: str = "x", *values: float
) -> object:
    request = kind()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for value in values:
        example = request.input.example_list.examples.add()
        example.features.feature[feature].float_list.value.append(value)
    return request


def test_classify_labels_and_scores_what_predict_predicts(server: ModelServer) -> None:
    request = example_request(
        messages.ClassificationRequest, "classify", "chopstick", "chopstick_length", 180.0, 330.0
    )
    classified = server.predictions.Classify(request, timeout=10).result.classifications
    predicted = server.predictions.Predict(predict_request([[180.0], [330.0]]), timeout=10)
    for row, probabilities in zip(
        classified, tensors.to_array(predicted.outputs["classes_prob"]), strict=True
    ):
        assert [c.label for c in row.classes] == ["low", "medium", "high"]
        np.testing.assert_allclose([c.score for c in row.classes], probabilities, rtol=1e-5)


def test_regress(server: ModelServer) -> None:
    request = example_request(messages.RegressionRequest, "regress_x_to_y", "half", "x", 2.0, 10.0)
    response = server.predictions.Regress(request, timeout=10)
    assert [r.value for r in response.result.regressions] == [3.0, 7.0]


def test_context_is_merged_into_every_example(server: ModelServer) -> None:
    request = messages.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "half", "regress_x_to_y"
    merged = request.input.example_list_with_context
    merged.context.features.feature["x"].float_list.value.append(4.0)
    merged.examples.add()
    response = server.predictions.Regress(request, timeout=10)
    assert [r.value for r in response.result.regressions] == [4.0]


def test_multi_inference_runs_two_signatures(server: ModelServer) -> None:
    request = messages.MultiInferenceRequest()
    for method, signature in (
        ("regress", "regress_x_to_y"),
        ("classify", "classify_x_to_y"),
    ):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "half", signature
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2.0)
    results = server.predictions.MultiInference(request, timeout=10).results
    assert results[0].regression_result.regressions[0].value == 3.0
    assert results[1].classification_result.classifications[0].classes[0].score == 3.0


@pytest.mark.parametrize(
    ("request_", "call", "message"),
    [
        (
            example_request(messages.ClassificationRequest, "nope", "half", "x", 1.0),
            "Classify",
            "No signature was found with the name: nope",
        ),
        (
            example_request(messages.ClassificationRequest, "two_inputs", "half", "x", 1.0),
            "Classify",
            "Expected one input Tensor.",
        ),
        (
            example_request(messages.RegressionRequest, "regress_x_to_y"),
            "Regress",
            "Input is empty.",
        ),
        (
            example_request(messages.RegressionRequest, "regress_x_to_y", "half", "z", 1.0),
            "Regress",
            "Key: x.  Can't parse serialized Example.",
        ),
    ],
)
def test_classify_and_regress_refuse(
    server: ModelServer, request_: object, call: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        getattr(server.predictions, call)(request_, timeout=10)
    assert refused.value.code() is INVALID
    assert message in refused.value.details() or "Feature: x" in refused.value.details()


def test_several_inputs_and_a_filter(server: ModelServer) -> None:
    request = messages.PredictRequest(output_filter=["difference"])
    request.model_spec.name, request.model_spec.signature_name = "half", "two_inputs"
    tensors.fill_proto(request.inputs["b"], np.array([1.0], np.float32))
    tensors.fill_proto(request.inputs["a"], np.array([5.0], np.float32))
    outputs = server.predictions.Predict(request, timeout=10).outputs
    assert list(outputs) == ["difference"]
    assert outputs["difference"].float_val == [4.0]


def test_metadata_lists_the_signatures(server: ModelServer) -> None:
    request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "chopstick"
    response = server.predictions.GetModelMetadata(request, timeout=10)
    definitions = messages.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(definitions)
    assert {"serving_default", "classify"} <= set(definitions.signature_def)
    default = definitions.signature_def["serving_default"]
    assert set(default.inputs) == {"chopstick_length"}
    assert set(default.outputs) == {"classes_prob"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
        (["assets"], "Metadata field assets is not supported"),
    ],
)
def test_metadata_refuses(server: ModelServer, fields: list[str], message: str) -> None:
    request = messages.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "chopstick"
    with pytest.raises(grpc.RpcError) as refused:
        server.predictions.GetModelMetadata(request, timeout=10)
    assert (refused.value.code(), refused.value.details()) == (INVALID, message)


def test_status_of_models(server: ModelServer) -> None:
    request = messages.GetModelStatusRequest()
    request.model_spec.name = "chopstick"
    (version,) = server.models.GetModelStatus(request, timeout=10).model_version_status
    assert (version.version, version.state, version.status.error_code) == (1, 30, 0)
    request.model_spec.version.value = 7
    with pytest.raises(grpc.RpcError) as refused:
        server.models.GetModelStatus(request, timeout=10)
    assert refused.value.details() == "Could not find version 7 of model chopstick"
    request.model_spec.ClearField("version")
    request.model_spec.name = "fork"
    with pytest.raises(grpc.RpcError) as refused:
        server.models.GetModelStatus(request, timeout=10)
    assert refused.value.details() == "Could not find any versions of model fork"


def test_health_has_tfs_names(server: ModelServer) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    for service in ("", "ModelService", "PredictionService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(
            health_pb2.HealthCheckRequest(service="tensorflow.serving.PredictionService"),
            timeout=10,
        )
    assert refused.value.code() is NOT_FOUND


def test_reflection_serves_a_client_that_has_no_protos(server: ModelServer) -> None:
    grpcurl = require_tool("grpcurl")
    listed = subprocess.run(
        [grpcurl, "-plaintext", server.grpc, "list"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(listed) >= {
        "grpc.health.v1.Health",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }
    body = {
        "model_spec": {"name": "chopstick"},
        "inputs": {
            "chopstick_length": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {"dim": [{"size": 1}, {"size": 1}]},
                "float_val": [240],
            }
        },
    }
    method = "tensorflow.serving.PredictionService/Predict"
    answer = subprocess.run(
        [grpcurl, "-plaintext", "-d", json.dumps(body), server.grpc, method],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert len(json.loads(answer)["outputs"]["classes_prob"]["float_val"]) == 3
