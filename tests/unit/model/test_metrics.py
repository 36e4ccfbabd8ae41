from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss

from model import metrics

LABELS = np.array([0, 1, 1, 2])
CERTAIN = np.eye(3)[LABELS]
FLAT = np.full((4, 3), 1 / 3)


def test_perfect_and_uninformed() -> None:
    assert metrics.summary(CERTAIN, LABELS) == pytest.approx(
        {"accuracy": 1, "log_loss": 0, "brier": 0, "calibration_error": 0}
    )
    flat = metrics.summary(FLAT, LABELS)
    assert flat["log_loss"] == pytest.approx(np.log(3))
    assert flat["brier"] == pytest.approx(2 / 3)
    # Said a third of each, happened 1/4, 1/2, 1/4.
    assert flat["calibration_error"] == pytest.approx((1 / 12 + 1 / 6 + 1 / 12) / 3)


def test_log_loss_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(3), 50)
    labels = random.integers(3, size=50)
    mine = metrics.log_losses(p, labels).mean()
    assert mine == pytest.approx(log_loss(labels, p, labels=[0, 1, 2]))


def test_wrong_certainty_is_finite() -> None:
    assert np.isfinite(metrics.log_losses(CERTAIN[::-1], LABELS)).all()


def test_equal_probabilities_share_a_bin_whatever_the_order() -> None:
    random = np.random.default_rng(0)
    p = np.tile([0.2, 0.6, 0.2], (100, 1))
    labels = np.repeat([0, 1, 2], [20, 60, 20])
    assert metrics.calibration_error(p, labels) == pytest.approx(0)
    assert metrics.calibration_error(p, random.permutation(labels)) == pytest.approx(0)
