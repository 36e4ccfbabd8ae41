"""The measurements: read, checked and turned from one row per person into one row per measurement.

Source of the numbers: Hsu S-H, Wu S-P (1991), "An investigation for determining the optimum length
of chopsticks", Applied Ergonomics, doi 10.1016/0003-6870(91)90082-S.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import ChopstickError

CLASSES = ("low", "medium", "high")
# Upper edges of low and medium: three bins of equal width over the observed 14.47 to 36.15.
# Fixed, so that a label means the same in every fold and for every file.
EDGES = (21.6967, 28.9233)
DEFAULT_CSV = Path(__file__).with_name("data") / "chopstick_efficiency.csv"

_FORMAT = "Expected a header 'individual,180,210,…' (lengths in mm) and one row per person."


@dataclass(frozen=True)
class Dataset:
    """One entry per measurement, in the order of the file: person by person, then by column.

    `lengths` float32 [N] in millimetres, `individuals` int64 [N], `efficiency` float64 [N] in
    peanuts picked and placed, `labels` int64 [N] as indices into CLASSES; `digest` is the SHA-256
    of the file's bytes, `name` its file name without a directory.
    """

    name: str
    digest: str
    lengths: NDArray[np.float32]
    individuals: NDArray[np.int64]
    efficiency: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)


def label_of(efficiency: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class indices of efficiencies; an edge itself belongs to the lower class."""
    return np.digitize(efficiency, EDGES, right=True).astype(np.int64)


def load(path: Path | None = None) -> Dataset:
    """Read and check a CSV file: the published measurements unless another path is given.

    Raises ChopstickError naming the file, the row and the column of what is wrong.
    """
    path = DEFAULT_CSV if path is None else path
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ChopstickError(
            f"cannot read data file '{path}': {error.strerror}",
            "Give an existing CSV file with --data, or leave it out for the published data.",
        ) from None
    try:
        # A spreadsheet's export starts with a byte-order mark.
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ChopstickError(
            f"data file '{path}' is not text: byte {error.start} is not UTF-8", _FORMAT
        ) from None
    individuals, lengths, efficiency = _tidy(path, text)
    labels = label_of(efficiency)
    absent = [name for index, name in enumerate(CLASSES) if not np.any(labels == index)]
    if absent:
        raise ChopstickError(
            f"data file '{path}': no measurement is in class {' or '.join(absent)}",
            f"Efficiencies up to {EDGES[0]} are low, up to {EDGES[1]} medium, above high; "
            "a classifier needs examples of each.",
        )
    return Dataset(
        name=path.name,
        digest=hashlib.sha256(raw).hexdigest(),
        lengths=lengths,
        individuals=individuals,
        efficiency=efficiency,
        labels=labels,
    )


def _tidy(
    path: Path, text: str
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        # Line numbers as an editor shows them, blank lines left out.
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ChopstickError(
            f"data file '{path}', row {reader.line_num}: {error}", _FORMAT
        ) from None
    if not rows:
        raise ChopstickError(f"data file '{path}' is empty", _FORMAT)
    columns = _columns(path, [cell.strip() for cell in rows[0][1]])
    if len(rows) == 1:
        raise ChopstickError(f"data file '{path}' has a header and no rows", _FORMAT)
    individuals: list[int] = []
    lengths: list[float] = []
    efficiency: list[float] = []
    seen: dict[int, int] = {}
    for line, row in rows[1:]:
        if len(row) != len(columns) + 1:
            raise ChopstickError(
                f"data file '{path}', row {line}: {len(row)} cells where the header has "
                f"{len(columns) + 1} columns",
                "Give every person one value per length.",
            )
        person = _individual(path, line, row[0])
        if person in seen:
            raise ChopstickError(
                f"data file '{path}', row {line}, column 'individual': {person} is already in "
                f"row {seen[person]}",
                "One row per person: otherwise a person would be on both sides of a fold.",
            )
        seen[person] = line
        for length, cell in zip(columns, row[1:], strict=True):
            individuals.append(person)
            lengths.append(length)
            efficiency.append(_measurement(path, line, f"{length:g}", cell))
    return (
        np.asarray(individuals, np.int64),
        np.asarray(lengths, np.float32),
        np.asarray(efficiency, np.float64),
    )


def _columns(path: Path, header: list[str]) -> list[float]:
    if header[0].lower() != "individual":
        raise ChopstickError(
            f"data file '{path}', row 1: column 'individual' is missing (the first is "
            f"'{header[0]}')",
            _FORMAT,
        )
    columns: list[float] = []
    for name in header[1:]:
        length = _number(name)
        if length is None or length <= 0:
            raise ChopstickError(
                f"data file '{path}', row 1, column '{name}': not a length in millimetres", _FORMAT
            )
        if length in columns:
            raise ChopstickError(
                f"data file '{path}', row 1, column '{name}': the length is there twice", _FORMAT
            )
        columns.append(length)
    if len(columns) < 2:
        raise ChopstickError(
            f"data file '{path}', row 1: {len(columns)} length columns, at least 2 are needed",
            _FORMAT,
        )
    return columns


def _individual(path: Path, line: int, cell: str) -> int:
    text = cell.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise ChopstickError(
            f"data file '{path}', row {line}, column 'individual': '{cell}' is not a number "
            "of a person",
            "Number the people 1, 2, 3, ….",
        )
    return int(text)


def _measurement(path: Path, line: int, column: str, cell: str) -> float:
    where = f"data file '{path}', row {line}, column '{column}'"
    if not cell.strip():
        raise ChopstickError(
            f"{where}: the cell is empty", "Fill in the measurement or remove the row."
        )
    value = _number(cell)
    if value is None:
        raise ChopstickError(
            f"{where}: '{cell}' is not a finite number",
            "Give the efficiency as a decimal number such as 23.53.",
        )
    if value < 0:
        raise ChopstickError(
            f"{where}: {cell.strip()} is negative", "An efficiency is a count per time: 0 or more."
        )
    return value


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
