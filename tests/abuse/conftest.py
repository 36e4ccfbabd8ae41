"""One server per worker that all of this folder's tests mistreat."""

import resource
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.protocol import messages, tensors
from serving.server.plain_rows import LARGEST_BODY
from tests.abuse.requests import GOOD_BODY, REST_PREDICT, Client, good_request, zeros
from tests.support.resources import Usage, usage
from tests.support.servers import ModelServer
from tests.support.waiting import wait_for

# Seconds for a head, instead of ten: one test waits for them.
HEAD_SECONDS = 3
# A test may leave this much behind, in MiB: what the C library and gRPC keep for the next time.
SLACK = 100


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.abuse)


def with_limits(server: ModelServer, **limits: float) -> ModelServer:
    """The server, not started yet, with other values for constants of `serving.server.http`."""
    code = "".join(f"http.{name} = {value}\n" for name, value in limits.items())
    module = server.arguments.index("-m")
    server.arguments[module : module + 2] = [
        "-c",
        f"from serving.server import http, main\n{code}main.tensorflow_model_server()",
    ]
    return server


def warm(server: ModelServer) -> None:
    """Let every pool of the server have all of its threads, so that later ones are a leak."""
    # Too large for the event loop.
    body = b'{"instances": [' + b",".join([b"[240.0]"] * (LARGEST_BODY // 8 + 1)) + b"]}"
    # Runs this long are not made in the event loop either; sixteen of them are more than the workers.
    rows = messages.PredictRequest()
    rows.model_spec.name = "chopstick"
    tensors.fill_proto(rows.inputs["chopstick_length"], np.full((250_000, 1), 240.0, np.float32))
    long_run = rows.SerializeToString()

    def work(_: int) -> None:
        with Client(server) as client:
            client.rest("POST", REST_PREDICT, body)
            client.rest("POST", REST_PREDICT, zeros(2), {"Content-Encoding": "gzip"})
            client.call(long_run)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


@pytest.fixture(scope="session", autouse=True)
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="session")
def shared_server(
    chopstick_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    # TensorFlow's oneDNN allocator keeps the memory of the largest run that it ever had, which
    # would hide a leak of ours.
    quiet = {"TF_ENABLE_ONEDNN_OPTS": "0"}
    folder = tmp_path_factory.mktemp("abused")
    server = ModelServer(folder, chopstick_models, environment=quiet)
    with with_limits(server, HEAD_SECONDS=HEAD_SECONDS):
        warm(server)
        yield server


@pytest.fixture
def server(shared_server: ModelServer) -> Iterator[ModelServer]:
    """The server; after the test it answers as before, and has given back what it took."""
    before = usage(shared_server.process.pid)
    yield shared_server
    assert_well(shared_server)

    def back() -> bool:
        now = usage(shared_server.process.pid)
        return (
            now.rss <= before.rss + SLACK
            and now.threads <= before.threads + 1
            and now.descriptors <= before.descriptors + 1
        )

    try:
        wait_for(back, "resources to be given back", 12)
    except AssertionError:
        now: Usage = usage(shared_server.process.pid)
        raise AssertionError(f"before: {before}; afterwards: {now}") from None


def assert_well(server: ModelServer) -> None:
    """A good Predict is answered, over both protocols, in the time that it usually takes."""
    good = good_request().SerializeToString()
    times = []
    with Client(server) as client:
        for _ in range(20):
            began = time.perf_counter()
            assert client.answer(good) == ("OK", "")
            assert client.rest("POST", REST_PREDICT, GOOD_BODY) == 200
            times.append(time.perf_counter() - began)
    # A millisecond or two; two busy cores shared with other tests make it twenty.
    assert statistics.median(times) < 0.1
