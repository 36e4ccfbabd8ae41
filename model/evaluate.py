"""Cross-validation of the trainers against what they have to beat, and a verdict.

Folds are grouped by individual: a person's six measurements are alike, so a model that has seen
some of them would be marked on what it remembers. Proper scores (log loss, Brier) decide; accuracy
is shown because people ask for it, and cannot tell these models from a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import baselines, metrics
from model.baselines import Lengths, Predictor, Probabilities
from model.dataset import CLASSES, Dataset, load
from model.trainers import TRAINERS, check_name, probabilities, trainer
from serving.errors import ChopstickError

DEFAULT_FOLDS = 10
DEFAULT_SEED = 1991
_BOOTSTRAPS = 2000

Fit = Callable[[Lengths, NDArray[np.int64], int], Predictor]
# name: (how to fit it, one line about it)
_RULES: dict[str, tuple[Fit, str]] = {
    "majority": (baselines.majority, "the most frequent class, for certain"),
    "prior": (baselines.prior, "the class frequencies, for every length"),
}
_OTHERS: dict[str, tuple[Fit, str]] = {
    "boosting": (baselines.boosting, "gradient boosting on the length, scikit-learn")
}


@dataclass(frozen=True)
class Row:
    """Out-of-fold scores of one model; lower is better for all but accuracy and gain.

    `log_loss` (nats) is None where it is infinite; `log_loss_spread` is the standard deviation over
    folds. `gain` is how much lower the log loss is than the class prior's, with a 95 % interval
    `gain_low` to `gain_high` from resampling individuals (not refitting, so rather too narrow).
    """

    name: str
    kind: str
    description: str
    accuracy: float
    log_loss: float | None
    log_loss_spread: float | None
    brier: float
    calibration_error: float
    gain: float | None
    gain_low: float | None
    gain_high: float | None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. `best` is the trainer with the lowest log loss.

    `proven` is True when its gain over the prior is above zero in the whole 95 % interval. `person`
    and `length` are the shares of the efficiency's variance that each explains (0 to 1).
    `out_of_fold` holds probabilities [N, 3] by model, `curves` probabilities over `grid` (mm) by
    models fitted to all data.
    """

    rows: tuple[Row, ...]
    folds: int
    seed: int
    best: str
    proven: bool
    person: float
    length: float
    verdict: str
    dataset: Dataset = field(repr=False)
    out_of_fold: dict[str, Probabilities] = field(repr=False)
    grid: Lengths = field(repr=False)
    curves: dict[str, Probabilities] = field(repr=False)

    def row(self, name: str) -> Row:
        """Return the row of a model; raises KeyError."""
        return {row.name: row for row in self.rows}[name]

    def as_dict(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON; numbers rounded to 6 digits."""
        return {
            "data": {
                "name": self.dataset.name,
                "sha256": self.dataset.digest,
                "measurements": len(self.dataset),
                "individuals": len(np.unique(self.dataset.individuals)),
            },
            "folds": self.folds,
            "seed": self.seed,
            "models": [
                {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(row).items()}
                for row in self.rows
            ],
            "variance_explained": {
                "individual": round(self.person, 6),
                "length": round(self.length, 6),
            },
            "best": self.best,
            "proven": self.proven,
            "verdict": self.verdict,
        }


def split(
    dataset: Dataset, folds: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (train, test) row indices; every individual is in exactly one test fold.

    Raises ChopstickError when there are not 2 folds, or more folds than individuals.
    """
    people = len(np.unique(dataset.individuals))
    rarest = int(np.bincount(dataset.labels, minlength=len(CLASSES)).min())
    most = min(people, rarest)
    if not 2 <= folds <= most:
        raise ChopstickError(
            f"{folds} folds are not possible with {people} individuals and {rarest} measurements "
            "in the rarest class",
            f"Give --folds a number from 2 to {most}."
            if most >= 2
            else "Give data of more individuals.",
        )
    from sklearn.model_selection import StratifiedGroupKFold

    folder = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    yield from folder.split(dataset.lengths[:, np.newaxis], dataset.labels, dataset.individuals)


def evaluate(
    dataset: Dataset | None = None,
    *,
    trainers: Sequence[str] = tuple(TRAINERS),
    folds: int = DEFAULT_FOLDS,
    seed: int = DEFAULT_SEED,
    quick: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Cross-validate `trainers` on `dataset` (the published one by default).

    `quick` compares the softmax trainer with the two rules and nothing else. `progress` is told
    what is being done. Raises ChopstickError for an unknown trainer or an impossible number of
    folds.
    """
    dataset = load() if dataset is None else dataset
    names = ("softmax",) if quick else tuple(dict.fromkeys(trainers))
    if not names:
        raise ChopstickError("no trainer to evaluate", f"Choose from: {', '.join(TRAINERS)}.")
    for name in names:
        check_name(name)
    parts = list(split(dataset, folds, seed))
    progress("importing TensorFlow")
    candidates = {
        **{name: ("rule", *_RULES[name]) for name in _RULES},
        **({} if quick else {name: ("not neural", *_OTHERS[name]) for name in _OTHERS}),
        **{name: ("trainer", _fit_with(name), TRAINERS[name]) for name in names},
    }
    grid = np.linspace(dataset.lengths.min(), dataset.lengths.max(), 151, dtype=np.float32)
    out_of_fold: dict[str, Probabilities] = {}
    curves: dict[str, Probabilities] = {}
    for name, (_, fit, _) in candidates.items():
        progress(f"cross-validating {name}: {folds} folds by individual")
        p = np.full((len(dataset), len(CLASSES)), np.nan)
        for train, test in parts:
            predict = fit(dataset.lengths[train], dataset.labels[train], seed)
            p[test] = predict(dataset.lengths[test])
        out_of_fold[name] = p
        curves[name] = fit(dataset.lengths, dataset.labels, seed)(grid)
    gains = _gains(dataset, out_of_fold, seed)
    rows = tuple(
        _row(name, kind, description, dataset, out_of_fold[name], parts, gains.get(name))
        for name, (kind, _, description) in candidates.items()
    )
    best = min(
        (row for row in rows if row.kind == "trainer"),
        key=lambda row: math.inf if row.log_loss is None else row.log_loss,
    )
    person, length = _explained(dataset, dataset.individuals), _explained(dataset, dataset.lengths)
    return Evaluation(
        rows=rows,
        folds=folds,
        seed=seed,
        best=best.name,
        proven=best.gain_low is not None and best.gain_low > 0,
        person=person,
        length=length,
        verdict=_verdict(rows, best, person, length),
        dataset=dataset,
        out_of_fold=out_of_fold,
        grid=grid,
        curves=curves,
    )


def _fit_with(name: str) -> Fit:
    chosen = trainer(name)

    def fit(lengths: Lengths, labels: NDArray[np.int64], seed: int) -> Predictor:
        classifier = chosen.train(lengths, labels, seed=seed)
        return lambda at: probabilities(classifier, at)

    return fit


def _gains(
    dataset: Dataset, out_of_fold: dict[str, Probabilities], seed: int
) -> dict[str, tuple[float, float, float]]:
    """Log-loss gain over the prior by model: mean and the 95 % interval over individuals."""
    people, places = np.unique(dataset.individuals, return_inverse=True)
    counts = np.bincount(places)
    drawn = np.random.default_rng(seed).integers(len(people), size=(_BOOTSTRAPS, len(people)))
    prior = metrics.log_losses(out_of_fold["prior"], dataset.labels)
    gains = {}
    for name, p in out_of_fold.items():
        if name in _RULES:
            continue
        each = prior - metrics.log_losses(p, dataset.labels)
        sums = np.bincount(places, weights=each)
        resampled = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        low, high = np.quantile(resampled, [0.025, 0.975])
        gains[name] = (float(each.mean()), float(low), float(high))
    return gains


def _row(
    name: str,
    kind: str,
    description: str,
    dataset: Dataset,
    p: Probabilities,
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    gain: tuple[float, float, float] | None,
) -> Row:
    found = metrics.summary(p, dataset.labels)
    # Certainty that is wrong once has an infinite log loss; the clipped figure would mean nothing.
    finite = bool(np.all(p > 0))
    by_fold = [metrics.log_losses(p[test], dataset.labels[test]).mean() for _, test in parts]
    mean, low, high = gain or (None, None, None)
    return Row(
        name=name,
        kind=kind,
        description=description,
        accuracy=found["accuracy"],
        log_loss=found["log_loss"] if finite else None,
        log_loss_spread=float(np.std(by_fold, ddof=1)) if finite else None,
        brier=found["brier"],
        calibration_error=found["calibration_error"],
        gain=mean,
        gain_low=low,
        gain_high=high,
    )


def _explained(dataset: Dataset, groups: NDArray[Any]) -> float:
    """Share of the efficiency's variance that lies between groups (0 to 1)."""
    values = dataset.efficiency
    _, places = np.unique(groups, return_inverse=True)
    means = np.bincount(places, weights=values) / np.bincount(places)
    total = float(np.sum((values - values.mean()) ** 2))
    return float(np.sum((means[places] - values.mean()) ** 2)) / total if total else 0.0


def _verdict(rows: tuple[Row, ...], best: Row, person: float, length: float) -> str:
    by_name = {row.name: row for row in rows}
    majority, prior = by_name["majority"], by_name["prior"]
    top = max((row for row in rows if row.kind == "trainer"), key=lambda row: row.accuracy)
    words = [_on_accuracy(majority.accuracy, top), _on_proper_scores(best, prior)]
    other = by_name.get("boosting")
    if other and other.log_loss is not None and best.log_loss is not None:
        side = "lower" if other.log_loss < best.log_loss else "not lower"
        words.append(
            f"Gradient boosting, which is not a neural model, has a log loss of {other.log_loss:.4f}: "
            f"{side} than {best.name}'s {best.log_loss:.4f}."
        )
    words.append(
        f"Why: the person explains {person:.0%} of the efficiency's variance, the length "
        f"{length:.1%}, and a served model is told only the length."
    )
    return "\n".join(words)


def _on_accuracy(majority: float, top: Row) -> str:
    if top.accuracy > majority:
        return (
            f"Accuracy: {top.name} is right {top.accuracy:.1%} of the time, always saying the most "
            f"frequent class {majority:.1%}."
        )
    return (
        f"Accuracy: no trainer beats always saying the most frequent class ({majority:.1%}; the "
        f"best, {top.name}, {top.accuracy:.1%}). Accuracy decides nothing here; proper scores do."
    )


def _on_proper_scores(best: Row, prior: Row) -> str:
    gain, low, high = best.gain or 0.0, best.gain_low or 0.0, best.gain_high or 0.0
    figures = (
        f"by {abs(gain):.4f} nats (95 % interval of the gain {low:+.4f} to {high:+.4f}); Brier score "
        f"{best.brier:.4f} against {prior.brier:.4f}"
    )
    if low > 0:
        return f"Worth deploying: {best.name}. It beats the class prior's log loss {figures}."
    shrug = (
        "To know the class frequencies is as good as to have any of these models. If one is "
        f"deployed all the same, as here to have something to serve, take {best.name}."
    )
    if gain > 0:
        return (
            f"Not proven: {best.name}, the best trainer, beats the class prior's log loss {figures}. "
            f"The interval includes zero. {shrug}"
        )
    return (
        f"None is worth deploying: {best.name}, the best trainer, misses the class prior's log loss "
        f"{figures}. {shrug}"
    )
