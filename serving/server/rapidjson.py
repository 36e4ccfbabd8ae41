"""JSON as TensorFlow Serving reads and writes it: what RapidJSON 1.1.0 does with TFS's flags.

Reading: NaN, Inf and Infinity are numbers, text after the document is ignored, nesting has no
limit, invalid UTF-8 passes through, errors carry RapidJSON's text and byte offset. The standard
library reads what both agree on, which is nearly everything; a parser of our own reads the rest.

Writing: RapidJSON's PrettyWriter, and TFS's own way with floats.

Text holds bytes that are not UTF-8 as surrogate escapes; `encode` gives the bytes back.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The exact parser takes about a microsecond a token. It is needed for documents that are wrong or
# odd, and a wrong document of 100 MB should not buy a minute of processor time: past this size the
# standard library's opinion stands.
EXACT_LIMIT = 2 << 20

# Past this many bytes a document is read row by row, so that the thread that reads it gives up
# the GIL between two rows; the standard library's scanner never does within a call.
ROWWISE = 256 << 10

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SPACE_BYTES = re.compile(rb"[ \t\n\r]*")
_PLAIN_BYTES = re.compile(rb'[^"\\\x00-\x1f]*')
_DIGITS = re.compile(rb"[0-9]*")
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")
_ESCAPES = {
    0x22: '"',
    0x2F: "/",
    0x5C: "\\",
    0x62: "\b",
    0x66: "\f",
    0x6E: "\n",
    0x72: "\r",
    0x74: "\t",
}

# RapidJSON 1.1.0, error/en.h.
EMPTY = "The document is empty."
INVALID = "Invalid value."
MISSING_NAME = "Missing a name for object member."
MISSING_COLON = "Missing a colon after a name of object member."
MISSING_BRACE = "Missing a comma or '}' after an object member."
MISSING_BRACKET = "Missing a comma or ']' after an array element."
BAD_HEX = "Incorrect hex digit after \\u escape in string."
BAD_SURROGATE = "The surrogate pair in string is invalid."
BAD_ESCAPE = "Invalid escape character in string."
MISSING_QUOTE = "Missing a closing quotation mark in string."
TOO_BIG = "Number too big to be stored in double."
MISSING_FRACTION = "Miss fraction part in number."
MISSING_EXPONENT = "Miss exponent in number."


class JsonError(ValueError):
    """A document that RapidJSON would refuse; the text is RapidJSON's."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at offset: {offset}")
        self.reason = reason
        self.offset = offset


# Reading.


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RapidJSON keeps both members of a name and finds the first.
    members = dict(pairs)
    if len(members) != len(pairs):
        members.update(reversed(pairs))
    return members


_decoder: Any = json.JSONDecoder(object_pairs_hook=_first_wins)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once


def loads(body: bytes) -> Any:
    """The document's value; raises JsonError.

    A whole number outside 64 bits may come as an int; RapidJSON has it as a double.
    """
    if b"\\u" in body and _SURROGATE.search(body):
        return _exact(body)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = body.decode("utf-8", "surrogateescape")
    try:
        start = 0 if text[:1] == "{" else _SPACE.match(text).end()  # type: ignore[union-attr]
        value = _scan_rows(text, start, 2)[0] if len(text) > ROWWISE else _scan(text, start)[0]
        # Of `1e` the standard library reads the 1, which only matters where nothing follows.
        return value if type(value) in (dict, list) else _exact(body)
    except (ValueError, StopIteration, RecursionError, IndexError):
        return _exact(body)


