from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from model import baselines
from model.dataset import Dataset, load
from model.evaluate import Evaluation, evaluate, split
from model.plot import draw
from serving.errors import ChopstickError


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load()


@pytest.fixture(scope="module")
def full(data: Dataset) -> Evaluation:
    return evaluate(data, folds=2)


@pytest.mark.parametrize("folds", [2, 5, 10, 31])
@pytest.mark.parametrize("seed", [0, 1991])
def test_nobody_is_in_both_folds(data: Dataset, folds: int, seed: int) -> None:
    tested = []
    for train, test in split(data, folds, seed):
        assert not set(data.individuals[train]) & set(data.individuals[test])
        assert sorted([*train, *test]) == list(range(186))
        tested += test.tolist()
    assert sorted(tested) == list(range(186))


@pytest.mark.parametrize("folds", [-1, 0, 1, 32])
def test_impossible_folds(data: Dataset, folds: int) -> None:
    with pytest.raises(ChopstickError, match=f"{folds} folds are not possible") as caught:
        evaluate(data, folds=folds)
    assert "from 2 to 31" in caught.value.remedy


def test_models_are_fitted_to_the_other_folds_alone(data: Dataset, full: Evaluation) -> None:
    # The class prior is easy to recompute: one constant per fold, from everybody else.
    for train, test in split(data, full.folds, full.seed):
        counts = np.bincount(data.labels[train]) + 1
        assert np.allclose(full.out_of_fold["prior"][test], counts / counts.sum())


def test_every_candidate_is_scored(full: Evaluation) -> None:
    assert [row.name for row in full.rows] == [
        "majority", "prior", "boosting", "softmax", "linear", "deep",
    ]  # fmt: skip
    assert full.row("majority").accuracy == pytest.approx(117 / 186)
    assert full.row("majority").log_loss is None
    for row in full.rows[1:]:
        assert row.log_loss is not None
        assert 0.8 < row.log_loss < 1.1
        assert 0.4 < row.brier < 0.7
        assert 0 <= row.calibration_error < 0.25
    for row in full.rows[2:]:
        assert row.gain is not None
        assert row.gain_low is not None
        assert row.gain_high is not None
        assert row.gain_low < row.gain < row.gain_high
        prior = full.row("prior").log_loss
        assert row.gain == pytest.approx((prior or 0) - (row.log_loss or 0))


def test_verdict_is_plain(full: Evaluation) -> None:
    losses = {row.name: row.log_loss for row in full.rows if row.kind == "trainer"}
    assert full.best == min(losses, key=lambda name: losses[name] or 9)
    assert "62.9%" in full.verdict
    assert full.best in full.verdict
    assert not full.proven
    assert "Not proven" in full.verdict or "None is worth deploying" in full.verdict
    # In a table without gaps the shares are the variances of its row and column means.
    table = full.dataset.efficiency.reshape(31, 6)
    assert full.person == pytest.approx(table.mean(axis=1).var() / table.var())
    assert full.length == pytest.approx(table.mean(axis=0).var() / table.var())


def test_same_seed_same_figures(data: Dataset) -> None:
    first, second = (evaluate(data, folds=3, quick=True) for _ in range(2))
    assert first.as_dict() == second.as_dict()
    assert [row.name for row in first.rows] == ["majority", "prior", "softmax"]


def test_a_model_that_is_worth_it_is_called_so(data: Dataset) -> None:
    # Efficiency that falls with the length and nothing else: every trainer can learn it.
    efficiency = np.interp(data.lengths, [180, 330], [35, 15])
    labels = np.digitize(efficiency, [21.6967, 28.9233], right=True).astype(np.int64)
    clear = dataclasses.replace(data, efficiency=efficiency, labels=labels)
    found = evaluate(clear, trainers=["softmax"], folds=3)
    assert found.proven
    assert "Worth deploying: softmax" in found.verdict
    assert found.length == pytest.approx(1)


def test_json_has_no_arrays(full: Evaluation) -> None:
    body = json.loads(json.dumps(full.as_dict(), allow_nan=False))
    assert body["data"]["individuals"] == 31
    assert len(body["models"]) == 6
    assert body["models"][0]["log_loss"] is None


def test_unknown_trainer(data: Dataset) -> None:
    with pytest.raises(ChopstickError, match="unknown trainer 'forest'"):
        evaluate(data, trainers=["forest"])
    with pytest.raises(ChopstickError, match="no trainer"):
        evaluate(data, trainers=[])


def test_picture(full: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "new" / "evaluation.png"
    draw(full, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert int.from_bytes(content[16:20]) == 1500
    assert [entry.name for entry in path.parent.iterdir()] == ["evaluation.png"]
    draw(full, path)
    assert path.read_bytes() == content


def test_picture_in_the_way(full: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ChopstickError, match="cannot write"):
        draw(full, tmp_path / "file" / "evaluation.png")


def test_boosting_without_one_of_the_classes() -> None:
    lengths = np.repeat(np.array([180, 330], np.float32), 10)
    predict = baselines.boosting(lengths, np.repeat([0, 2], 10).astype(np.int64), 0)
    p = predict(lengths)
    assert p.shape == (20, 3)
    assert p[:, 1].max() == 0
    assert p.sum(axis=1) == pytest.approx(np.ones(20))
