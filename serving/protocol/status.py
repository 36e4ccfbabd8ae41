"""Status codes as they travel: gRPC's numbers, TensorFlow Serving's HTTP mapping, one exception."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """google.rpc.Code; the names are also the `status` label of TFS's request_count."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


# tensorflow_serving/model_servers/http_rest_api_util.cc
_HTTP = {
    Code.OK: 200,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


def http_status(code: int) -> int:
    """HTTP status that TensorFlow Serving's REST API gives for a code; 500 for the rest."""
    return _HTTP.get(Code(code), 500)


def code_of_http(status: int) -> Code:
    """The likeliest code behind an HTTP status, for a REST client."""
    for code, http in _HTTP.items():
        if http == status:
            return code
    return Code.UNKNOWN


class ServingError(Exception):
    """An answer other than OK: a code and the message that goes to the caller."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = Code(code)
        self.message = message


def invalid_argument(message: str) -> ServingError:
    """The request is wrong whatever the server's state."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """What the request names is not here."""
    return ServingError(Code.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    """The server is not in the state that the request needs."""
    return ServingError(Code.FAILED_PRECONDITION, message)


def unavailable(message: str) -> ServingError:
    """Not now; the same request may succeed later."""
    return ServingError(Code.UNAVAILABLE, message)


def unimplemented(message: str) -> ServingError:
    """The server does not do this."""
    return ServingError(Code.UNIMPLEMENTED, message)


def deadline_exceeded(message: str) -> ServingError:
    """The caller's deadline passed first."""
    return ServingError(Code.DEADLINE_EXCEEDED, message)


def internal(message: str) -> ServingError:
    """Something that should never happen did."""
    return ServingError(Code.INTERNAL, message)
