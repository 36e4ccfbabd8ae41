"""Versions that come, go, break and move, on one running server."""

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.protocol import messages, tensors
from serving.protocol.services import PredictionServiceStub
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for

MODELS = ("switched", "broken", "emptied", "steady")


def predict(server: ModelServer, model: str, label: str = "") -> int:
    """The version that answered."""
    request = messages.PredictRequest()
    request.model_spec.name = model
    if label:
        request.model_spec.version_label = label
    tensors.fill_proto(request.inputs["chopstick_length"], np.array([[240.0]], np.float32))
    return server.predictions.Predict(request, timeout=10).model_spec.version.value


def states(server: ModelServer, model: str) -> dict[int, int]:
    request = messages.GetModelStatusRequest()
    request.model_spec.name = model
    answer = server.models.GetModelStatus(request, timeout=10)
    return {v.version: v.state for v in answer.model_version_status}


def add_version(base: Path, source: Path, number: int) -> None:
    """Copy beside and rename into place, as everybody should."""
    shutil.copytree(source, base / f".tmp-{number}")
    (base / f".tmp-{number}").rename(base / str(number))


def entry(name: str, base: Path, extra: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {extra} }}\n'


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, chopstick_models: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        (root / name).mkdir()
        add_version(root / name, chopstick_models / "1", 1)
    return {name: root / name for name in MODELS}


@pytest.fixture(scope="module")
def config_file(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "models.config"
    entries = "".join(entry(name, base) for name, base in bases.items())
    path.write_text(f"model_config_list {{\n{entries}}}\n")
    return path


@pytest.fixture(scope="module")
def server(config_file: Path) -> Iterator[ModelServer]:
    flags = (
        f"--model_config_file={config_file}",
        "--max_num_load_retries=0",
        "--load_retry_interval_micros=0",
    )
    with ModelServer(config_file.parent, None, *flags, model="steady", rest=False) as server:
        yield server


def test_a_version_switch_under_load_fails_no_request(
    server: ModelServer, bases: dict[str, Path], chopstick_models: Path
) -> None:
    answered: Counter[int] = Counter()
    failures: list[str] = []
    stop = threading.Event()

    def load() -> None:
        with grpc.insecure_channel(server.grpc) as channel:
            stub = PredictionServiceStub(channel)
            request = messages.PredictRequest()
            request.model_spec.name = "switched"
            tensors.fill_proto(request.inputs["chopstick_length"], np.array([[240.0]], np.float32))
            while not stop.is_set():
                try:
                    response = stub.Predict(request, timeout=10)
                    answered[response.model_spec.version.value] += 1
                except grpc.RpcError as error:
                    failures.append(f"{error.code()} {error.details()}")

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: answered[1] > 50, "answers of version 1")
        for number in (2, 3):
            add_version(bases["switched"], chopstick_models / "1", number)
            wait_for(lambda n=number: answered[n] > 50, f"answers of version {number}")
            wait_for(
                lambda n=number: states(server, "switched")[n - 1] == 50,
                f"version {number - 1} to be unloaded",
            )
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert states(server, "switched") == {3: 30, 2: 50, 1: 50}


def test_a_version_that_cannot_load_leaves_the_old_one_serving(
    server: ModelServer, bases: dict[str, Path]
) -> None:
    broken = bases["broken"] / "2"
    broken.mkdir()
    wait_for(lambda: states(server, "broken").get(2) == 50, "version 2 to fail")
    request = messages.GetModelStatusRequest()
    request.model_spec.name = "broken"
    newest = server.models.GetModelStatus(request, timeout=10).model_version_status[0]
    assert newest.version == 2
    assert newest.status.error_code == 5
    assert newest.status.error_message.startswith(
        "Could not find SavedModel .pb or .pbtxt at supplied export directory path: "
    )
    assert predict(server, "broken") == 1


def test_a_truncated_saved_model_is_end_with_its_error(
    server: ModelServer, bases: dict[str, Path], chopstick_models: Path
) -> None:
    base = bases["broken"]
    shutil.copytree(chopstick_models / "1", base / ".tmp-3")
    graph = base / ".tmp-3" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:1000])
    (base / ".tmp-3").rename(base / "3")
    wait_for(lambda: states(server, "broken").get(3) == 50, "version 3 to fail")
    shutil.copytree(chopstick_models / "1", base / ".tmp-4")
    for data in (base / ".tmp-4" / "variables").iterdir():
        data.write_bytes(data.read_bytes()[:10])
    (base / ".tmp-4").rename(base / "4")
    wait_for(lambda: states(server, "broken").get(4) == 50, "version 4 to fail")
    assert predict(server, "broken") == 1


