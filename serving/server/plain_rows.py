"""The fast lane of REST: `{"instances": [...]}` with rows of numbers, as JSON writers write it.

It takes a body only where `json_tensor` would read the same array from it, and leaves every other
to `json_tensor`: whatever is wrong, odd or merely rare gets its answer, or its error, there.

Why what it takes is right: without numbers and blanks the text is a skeleton of brackets and
commas, which must be that of rows of one length. Rows have to be parted by the very text that is
then replaced by a comma, so that no number can stand outside of a row. What is left are numbers
and commas, which orjson reads as RapidJSON does or refuses: numbers beyond a double, two numbers
without a comma, a comma without a number.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.protocol import messages

LARGEST_BODY = 256 << 10
"""Bytes; to read this many takes about a millisecond, in which nothing else runs."""

Fill = Callable[[int], NDArray[Any] | None]
"""Makes an array for an input of that dtype number, or None where it can't."""

# A body's beginning, its end, and what parts its rows.
_LAYOUTS = (
    (b'{"instances": [[', b"]]}", b"], ["),
    (b'{"instances":[[', b"]]}", b"],["),
    (b'{"instances": [', b"]}", b""),
    (b'{"instances":[', b"]}", b""),
)
_NUMBERS_AND_BLANKS = b"0123456789.+-eE \t\r\n"
_FORMATS: dict[int, tuple[str, type[np.floating[Any]]]] = {
    messages.DT_FLOAT: ("f", np.float32),
    messages.DT_DOUBLE: ("d", np.float64),
}


def read(body: bytes) -> Fill | None:
    """What makes an array of the body's rows; None for a body that is not for this lane."""
    if len(body) > LARGEST_BODY:
        return None
    for layout in _LAYOUTS:
        if body.startswith(layout[0]):
            break
    else:
        return None
    start, end, between = layout
    if not body.endswith(end):
        return None
    text = body[len(start) : -len(end)]
    skeleton = text.translate(None, _NUMBERS_AND_BLANKS)
    shape: tuple[int, ...]
    if between:
        row, _, _ = skeleton.partition(b"]")
        count = skeleton.count(b"[") + 1
        shape = (count, len(row) + 1)
        if row.strip(b",") or skeleton != row + (b"],[" + row) * (count - 1):
            return None
        # As long as it was: replaced in place.
        text = text.replace(between, b",".ljust(len(between)))
        if b"[" in text or b"]" in text:
            return None
    else:
        shape = (len(skeleton) + 1,)
        if skeleton.strip(b","):
            return None
    try:
        values = orjson.loads(b"[%b]" % text)
    except orjson.JSONDecodeError:
        return None
    # One comma fewer than values, except where there is neither.
    return (lambda dtype: _array(values, shape, dtype)) if values else None


def _array(values: list[float], shape: tuple[int, ...], dtype: int) -> NDArray[Any] | None:
    if dtype not in _FORMATS:
        return None
    letter, kind = _FORMATS[dtype]
    try:
        # With "=" a number too large for a float32 is an error, without it is infinite.
        content = struct.pack(f"={len(values)}{letter}", *values)
    except OverflowError:
        return None
    return np.frombuffer(content, kind).reshape(shape)
