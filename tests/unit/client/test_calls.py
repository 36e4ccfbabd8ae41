"""Every call of every client against the real server."""

import numpy as np
import pytest

from serving.client import (
    INPUT,
    LABELS,
    OUTPUT,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TensorSpec,
    Unimplemented,
)

MM = np.array([[180.0], [240.0], [330.0]], np.float32)


async def test_predict(client):
    answer = await client.predict({INPUT: MM})
    probabilities = answer[OUTPUT]
    assert list(answer.outputs) == [OUTPUT]
    assert probabilities.shape == (3, len(LABELS))
    assert probabilities.dtype == np.float32
    assert probabilities.flags.writeable
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert not np.array_equal(probabilities[0], probabilities[2])
    assert answer.signature == "serving_default"
    assert answer.version == (None if client.rest else 1)


async def test_predict_by_keyword_version_and_output(client):
    answer = await client.predict(
        chopstick_length=[[240.0]], version=1, signature="serving_default", outputs=[OUTPUT]
    )
    both = await client.predict({INPUT: MM})
    assert answer[OUTPUT][0] == pytest.approx(both[OUTPUT][1], rel=1e-6)
    assert answer.version == 1


async def test_classify_says_what_predict_says(client):
    predicted = await client.predict({INPUT: MM})
    answer = await client.classify({INPUT: MM})
    assert answer.labels.tolist() == [list(LABELS)] * 3
    assert answer.scores.dtype == np.float32
    assert answer.scores == pytest.approx(predicted[OUTPUT], rel=1e-5)


async def test_models(client):
    (status,) = await client.models()
    assert (status.version, status.state, status.error_message) == (1, "AVAILABLE", "")
    assert status.available
    assert await client.models(version=1) == [status]


async def test_metadata(client):
    found = await client.metadata()
    assert (found.name, found.version) == ("chopstick", 1)
    assert set(found.signatures) == {"serving_default", "classify"}
    signature = found.signatures["serving_default"]
    assert signature.inputs == {INPUT: TensorSpec("float", (-1, 1))}
    assert signature.outputs == {OUTPUT: TensorSpec("float", (-1, 3))}
    assert found.signatures["classify"].outputs["classes"] == TensorSpec("string", (-1, 3))


async def test_unknown_model(client):
    for call in (client.predict({INPUT: MM}, model="nope"), client.models("nope")):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.code.name == "NOT_FOUND"
        assert "nope" in caught.value.detail
        assert caught.value.target in caught.value.message
        assert "chopstick models" in caught.value.remedy
    with pytest.raises(NotFound):
        await client.metadata("nope")


async def test_unknown_version(client):
    for call in (
        client.predict({INPUT: MM}, version=7),
        client.classify({INPUT: MM}, version=7),
        client.models(version=7),
        client.metadata(version=7),
    ):
        with pytest.raises(NotFound, match="7"):
            await call


async def test_unknown_label(client):
    with pytest.raises(InvalidArgument, match="nobody") as caught:
        await client.predict({INPUT: MM}, label="nobody")
    assert "model config" in caught.value.remedy


async def test_unknown_signature(client):
    kind = InvalidArgument if client.rest else FailedPrecondition
    with pytest.raises(kind, match="nope") as caught:
        await client.predict({INPUT: MM}, signature="nope")
    assert "--signatures" in caught.value.remedy


async def test_unknown_signature_of_classify(client):
    with pytest.raises(InvalidArgument):
        await client.classify({INPUT: MM}, signature="nope")


async def test_wrong_dtype(client):
    if client.rest:
        # JSON has no dtypes: numbers are converted, text is refused.
        await client.predict({INPUT: MM.astype(np.float64)})
        with pytest.raises(InvalidArgument):
            await client.predict({INPUT: np.array([["long"]], object)})
        return
    for dtype in (np.float64, np.int64, object):
        array = MM.astype(dtype) if dtype is not object else np.array([[b"long"]], object)
        with pytest.raises(InvalidArgument, match="Expects arg") as caught:
            await client.predict({INPUT: array})
        assert "dtype" in caught.value.remedy


async def test_wrong_shape(client):
    for array in (np.ones([2], np.float32), np.ones([2, 2], np.float32)):
        with pytest.raises(InvalidArgument) as caught:
            await client.predict({INPUT: array})
        assert "shape" in caught.value.remedy


async def test_wrong_input_names(client):
    # REST reads the names it needs from "inputs" and passes over the others, as TFS does.
    extra = [] if client.rest else [{INPUT: MM, "wrong": MM}]
    for inputs in ({"wrong": MM}, {}, *extra):
        with pytest.raises(InvalidArgument) as caught:
            await client.predict(inputs)
        assert caught.value.remedy


async def test_unknown_output(client):
    with pytest.raises(InvalidArgument, match="alias not found in signature: nope"):
        await client.predict({INPUT: MM}, outputs="nope")


async def test_an_error_is_followed_by_answers(client):
    with pytest.raises(NotFound):
        await client.predict({INPUT: MM}, model="nope")
    assert (await client.predict({INPUT: MM}))[OUTPUT].shape == (3, 3)


async def test_reload(client):
    # What the server is configured with already, so that other tests keep their model.
    if client.rest:
        with pytest.raises(Unimplemented, match="no reload over REST"):
            await client.reload("")
    else:
        with pytest.raises(InvalidArgument, match="absolute path"):
            await client.reload(
                'model_config_list { config { name: "chopstick" base_path: "relative" '
                'model_platform: "tensorflow" } }'
            )
        assert (await client.models())[0].available