def test_a_failing_warmup_fails_the_load(
    server: ModelServer, bases: dict[str, Path], chopstick_models: Path
) -> None:
    base = bases["broken"]
    shutil.copytree(chopstick_models / "1", base / ".tmp-5")
    warmup = base / ".tmp-5" / "assets.extra" / "tf_serving_warmup_requests"
    warmup.write_bytes(warmup.read_bytes()[:-3])
    (base / ".tmp-5").rename(base / "5")
    wait_for(lambda: states(server, "broken").get(5) == 50, "version 5 to fail")
    assert predict(server, "broken") == 1


def test_removed_versions_are_unloaded_and_an_empty_base_path_unloads_all(
    server: ModelServer, bases: dict[str, Path], chopstick_models: Path
) -> None:
    base = bases["emptied"]
    add_version(base, chopstick_models / "1", 2)
    wait_for(lambda: states(server, "emptied").get(1) == 50, "version 1 to be unloaded")
    (base / "2").rename(base / ".gone")
    wait_for(lambda: states(server, "emptied")[2] == 50, "version 2 to be unloaded")
    # Version 1 comes back: rolling back is removing the newest.
    assert predict(server, "emptied") == 1
    (base / "1").rename(base / ".gone-1")
    wait_for(lambda: states(server, "emptied") == {2: 50, 1: 50}, "all to be unloaded")
    with pytest.raises(grpc.RpcError) as refused:
        predict(server, "emptied")
    assert refused.value.details() == "Servable not found for request: Latest(emptied)"


def reload(server: ModelServer, *entries: str) -> None:
    from google.protobuf import text_format

    request = messages.ReloadConfigRequest()
    text_format.Parse(
        f"model_config_list {{ {' '.join(entries)} }}",
        request.config,
        descriptor_pool=messages.POOL,
    )
    server.models.HandleReloadConfigRequest(request, timeout=60)


def test_reload_adds_labels_moves_and_removes_models(
    server: ModelServer, bases: dict[str, Path], chopstick_models: Path, tmp_path: Path
) -> None:
    steady = entry("steady", bases["steady"])
    added = tmp_path / "added"
    added.mkdir()
    add_version(added, chopstick_models / "1", 1)
    add_version(added, chopstick_models / "1", 2)
    policy = "model_version_policy { specific { versions: 1 versions: 2 } }"
    reload(server, steady, entry("added", added, policy))
    wait_for(lambda: states(server, "added") == {2: 30, 1: 30}, "both versions")

    labels = 'version_labels { key: "stable" value: 1 } version_labels { key: "canary" value: 2 }'
    reload(server, steady, entry("added", added, policy + labels))
    assert predict(server, "added", "stable") == 1
    assert predict(server, "added", "canary") == 2

    with pytest.raises(grpc.RpcError) as refused:
        reload(
            server,
            steady,
            entry("added", added, policy + 'version_labels { key: "stable" value: 9 }'),
        )
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details() == (
        "Request to assign label to version 9 of model added, which is not currently available "
        "for inference"
    )
    assert predict(server, "added", "stable") == 1

    reload(server, steady)
    wait_for(lambda: states(server, "added") == {2: 50, 1: 50}, "the model to be unloaded")
    assert predict(server, "steady") == 1


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [entry("a", Path("/models/a")), entry("a", Path("/models/b"))],
            "Illegal to list model a multiple times in config list",
        ),
        (
            ['config { name: "a" base_path: "a" model_platform: "tensorflow" }'],
            "Expected model a to have an absolute path or URI; got base_path()=a",
        ),
        (
            ['config { name: "a" base_path: "/models/a" }'],
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform, model name is a",
        ),
    ],
)
def test_an_invalid_reload_leaves_the_old_configuration(
    server: ModelServer, entries: list[str], message: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        reload(server, *entries)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == message
    assert predict(server, "steady") == 1
