"""--enable_batching on the real server: one answer each, fewer runs, threads that end."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from serving.protocol import messages, tensors
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for


def metric(server: ModelServer, name: str) -> float:
    page = httpx.get(f"http://{server.rest}/monitoring/prometheus/metrics").text
    return float(next(line for line in page.splitlines() if line.startswith(name)).split()[-1])


def predict(server: ModelServer, length: float) -> messages.PredictResponse:
    request = messages.PredictRequest()
    request.model_spec.name = "chopstick"
    array = np.array([[length]], np.float32)
    tensors.fill_proto(request.inputs["chopstick_length"], array)
    return server.predictions.Predict(request, timeout=20)


def threads(server: ModelServer) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def test_requests_are_gathered_and_a_switched_version_takes_its_queues_along(
    chopstick_models: Path, tmp_path: Path
) -> None:
    base = tmp_path / "chopstick"
    shutil.copytree(chopstick_models / "1", base / "1")
    parameters = tmp_path / "batching.txt"
    parameters.write_text(
        "max_batch_size { value: 16 } batch_timeout_micros { value: 20000 }"
        " num_batch_threads { value: 2 } max_enqueued_batches { value: 100 }"
    )
    flags = ("--enable_batching", f"--batching_parameters_file={parameters}")
    with ModelServer(tmp_path, base, *flags) as server, ThreadPoolExecutor(32) as pool:
        lengths = [180.0 + i % 150 for i in range(320)]
        answers = list(pool.map(lambda length: predict(server, length), lengths))
        for length, answer in zip(lengths[:40], answers, strict=False):
            alone = tensors.to_array(predict(server, length).outputs["classes_prob"])
            np.testing.assert_allclose(
                tensors.to_array(answer.outputs["classes_prob"]), alone, rtol=1e-5
            )
        runs = metric(server, ":tensorflow:serving:batching_session:wrapped_run_count")
        assert runs < len(lengths) / 2 + 40

        request = messages.PredictRequest()
        request.model_spec.name = "chopstick"
        array = np.full((17, 1), 240.0, np.float32)
        tensors.fill_proto(request.inputs["chopstick_length"], array)
        with pytest.raises(grpc.RpcError) as refused:
            server.predictions.Predict(request, timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "17 is larger than maximum input batch size 16" in refused.value.details()

        before = threads(server)
        for number in (2, 3, 4):
            shutil.copytree(chopstick_models / "1", base / f".tmp-{number}")
            (base / f".tmp-{number}").rename(base / str(number))
            wait_for(
                lambda n=number: predict(server, 240.0).model_spec.version.value == n,
                f"version {number}",
            )
        # TensorFlow keeps a pool per session for a while; what must not grow is ours.
        assert threads(server) <= before + 4
