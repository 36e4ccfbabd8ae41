from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.dataset import Dataset, load
from model.trainers import TRAINERS, probabilities, trainer
from serving.errors import ChopstickError

LENGTHS = np.array([180, 210, 240, 270, 300, 330], np.float32)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load()


@pytest.fixture(scope="module")
def trained(data: Dataset) -> dict[str, Any]:
    return {name: trainer(name).train(data.lengths, data.labels, seed=1991) for name in TRAINERS}


def weights(classifier: Any) -> list[bytes]:
    # Keras keeps its variables where tf.Module does not look.
    owner = getattr(classifier, "network", classifier)
    return [variable.numpy().tobytes() for variable in owner.trainable_variables]


@pytest.mark.parametrize("name", TRAINERS)
def test_same_seed_gives_bitwise_the_same_weights(
    name: str, data: Dataset, trained: dict[str, Any]
) -> None:
    # Whatever else drew random numbers in between must not matter.
    np.random.default_rng().random(3)
    again = trainer(name).train(data.lengths, data.labels, seed=1991)
    assert len(weights(again)) >= 2
    assert weights(again) == weights(trained[name])


@pytest.mark.parametrize("name", TRAINERS)
def test_another_seed_starts_elsewhere(name: str, data: Dataset, trained: dict[str, Any]) -> None:
    other = trainer(name).train(data.lengths, data.labels, seed=7)
    assert weights(other) != weights(trained[name])
    # Elsewhere at the start, near the same answer at the end.
    gap = probabilities(other, LENGTHS) - probabilities(trained[name], LENGTHS)
    assert np.abs(gap).max() < 0.1


@pytest.mark.parametrize("name", TRAINERS)
def test_probabilities_vary_with_the_length_and_are_never_certain(
    name: str, trained: dict[str, Any]
) -> None:
    p = probabilities(trained[name], LENGTHS)
    assert p.shape == (6, 3)
    assert p.sum(axis=1) == pytest.approx(np.ones(6), abs=1e-6)
    assert p.min() > 0.02
    assert p.max() < 0.9
    assert np.ptp(p, axis=0).max() > 0.05


@pytest.mark.parametrize("name", TRAINERS)
def test_mean_probability_is_the_class_frequency(
    name: str, data: Dataset, trained: dict[str, Any]
) -> None:
    frequencies = np.bincount(data.labels) / len(data)
    mean = probabilities(trained[name], data.lengths).mean(axis=0)
    # The biases carry no penalty, so at the optimum the two are equal; the network stops short.
    assert mean == pytest.approx(frequencies, abs=0.02 if name == "deep" else 1e-3)


@pytest.mark.parametrize("name", TRAINERS)
def test_outside_the_measured_lengths_the_nearest_counts(
    name: str, trained: dict[str, Any]
) -> None:
    far = probabilities(trained[name], np.array([10, 1e6], np.float32))
    near = probabilities(trained[name], np.array([180, 330], np.float32))
    assert np.array_equal(far, near)


def test_linear_can_say_that_middle_lengths_are_best(trained: dict[str, Any]) -> None:
    assert np.argmax(probabilities(trained["linear"], LENGTHS)[:, 2]) == 2
    assert np.argmax(probabilities(trained["softmax"], LENGTHS)[:, 2]) == 0


def test_unknown_trainer() -> None:
    with pytest.raises(ChopstickError, match="unknown trainer 'forest'") as caught:
        trainer("forest")
    assert "softmax, linear, deep" in caught.value.remedy