def _scan_rows(text: str, pos: int, objects: int) -> tuple[Any, int]:
    """Scan with a step of Python per row of the first list found within `objects` objects."""
    opening = text[pos]
    skip = _SPACE.match
    if opening == "{" and objects:
        members: dict[str, Any] = {}
        pos = skip(text, pos + 1).end()  # type: ignore[union-attr]
        if text[pos] == "}":
            return members, pos + 1
        while True:
            if text[pos] != '"':
                raise ValueError(MISSING_NAME)
            name, pos = _scan(text, pos)
            pos = skip(text, pos).end()  # type: ignore[union-attr]
            if text[pos] != ":":
                raise ValueError(MISSING_COLON)
            pos = skip(text, pos + 1).end()  # type: ignore[union-attr]
            value, pos = _scan_rows(text, pos, objects - 1)
            members.setdefault(name, value)
            pos = skip(text, pos).end()  # type: ignore[union-attr]
            if text[pos] == "}":
                return members, pos + 1
            if text[pos] != ",":
                raise ValueError(MISSING_BRACE)
            pos = skip(text, pos + 1).end()  # type: ignore[union-attr]
    if opening != "[":
        return _scan(text, pos)
    rows: list[Any] = []
    pos = skip(text, pos + 1).end()  # type: ignore[union-attr]
    if text[pos] == "]":
        return rows, pos + 1
    while True:
        row, pos = _scan(text, pos)
        rows.append(row)
        character = text[pos]
        if character not in ",]":
            pos = skip(text, pos).end()  # type: ignore[union-attr]
            character = text[pos]
        pos += 1
        if character == "]":
            return rows, pos
        if character != ",":
            raise ValueError(MISSING_BRACKET)
        if text[pos] <= " ":
            pos = skip(text, pos).end()  # type: ignore[union-attr]


def _exact(body: bytes) -> Any:
    if len(body) <= EXACT_LIMIT:
        return exact_loads(body)
    text = body.decode("utf-8", "surrogateescape")
    start = _SPACE.match(text).end()  # type: ignore[union-attr]
    try:
        return _scan(text, start)[0]
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode("utf-8", "surrogateescape"))
        raise JsonError(INVALID, offset) from None
    except (ValueError, StopIteration):
        raise JsonError(INVALID, len(body)) from None
    except RecursionError:
        raise JsonError("Nested too deeply.", 0) from None


def recheck(body: bytes) -> None:
    """Raise JsonError where RapidJSON refuses a number that Python reads as infinite."""
    if len(body) <= EXACT_LIMIT:
        exact_loads(body)


# The parser's states, each with RapidJSON's error for what can't follow.
_START, _OBJECT_INITIAL, _KEY, _COLON, _MEMBER, _MEMBER_COMMA, _ARRAY_INITIAL, _ELEMENT, _COMMA = (
    range(9)
)
_ERRORS = (
    EMPTY,
    MISSING_NAME,
    MISSING_COLON,
    INVALID,
    MISSING_BRACE,
    MISSING_NAME,
    INVALID,
    MISSING_BRACKET,
    INVALID,
)
_NAME_STATES = frozenset((_OBJECT_INITIAL, _MEMBER_COMMA))
_VALUE_STATES = frozenset((_START, _COLON, _ARRAY_INITIAL, _COMMA))


def exact_loads(body: bytes) -> Any:
    """`loads` by RapidJSON's own state machine, a token at a time; raises JsonError."""
    # A NUL ends the document for RapidJSON, wherever it stands.
    data = body + b"\0"
    pos = 0
    for mark in b"\xef\xbb\xbf":
        if data[pos] == mark:
            pos += 1
    pos = _SPACE_BYTES.match(data, pos).end()  # type: ignore[union-attr]
    state = _START
    containers: list[Any] = []
    names: list[str | None] = []
    value: Any
    while data[pos]:
        character = data[pos]
        if state in _VALUE_STATES:
            if character in b"[{":
                value = [] if character == 0x5B else {}
                if containers:
                    _put(containers[-1], names, value)
                containers.append(value)
                names.append(None)
                state = _ARRAY_INITIAL if character == 0x5B else _OBJECT_INITIAL
                pos += 1
            elif character == 0x5D and state == _ARRAY_INITIAL:
                pos += 1
                value, state = _close(containers, names)
                if not containers:
                    return value
            elif character in b"]},:":
                break
            else:
                value, pos = _scalar(data, pos)
                if not containers:
                    return value
                _put(containers[-1], names, value)
                state = _MEMBER if state == _COLON else _ELEMENT
        elif state == _KEY:
            if character != 0x3A:
                break
            state = _COLON
            pos += 1
        elif state in _NAME_STATES:
            if character == 0x22:
                names[-1], pos = _string(data, pos)
                state = _KEY
            elif character == 0x7D and state == _OBJECT_INITIAL:
                pos += 1
                value, state = _close(containers, names)
                if not containers:
                    return value
            else:
                break
        elif character == 0x2C:
            state = _MEMBER_COMMA if state == _MEMBER else _COMMA
            pos += 1
        elif character == (0x7D if state == _MEMBER else 0x5D):
            pos += 1
            value, state = _close(containers, names)
            if not containers:
                return value
        else:
            break
        pos = _SPACE_BYTES.match(data, pos).end()  # type: ignore[union-attr]
    raise JsonError(_ERRORS[state], pos)


