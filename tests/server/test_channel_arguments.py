"""--grpc_channel_arguments wins over the server's own settings, on the wire.

Kubernetes manifests let connections age with it, so that clients without a mesh leave a pod that
ends: that must cost no call.
"""

import time
from pathlib import Path

import grpc
import numpy as np
import pytest

from serving.protocol import messages, tensors
from serving.protocol.services import PredictionServiceStub
from tests.support import http2
from tests.support.servers import ModelServer

AGE, GRACE = 1.0, 2.0
# gRPC ends connections up to a tenth earlier or later, so that not all come back at once.
JITTER = 0.1 * AGE


@pytest.fixture(scope="module")
def server(chopstick_models: Path, tmp_path_factory: pytest.TempPathFactory):
    arguments = (
        f"grpc.max_connection_age_ms={AGE * 1000:.0f},"
        f"grpc.max_connection_age_grace_ms={GRACE * 1000:.0f},"
        "grpc.max_concurrent_streams=7"
    )
    flag = f"--grpc_channel_arguments={arguments}"
    folder = tmp_path_factory.mktemp("aged")
    with ModelServer(folder, chopstick_models, flag, rest=False) as server:
        yield server


def goaway(frames: list[tuple[int, int, int, bytes]]) -> bool:
    return any(kind == http2.GOAWAY for kind, *_ in frames)


def test_what_is_given_wins_over_the_servers_own_setting(server: ModelServer) -> None:
    with http2.Connection(server.grpc) as connection:
        assert connection.read_until(lambda frames: bool(frames))
        (settings, *_) = [
            payload
            for kind, flags, _, payload in connection.frames()
            if kind == http2.SETTINGS and not flags & http2.ACK
        ]
    values = {
        int.from_bytes(settings[at : at + 2], "big"): int.from_bytes(
            settings[at + 2 : at + 6], "big"
        )
        for at in range(0, len(settings), 6)
    }
    # SETTINGS_MAX_CONCURRENT_STREAMS; 900 is the server's own.
    assert values[3] == 7


def test_a_connection_is_sent_away_at_its_age(server: ModelServer) -> None:
    began = time.monotonic()
    with http2.Connection(server.grpc) as connection:
        assert connection.read_until(goaway, AGE + GRACE)
        elapsed = time.monotonic() - began
        assert AGE - JITTER - 0.05 < elapsed < AGE + JITTER + 0.5


def test_a_client_that_goes_on_calling_sees_no_failure(server: ModelServer) -> None:
    request = messages.PredictRequest()
    request.model_spec.name = "chopstick"
    tensors.fill_proto(request.inputs["chopstick_length"], np.array([[240.0]], np.float32))
    left: list[grpc.ChannelConnectivity] = []
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.grpc, options) as channel:
        channel.subscribe(left.append)
        stub = PredictionServiceStub(channel)
        calls = 0
        until = time.monotonic() + 3.5 * AGE
        while time.monotonic() < until:
            # Raises for the first that fails.
            stub.Predict(request, timeout=5)
            calls += 1
    assert calls > 100
    # It was sent away, and came back, more than once.
    assert left.count(grpc.ChannelConnectivity.READY) >= 3, left
