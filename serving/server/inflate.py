"""Compressed requests: inflated to a limit, and not as far as their sender likes.

A megabyte of gzip can be a gigabyte of zeros. gRPC's own decompression knows no limit, so it is
turned off and done here.
"""

from __future__ import annotations

import zlib

MAX_GRPC_BYTES = 256 << 20
"""TFS has no limit. A compressed tensor of this size is 67 million floats."""

GZIP = b"\x1f\x8b"


class TooLargeError(ValueError):
    """Inflated, it would be larger than the limit."""


def is_compressed(message: bytes) -> bool:
    """Whether a gRPC message is gzip or zlib, the two encodings that gRPC's server offers.

    A protobuf message never starts like gzip: the wire type would be 7. It could start like zlib,
    with a field 15 that no request of TFS has and a value that fits.
    """
    return message[:2] == GZIP or (
        message[:1] == b"\x78" and int.from_bytes(message[:2], "big") % 31 == 0
    )


def inflate(data: bytes, limit: int = MAX_GRPC_BYTES) -> bytes:
    """The plain bytes; raises TooLargeError, or ValueError for data that is cut or corrupt."""
    # 32: gzip or zlib, as its head says.
    stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(data, limit)
        if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
            raise TooLargeError(f"inflates to more than {limit} bytes")
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof:
        raise ValueError("ends in the middle")
    return plain