def _put(container: Any, names: list[str | None], value: Any) -> None:
    if type(container) is list:
        container.append(value)
    else:
        container.setdefault(names[-1], value)


def _close(containers: list[Any], names: list[str | None]) -> tuple[Any, int]:
    value = containers.pop()
    names.pop()
    if containers and type(containers[-1]) is dict:
        return value, _MEMBER
    return value, _ELEMENT


def _scalar(data: bytes, pos: int) -> tuple[Any, int]:
    character = data[pos]
    if character == 0x22:
        return _string(data, pos)
    for word, value in ((b"null", None), (b"true", True), (b"false", False)):
        if character == word[0]:
            return value, _word(data, pos, word)
    return _number(data, pos)


def _word(data: bytes, pos: int, word: bytes) -> int:
    for expected in word:
        if data[pos] != expected:
            raise JsonError(INVALID, pos)
        pos += 1
    return pos


def _string(data: bytes, pos: int) -> tuple[str, int]:
    pos += 1
    pieces: list[str] = []
    while True:
        end = _PLAIN_BYTES.match(data, pos).end()  # type: ignore[union-attr]
        if end > pos:
            pieces.append(data[pos:end].decode("utf-8", "surrogateescape"))
            pos = end
        character = data[pos]
        if character == 0x22:
            return "".join(pieces), pos + 1
        if character != 0x5C:
            raise JsonError(BAD_ESCAPE if character else MISSING_QUOTE, pos)
        escape = data[pos + 1]
        if escape in _ESCAPES:
            pieces.append(_ESCAPES[escape])
            pos += 2
        elif escape == 0x75:
            piece, pos = _unicode(data, pos)
            pieces.append(piece)
        else:
            raise JsonError(BAD_ESCAPE, pos)


def _unicode(data: bytes, start: int) -> tuple[str, int]:
    r"""The character of the \u escape (or pair of them) at `start`."""
    point = _hex4(data, start + 2, start)
    pos = start + 6
    if 0xD800 <= point <= 0xDBFF:
        if data[pos : pos + 2] != b"\\u":
            raise JsonError(BAD_SURROGATE, start)
        low = _hex4(data, pos + 2, start)
        if not 0xDC00 <= low <= 0xDFFF:
            raise JsonError(BAD_SURROGATE, start)
        point = ((point - 0xD800) << 10 | (low - 0xDC00)) + 0x10000
        pos += 6
    # RapidJSON 1.1.0 lets a low surrogate stand alone and writes its three bytes.
    raw = chr(point).encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "surrogateescape"), pos


def _hex4(data: bytes, pos: int, start: int) -> int:
    found = _HEX4.match(data, pos)
    if found is None:
        raise JsonError(BAD_HEX, start)
    return int(found.group(), 16)


