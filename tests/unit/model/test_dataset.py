from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from model.dataset import DEFAULT_CSV, label_of, load
from serving.errors import ChopstickError

GOOD = "individual,180,240\n1,20.0,25\n2,30,10\n"


def test_published_measurements() -> None:
    data = load()
    assert len(data) == 186
    assert data.lengths.dtype == np.float32
    assert len(np.unique(data.individuals)) == 31
    assert np.unique(data.lengths).tolist() == [180, 210, 240, 270, 300, 330]
    assert np.bincount(data.labels).tolist() == [36, 117, 33]
    assert data.efficiency.mean() == pytest.approx(25.005591, abs=1e-6)
    # Person 1 with 240 mm: the third value of the first row.
    assert (data.individuals[2], data.lengths[2], data.efficiency[2]) == (1, 240, 21.34)
    assert data.digest == hashlib.sha256(DEFAULT_CSV.read_bytes()).hexdigest()


def test_edges_belong_to_the_lower_class() -> None:
    edges = np.array([14.47, 21.6967, 21.6968, 28.9233, 28.9234, 36.15])
    assert label_of(edges).tolist() == [0, 0, 1, 1, 2, 2]


def test_spreadsheet_export_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode() + b"\r\n,,\r\n")
    assert load(path).efficiency.tolist() == [20, 25, 30, 10]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["is empty"]),
        ("\n\n", ["is empty"]),
        ("individual,180,240\n", ["no rows"]),
        ("person,180,240\n1,2,3\n", ["row 1", "column 'individual' is missing", "'person'"]),
        ("individual,180\n1,2\n", ["row 1", "1 length columns"]),
        ("individual,180,long\n1,2,3\n", ["row 1", "column 'long'"]),
        ("individual,180,-240\n1,2,3\n", ["row 1", "column '-240'"]),
        ("individual,180,180.0\n1,2,3\n", ["row 1", "column '180.0'", "twice"]),
        (GOOD + "3,20\n", ["row 4", "2 cells", "3 columns"]),
        (GOOD + "3,20,21,22\n", ["row 4", "4 cells"]),
        (GOOD + "3,many,21\n", ["row 4", "column '180'", "'many' is not a finite number"]),
        (GOOD + "3,21,nan\n", ["row 4", "column '240'", "'nan'"]),
        (GOOD + "3,21,inf\n", ["row 4", "column '240'", "'inf'"]),
        (GOOD + "3,21,-0.5\n", ["row 4", "column '240'", "-0.5 is negative"]),
        (GOOD + "\n3,21, \n", ["row 5", "column '240'", "cell is empty"]),
        (GOOD + "x,21,22\n", ["row 4", "column 'individual'", "'x'"]),
        (GOOD + "1,21,22\n", ["row 4", "column 'individual'", "1 is already in row 2"]),
        (GOOD + '3,"21,22\n', ["row 4", "unexpected end of data"]),
        ("individual,180,240\n1,25,25\n2,26,30\n", ["no measurement is in class low"]),
    ],
)
def test_bad_file_is_named_with_row_and_column(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ChopstickError) as caught:
        load(path)
    for words in [str(path), *expected]:
        assert words in caught.value.message
    assert caught.value.remedy


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ChopstickError, match="No such file"):
        load(tmp_path / "none.csv")
    with pytest.raises(ChopstickError, match="Is a directory"):
        load(tmp_path)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"individual,180\n\xff\xfe")
    with pytest.raises(ChopstickError, match="byte 15 is not UTF-8"):
        load(binary)
