"""The evaluation as a picture: what each model says about a length, and how far it can be trusted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.dataset import CLASSES
from model.evaluate import Evaluation, Row
from serving.errors import ChopstickError

# Okabe and Ito's palette: told apart with colour-blind eyes and in grey.
_COLOURS = {
    "softmax": "#0072B2",
    "linear": "#D55E00",
    "deep": "#009E73",
    "boosting": "#CC79A7",
    "prior": "#555555",
}
# A share of fewer predictions than this says more about chance than about the model.
_FEWEST = 20
_STYLES = {"prior": (0, (4, 3)), "boosting": (0, (1, 1))}


def draw(evaluation: Evaluation, path: Path) -> None:
    """Write a PNG of 1500 x 1000 pixels: curves with measured shares, calibration, gains.

    Raises ChopstickError when the file cannot be written; it is replaced as a whole or not at all.
    """
    # Not pyplot: no global state, no display, and half the import time.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12)
    figure = Figure(figsize=(15, 10), dpi=100, layout=layout)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 6, height_ratios=[1.05, 1])
    top = [figure.add_subplot(grid[0, 2 * index : 2 * index + 2]) for index in range(3)]
    for index, axes in enumerate(top):
        _curves(axes, evaluation, index)
    top[0].set_ylabel("probability")
    handles, labels = top[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    _calibration(figure.add_subplot(grid[1, :3]), evaluation)
    _gains(figure.add_subplot(grid[1, 3:]), evaluation)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(color="#e6e6e6", linewidth=0.8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, format="png", metadata={"Software": None})
        temporary.replace(path)
    except OSError as error:
        raise ChopstickError(
            f"cannot write '{path}': {error.strerror or error}",
            "Give another directory with --out.",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _curves(axes: Any, evaluation: Evaluation, index: int) -> None:
    dataset = evaluation.dataset
    lengths = np.unique(dataset.lengths)
    happened = dataset.labels == index
    shares = np.array([happened[dataset.lengths == length].mean() for length in lengths])
    counts = np.array([np.sum(dataset.lengths == length) for length in lengths])
    low, high = _wilson(shares, counts)
    axes.errorbar(
        lengths, shares, yerr=[shares - low, high - shares], fmt="o", color="black", markersize=6,
        elinewidth=1, capsize=3, label="measured (95 % interval)", zorder=3,
    )  # fmt: skip
    for name, p in evaluation.curves.items():
        if name in _COLOURS:
            axes.plot(
                evaluation.grid, p[:, index], color=_COLOURS[name], linewidth=2,
                linestyle=_STYLES.get(name, "-"), label=name,
            )  # fmt: skip
    axes.set_title(f"P({CLASSES[index]} efficiency)", loc="left", fontweight="bold")
    axes.set_xlabel("chopstick length, mm")
    axes.set_xticks(lengths)
    axes.set_ylim(0, 1)


def _calibration(axes: Any, evaluation: Evaluation) -> None:
    labels = evaluation.dataset.labels
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for name, p in evaluation.out_of_fold.items():
        if name not in _COLOURS or name == "prior":
            continue
        said, share, count = _reliability(p, labels)
        shown = count >= _FEWEST
        said, share, count = said[shown], share[shown], count[shown]
        axes.scatter(
            said,
            share,
            alpha=0.75,
            linewidths=0,
            s=6 + 1.2 * count,
            color=_COLOURS[name],
            label=name,
        )
    axes.set_title("Calibration on unseen people, all classes", loc="left", fontweight="bold")
    axes.set_xlabel("probability that was predicted")
    axes.set_ylabel("share that happened")
    axes.set_xlim(0, 0.9)
    axes.set_ylim(0, 0.9)
    axes.text(
        0.98,
        0.04,
        f"dot area: predictions (bins of 5 percentage points, at least {_FEWEST} in each)",
        transform=axes.transAxes,
        ha="right",
    )


def _gains(axes: Any, evaluation: Evaluation) -> None:
    rows = [row for row in evaluation.rows if row.gain is not None][::-1]
    axes.axvline(0, color=_COLOURS["prior"], linestyle=(0, (4, 3)), linewidth=1.5)
    for place, row in enumerate(rows):
        _interval(axes, place, row)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.set_title(
        "Log loss gained over the class prior, unseen people", loc="left", fontweight="bold"
    )
    axes.set_xlabel("worse   ←   nats per prediction, 95 % interval over individuals   →   better")


def _interval(axes: Any, place: int, row: Row) -> None:
    colour = _COLOURS.get(row.name, "black")
    axes.plot([row.gain_low, row.gain_high], [place, place], color=colour, linewidth=3, alpha=0.5)
    axes.plot([row.gain], [place], "o", color=colour, markersize=9)
    axes.annotate(
        f"{row.gain:+.4f}", (row.gain, place), (0, 9), textcoords="offset points", ha="center",
        color=colour,
        bbox={"color": "white", "alpha": 0.8, "pad": 1},
    )  # fmt: skip


def _reliability(
    p: NDArray[np.floating], labels: NDArray[np.int64], width: float = 0.05
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean prediction, share that happened and count, per twentieth."""
    said = np.asarray(p, np.float64).ravel()
    happened = (labels[:, np.newaxis] == np.arange(p.shape[1])).ravel()
    places = np.floor(said / width)
    used = np.unique(places)
    return (
        np.array([said[places == place].mean() for place in used]),
        np.array([happened[places == place].mean() for place in used]),
        np.array([np.sum(places == place) for place in used]),
    )


def _wilson(
    shares: NDArray[np.float64], counts: NDArray[np.int64], z: float = 1.96
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's 95 % interval of a share."""
    centre = (shares + z * z / (2 * counts)) / (1 + z * z / counts)
    half = z * np.sqrt(shares * (1 - shares) / counts + z * z / (4 * counts**2))
    half /= 1 + z * z / counts
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)
