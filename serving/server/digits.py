"""Many float32 values as JSON at once, with the digits that TFS writes.

TFS writes `%g` where that reads back as the same value, else `%.9g`. Rounded to as many digits in
double precision, such a value has those digits as its shortest text, which is what orjson writes.
`rapidjson.decimals` is the same for every value, one at a time, and writes what is odd.
"""

from __future__ import annotations

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.server import rapidjson

# Where `%g`, `%.9g` and orjson all write no exponent. Other values are odd.
_LOW, _HIGH = 1e-4, 1e6
# 10 ** (8 - exponent) for exponents -4 to 5: nine digits before the point. All are exact.
_SCALES = np.array([10.0 ** (8 - exponent) for exponent in range(-4, 6)])
# The product with a scale is off by 1.1e-6 at most; nearer than this to a tie it may round wrongly.
_TIE = 0.5 - 4e-6
# Values at a time, about a millisecond: other threads get the GIL between two steps.
_BLOCK = 1 << 14


def rows(array: NDArray[np.float32]) -> bytes:
    """What stands between the outer brackets: the array's rows, a comma and a blank between them.

    Lists within lists as the shape says. Not for a scalar.
    """
    if array.ndim > 1 and array[:1].size > _BLOCK:
        return b", ".join([b"[" + rows(row) + b"]" for row in array])
    step = max(1, _BLOCK * len(array) // max(1, array.size))
    return b", ".join(
        [
            _compact(array[at : at + step])[1:-1].replace(b",", b", ")
            for at in range(0, len(array), step)
        ]
    )


def texts(array: NDArray[np.float32]) -> list[str]:
    """Each value's text, in order."""
    return _compact(array.ravel())[1:-1].decode().split(",") if array.size else []


def _compact(array: NDArray[np.float32]) -> bytes:
    """The array as JSON without blanks."""
    wide = np.empty(array.shape)
    with np.errstate(invalid="ignore"):
        is_odd = _round(array, wide)
    text: bytes = orjson.dumps(wide, option=orjson.OPT_SERIALIZE_NUMPY)
    if not is_odd.any():
        return text
    # What orjson has for the NaN that stands for an odd value.
    first, *rest = text.split(b"null")
    pieces = [first]
    for number, piece in zip(rapidjson.decimals(array[is_odd]), rest, strict=True):
        pieces += (number.encode(), piece)
    return b"".join(pieces)


def _round(values: NDArray[np.float32], out: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Round to the digits that are written, with NaN for what is odd; returns which are."""
    wide = values.astype(np.float64)
    size = np.abs(wide)
    is_odd = ~((size >= _LOW) & (size < _HIGH))
    if is_odd.any():
        size[is_odd] = 1.0
        is_odd &= wide != 0
    scale = _SCALES.take(np.floor(np.log10(size)).astype(np.intp) + 4)
    product = wide * scale
    nine = np.rint(product)
    is_odd |= np.abs(product - nine) > _TIE
    np.divide(nine, scale, out=out)
    scale /= 1000.0
    # Six digits of a value that is not exactly them never read back as it, so that ties are no
    # matter here.
    six = np.rint(wide * scale)
    six /= scale
    np.copyto(out, six, where=six.astype(np.float32) == values)
    out[is_odd] = np.nan
    return is_odd
