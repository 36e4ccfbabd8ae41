"""docs/limits.md says what the constants say, and leaves none of the public ports' out."""

import importlib
import re
from pathlib import Path

import pytest

from serving.server import http, memory

PAGE = (Path(__file__).parents[3] / "docs" / "limits.md").read_text()
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "s": 1, "bytes": 1, "bytes/s": 1, "": 1}
ROWS = [
    (cells[2].strip("`"), cells[1])
    for line in PAGE.splitlines()
    if line.startswith("| ") and "`serving." in line
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
]


@pytest.mark.parametrize(("name", "value"), ROWS, ids=lambda text: text.rpartition(".")[2])
def test_a_row_has_the_constants_value(name, value):
    module, _, constant = name.rpartition(".")
    number, _, unit = value.partition(" ")
    assert float(number) * UNITS[unit] == getattr(importlib.import_module(module), constant)


def test_every_limit_of_the_http_port_has_a_row():
    limits = {
        f"serving.server.http.{name}"
        for name, value in vars(http).items()
        if name.isupper() and isinstance(value, int | float)
    }
    assert len(limits) >= 7
    assert limits <= {name for name, _ in ROWS}


def test_what_is_said_below_the_table():
    found = re.search(r"bodies above (\d+) MiB one at a time", PAGE)
    assert found
    assert int(found[1]) << 20 == memory.LARGE_BYTES
