"""Chopstick lengths as people give them: words of a command line, lines of a CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator

from serving.errors import ChopstickError

MEASURED = (180.0, 330.0)  # mm; the lengths that Hsu and Wu (1991) measured
COLUMNS = ("length", "length_mm", "chopstick_length")
FLOAT32_MAX = 3.4028234663852886e38
_REMEDY = "Give lengths in millimetres, such as 240; the measured ones are 180 to 330."


def parse_length(text: str, where: str = "") -> float:
    """Return the length in millimetres.

    Raises ChopstickError for what is not a positive finite number that float32 holds; `where`
    says where it stands.
    """
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    prefix = f"{where}: " if where else ""
    try:
        # float() reads "1_0" as 10, which in a file of measurements is a slip.
        value = float(text.replace("_", "?"))
    except ValueError:
        raise ChopstickError(f"{prefix}'{shown}' is not a number", _REMEDY) from None
    if not math.isfinite(value) or abs(value) > FLOAT32_MAX:
        raise ChopstickError(f"{prefix}'{shown}' is not a finite length", _REMEDY)
    # The smallest positive float32; anything smaller would travel as 0.
    if value < 1.2e-38:
        raise ChopstickError(f"{prefix}'{shown}' is not a positive length", _REMEDY)
    return value


def read_csv(data: bytes, name: str) -> list[float]:
    """Return the lengths of a CSV file: one per line, or its column `length`.

    `name` is what error messages call the file. A first line that holds no number is the header;
    blank lines are skipped. Raises ChopstickError naming file, line and value.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ChopstickError(
            f"{name}: byte {error.start} is not UTF-8 text", "Save the file as CSV in UTF-8."
        ) from None
    rows = _rows(text, name)
    first = next(rows, None)
    if first is None:
        raise ChopstickError(f"{name} holds no lengths", _REMEDY)
    line, cells = first
    names = [cell.strip().lower() for cell in cells]
    found = [names.index(column) for column in COLUMNS if column in names]
    lengths: list[float] = []
    if found:
        column = found[0]
    elif len(cells) == 1:
        column = 0
        lengths.append(parse_length(cells[0], f"{name}, line {line}"))
    else:
        raise ChopstickError(
            f"{name}, line {line}: {len(cells)} columns and none is named 'length'",
            "Name the column 'length' in the first line, or give one length per line.",
        )
    width = len(cells)
    for number, row in rows:
        where = f"{name}, line {number}"
        if len(row) != width:
            raise ChopstickError(
                f"{where}: {len(row)} columns instead of {width}",
                "Decimal commas and unquoted commas split a cell; use a decimal point.",
            )
        lengths.append(parse_length(row[column], where))
    if not lengths:
        raise ChopstickError(f"{name} holds a header and no lengths", _REMEDY)
    return lengths


def _rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ChopstickError(
                f"{name}, line {reader.line_num}: {error}", "Is this a CSV file?"
            ) from None
        if any(cell.strip() for cell in row):
            yield reader.line_num, row


def outside_measured(lengths: Iterable[float]) -> list[float]:
    """The lengths outside the measured 180 to 330 mm, where the model extrapolates."""
    low, high = MEASURED
    return [value for value in lengths if not low <= value <= high]
