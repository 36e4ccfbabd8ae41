"""The program that caller pods run, against the embedded server: what it reports is what came back."""

from pathlib import Path

import pytest

from tests.mesh.dialogue import Talk, talk_here
from tests.support.servers import ModelServer

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ModelServer(tmp_path_factory.mktemp("server"), MODELS / "chopstick") as running:
        yield running


@pytest.fixture(scope="module")
def talk():
    with talk_here() as found:
        yield found


@pytest.mark.parametrize(
    ("rpc", "code"),
    [
        ("Predict", "OK"),
        ("Classify", "OK"),
        ("Regress", "INVALID_ARGUMENT"),
        ("MultiInference", "OK"),
        ("GetModelMetadata", "OK"),
        ("GetModelStatus", "OK"),
        ("HandleReloadConfigRequest", "INVALID_ARGUMENT"),
        ("/tensorflow.serving.SessionService/SessionRun", "UNIMPLEMENTED"),
        ("/grpc.health.v1.Health/Check", "OK"),
    ],
)
def test_each_rpc_is_well_formed(server: ModelServer, talk: Talk, rpc: str, code: str):
    answer = talk.rpc(server.grpc, rpc)
    assert answer.codes == [code], answer.detail


def test_every_request_has_its_code(server: ModelServer, talk: Talk):
    assert talk.rpc(server.grpc, "Predict", times=3).codes == ["OK"] * 3
    assert talk.rpc(server.grpc, "Predict", together=40).counts == {"OK": 40}
    assert talk.rest(server.rest, "/v1/models/chopstick", together=20).counts == {"200": 20}


def test_rest_answers_with_numbers(server: ModelServer, talk: Talk):
    body = {"instances": [{"chopstick_length": [240.0]}]}
    path = "/v1/models/chopstick:predict"
    assert talk.rest(server.rest, path, method="POST", body=body).code == "200"
    assert talk.rest(server.rest, "/nothing").code == "404"


def test_a_request_can_be_large(server: ModelServer, talk: Talk):
    assert talk.rpc(server.grpc, "Predict", rows=20_000).bytes > 2**16


def test_what_came_of_a_connection_without_an_answer(talk: Talk):
    assert talk.rpc("127.0.0.1:1", "Predict").code == "REFUSED"
    assert talk.rest("127.0.0.1:1", "/").code == "REFUSED"


def test_an_order_that_cannot_be_carried_out_says_so(talk: Talk):
    with pytest.raises(AssertionError, match="could not ask"):
        talk.rpc("no target", "Predict")
