"""The generated files: what is in them, and that they agree with each other.

That they are what the installed packages generate is `make check-generated`'s business, which
takes an import of TensorFlow.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2

from serving.protocol import messages, services

FOLDER = Path(messages.__file__).parent
FILES = descriptor_pb2.FileDescriptorSet.FromString(
    (FOLDER / "descriptors.binpb").read_bytes()
).file
STUB = ast.parse((FOLDER / "messages.pyi").read_text(encoding="utf-8"))


def test_the_stub_declares_what_the_descriptors_hold() -> None:
    declared = {node.name for node in STUB.body if isinstance(node, ast.ClassDef)}
    assert declared == {message.name for file in FILES for message in file.message_type}
    variables = {
        node.target.id
        for node in STUB.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    enums = [enum for file in FILES for enum in file.enum_type]
    assert variables == {"POOL"} | {e.name for e in enums} | {
        v.name for e in enums for v in e.value
    }


def test_every_declared_message_has_the_declared_fields() -> None:
    for node in STUB.body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = set(getattr(messages, node.name).DESCRIPTOR.fields_by_name)
        declared = {
            item.target.id
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        assert fields <= declared, node.name


def test_files_come_after_what_they_import() -> None:
    seen: set[str] = set()
    for file in FILES:
        assert seen.issuperset(file.dependency), file.name
        seen.add(file.name)


@pytest.mark.parametrize(
    "name",
    [
        "PredictRequest", "ClassificationRequest", "RegressionRequest", "MultiInferenceRequest",
        "GetModelMetadataRequest", "GetModelStatusRequest", "ReloadConfigRequest", "TensorProto",
        "SignatureDefMap", "ModelServerConfig", "PredictionLog", "MonitoringConfig", "SSLConfig",
        "BatchingParameters", "HealthCheckRequest", "SavedModel",
    ],
)  # fmt: skip
def test_message_is_there_by_its_simple_name_and_survives_a_round_trip(name: str) -> None:
    message = getattr(messages, name)()
    assert message.FromString(message.SerializeToString()) == message


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="PredictReqest"):
        _ = messages.PredictReqest


def test_enums_are_there_by_name_and_by_value() -> None:
    assert messages.DT_FLOAT == 1
    assert messages.DataType.Name(7) == "DT_STRING"
    assert {"DT_HALF", "PredictRequest", "POOL"} <= set(dir(messages))


@pytest.mark.parametrize("service", ["PredictionService", "ModelService"])
def test_service_table_and_stub_agree_with_the_descriptors(service: str) -> None:
    full_name = getattr(services, f"{service}_NAME")
    methods = messages.POOL.FindServiceByName(full_name).methods
    table = getattr(services, f"{service}_METHODS")
    assert {m.name: (m.input_type.full_name, m.output_type.full_name) for m in methods} == {
        name: (request.DESCRIPTOR.full_name, response.DESCRIPTOR.full_name)
        for name, (request, response) in table.items()
    }
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        stub = getattr(services, f"{service}Stub")(channel)
    assert set(vars(stub)) == set(table)


TYPED = """
from serving.protocol import messages, services
import grpc
import grpc.aio

def ask(channel: grpc.Channel) -> str:
    tensor = messages.TensorProto(dtype=messages.DT_FLOAT, float_val=[1.0])
    request = messages.PredictRequest(inputs={"chopstick_length": tensor})
    response = services.PredictionServiceStub(channel).Predict(request, timeout=1.0)
    return response.outputs["classes_prob"].tensor_shape.dim[0].name

async def ask_later(channel: grpc.aio.Channel) -> int:
    stub = services.ModelServiceAsyncStub(channel)
    status = await stub.GetModelStatus(messages.GetModelStatusRequest())
    return status.model_version_status[0].version

messages.PredictReqest()  # wrong: attr-defined
messages.TensorProto(float_val=["a"])  # wrong: list-item
messages.PredictRequest(input={})  # wrong: call-arg
messages.ModelSpec().nmae  # wrong: attr-defined
number: int = messages.ModelSpec().name  # wrong: assignment
"""


def test_mypy_accepts_right_use_and_rejects_wrong_use(tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(TYPED)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--no-error-summary",
            "--config-file",
            "pyproject.toml",
            str(example),
        ],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    found = {
        (int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]"))
        for line in done.stdout.splitlines()
        if ": error: " in line
    }
    expected = {
        (number, line.partition("# wrong: ")[2])
        for number, line in enumerate(TYPED.splitlines(), 1)
        if "# wrong: " in line
    }
    assert found == expected, done.stdout + done.stderr