def _number(data: bytes, start: int) -> tuple[int | float, int]:
    pos = start
    minus = data[pos] == 0x2D
    if minus:
        pos += 1
    if data[pos] in b"IN":
        return _not_finite(data, pos, minus=minus)
    if data[pos] == 0x30:
        whole_end = pos + 1
    else:
        whole_end = _DIGITS.match(data, pos).end()  # type: ignore[union-attr]
        if whole_end == pos:
            raise JsonError(INVALID, pos)
    whole = data[pos:whole_end]
    # Checked before int(), which takes quadratic time for a number of a million digits.
    if len(whole) > 310 or (len(whole) > 20 and int(whole[:-1]) >= 1.7976931348623157e307):
        raise JsonError(TOO_BIG, start)
    pos = whole_end
    fraction = b""
    is_double = False
    if data[pos] == 0x2E:
        end = _DIGITS.match(data, pos + 1).end()  # type: ignore[union-attr]
        if end == pos + 1:
            raise JsonError(MISSING_FRACTION, end)
        fraction = data[pos + 1 : end]
        pos = end
        is_double = True
    if data[pos] in b"eE":
        pos += 1
        is_double = True
        negative = data[pos] == 0x2D
        if data[pos] in b"+-":
            pos += 1
        end = _DIGITS.match(data, pos).end()  # type: ignore[union-attr]
        if end == pos:
            raise JsonError(MISSING_EXPONENT, end)
        exponent = data[pos:end]
        # The limit is looked at from the second digit on.
        if not negative and len(exponent) > 1:
            limit = 308 + _fraction_digits(whole, fraction)
            stripped = exponent.lstrip(b"0") or b"0"
            if len(stripped) > 9 or int(stripped) > limit:
                raise JsonError(TOO_BIG, start)
        pos = end
    if not is_double:
        number = -int(whole) if minus else int(whole)
        if -(2**63) <= number < 2**64:
            return number, pos
        return float(number), pos
    return float(data[start:pos]), pos


def _fraction_digits(whole: bytes, fraction: bytes) -> int:
    """How many digits of the fraction RapidJSON takes into the significand."""
    value = int(whole)
    wide = value >= 2**64
    significant = max(len(whole) - 1, 0) if whole != b"0" else 0
    taken = 0
    while not wide and taken < len(fraction) and value <= 2**53 - 1:
        value = value * 10 + fraction[taken] - 0x30
        taken += 1
        if value:
            significant += 1
    for digit in fraction[taken:]:
        if significant >= 17:
            break
        value = value * 10 + digit - 0x30
        taken += 1
        if value:
            significant += 1
    return taken


def _not_finite(data: bytes, pos: int, *, minus: bool) -> tuple[float, int]:
    if data[pos] == 0x4E:
        return math.nan, _word(data, pos, b"NaN")
    pos = _word(data, pos, b"Inf")
    if data[pos] == 0x69:
        pos = _word(data, pos, b"inity")
    return (-math.inf if minus else math.inf), pos


# Writing.

_QUOTED = {
    **{code: f"\\u{code:04X}" for code in range(0x20)},
    0x08: "\\b",
    0x09: "\\t",
    0x0A: "\\n",
    0x0C: "\\f",
    0x0D: "\\r",
    0x22: '\\"',
    0x5C: "\\\\",
}


_TO_QUOTE = re.compile(r'["\\\x00-\x1f]')


def quote(text: str) -> str:
    """The text as a JSON string: non-ASCII as it is, control characters as RapidJSON has them."""
    # str.translate takes 10 s for 100 MB, and no other thread runs meanwhile.
    return f'"{_TO_QUOTE.sub(_quoted, text)}"'


def _quoted(found: re.Match[str]) -> str:
    return _QUOTED[ord(found.group())]


def encode(text: str) -> bytes:
    """UTF-8, with the bytes that surrogate escapes stand for."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return text.encode("utf-8", "replace")


def double_text(value: float) -> str:
    """A finite double as RapidJSON's writer has it: shortest digits, `1e30`, `12.0`."""
    if value == 0:
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    if fraction == "0":
        fraction = ""
    digits = (whole + fraction).lstrip("0")
    # value = 0.DIGITS x 10^point
    point = len(whole) + int(exponent or 0)
    if whole == "0":
        point -= len(fraction) - len(fraction.lstrip("0")) + 1
    digits = digits.rstrip("0") or "0"
    length = len(digits)
    if length <= point <= 21:
        return f"{sign}{digits}{'0' * (point - length)}.0"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if length > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1}"


DEBUG_LIMIT = 256
# TFS shows a string whole, however long.
DEBUG_STRING = 64 << 10


class _Full(Exception):  # noqa: N818
    """The limit is reached, or a value can't be written: what is there is the text."""


def debug_string(value: Any) -> str:
    """The value as TFS puts it into an error, cut after about 256 bytes: often not whole JSON."""
    out = _DebugWriter()
    with contextlib.suppress(_Full):
        out.write(value, 0)
    return "".join(out.pieces)


class _DebugWriter:
    """PrettyWriter with lists on one line; stops before the first token past the limit."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.size = 0

    def put(self, text: str) -> None:
        self.pieces.append(text)
        self.size += len(text) if text.isascii() else len(encode(text))

    def check(self) -> None:
        if self.size >= DEBUG_LIMIT:
            raise _Full

    def write(self, value: Any, depth: int, prefix: str = "") -> None:
        self.check()
        kind = type(value)
        if kind is list:
            self.put(prefix + "[")
            for index, item in enumerate(value):
                self.write(item, depth + 1, ", " if index else "")
            self.check()
            self.put("]")
        elif kind is dict:
            self.put(prefix + "{")
            indent = "    " * (depth + 1)
            for index, (name, item) in enumerate(value.items()):
                self.check()
                self.put(f"{',' if index else ''}\n{indent}{quote(name)}")
                self.write(item, depth + 1, ": ")
            self.check()
            self.put(f"\n{'    ' * depth}}}" if value else "}")
        else:
            self.put(prefix)
            self.put(_scalar_text(value))


def _scalar_text(value: Any) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if type(value) is str:
        return quote(value[:DEBUG_STRING])
    if type(value) is int and -(2**63) <= value < 2**64:
        return str(value)
    number = as_double(value)
    if not math.isfinite(number):
        # The writer refuses these, which ends the text.
        raise _Full
    return double_text(number)


def as_double(value: float) -> float:
    """The number as a double; a whole number too large for one is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


# Floats in replies.


def decimal(value: float, *, single: bool = True) -> str:
    """A float as TFS writes it: `%g` when that reads back as the same value, else all digits.

    `single`: the value is a float32, else a float64.
    """
    text = f"{value:g}"
    if not math.isfinite(value):
        return _not_finite_text(value)
    read = float(text)
    # A float32 holds 9 significant digits, a float64 17.
    if not single:
        if read != value:
            text = f"{value:.17g}"
    elif read != value:
        # Half a step of a float32 is at most 2**-24 of it, unless it is subnormal; to round is
        # only worth it for what is nearer.
        near = abs(read - value) <= 6e-8 * abs(value) or abs(value) < 1.2e-38
        if not near or np.float32(read) != value:
            text = f"{value:.9g}"
    return text if "." in text or "e" in text else text + ".0"


def _not_finite_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


# From this many values on, the work shared between them outweighs NumPy's fixed cost.
MANY = 16


def decimals(values: NDArray[Any]) -> list[str]:
    """`decimal` of every element of a float32 or float64 array, in order."""
    flat = values.ravel()
    single = flat.dtype == np.float32
    if flat.size < MANY:
        return [decimal(value, single=single) for value in flat.tolist()]
    with np.errstate(all="ignore"):
        wide = flat.astype(np.float64)
        finite = np.isfinite(wide)
        size = np.abs(wide)
        # Which values could read back from six digits: rounded to six digits in floating point
        # they are within about half a step of themselves. Too many are fine, they are tried;
        # too few would be wrong, so the bound is generous and what is odd is always tried.
        scale = 10.0 ** (5 - np.floor(np.log10(size)))
        error = np.abs(np.rint(size * scale) / scale - size)
        step = np.spacing(np.abs(flat)).astype(np.float64)
        tries = ~(error > step * (0.6 if single else 4.0))
    numbers = wide.tolist()
    count = len(numbers)
    long_format = "%.9g " if single else "%.17g "
    texts = (long_format * count % tuple(numbers)).split()
    chosen = np.flatnonzero(tries & finite)
    if chosen.size:
        picked = wide[chosen].tolist()
        short = ("%g " * len(picked) % tuple(picked)).split()
        with np.errstate(all="ignore"):
            read = np.array([float(text) for text in short]).astype(flat.dtype)
        same = (read == flat[chosen]).tolist()
        for index, text, is_same in zip(chosen.tolist(), short, same, strict=True):
            if is_same:
                texts[index] = text
    for index in np.flatnonzero(~finite).tolist():
        texts[index] = _not_finite_text(numbers[index])
    return [
        text if "." in text or "e" in text or "n" in text or "N" in text else text + ".0"
        for text in texts
    ]
