"""What can go wrong between a caller and a model server, each with what to try next.

Every failed call raises a `RequestError`: its class and its `code` say what the server (or the
way to it) answered, `detail` is the server's own message, `target` the address that was asked
and `remedy` the next thing to try. REST answers are mapped back to the same classes. A call that
was wrong before anything was sent raises `InvalidRequest` or `MissingDeadline`, which are
ValueErrors as well.
"""

# ruff: noqa: N818 - named as gRPC names its codes, so that a reader finds NOT_FOUND as NotFound.

from __future__ import annotations

import grpc

from serving.client.remedies import remedy_for
from serving.errors import ChopstickError
from serving.protocol.status import Code, code_of_http

DETAIL_LIMIT = 2000  # TFS cuts its messages at 1024 characters; a proxy's page may be any length


class InvalidRequest(ChopstickError, ValueError):
    """The arguments of a call contradict each other or cannot be encoded; nothing was sent."""


class MissingDeadline(InvalidRequest):
    """Neither the client nor the call has a deadline; nothing was sent."""


class RequestError(ChopstickError):
    """An answer other than OK, from the server or from the way to it."""

    code = Code.UNKNOWN

    def __init__(self, detail: str, *, target: str, remedy: str = "") -> None:
        self.detail = detail
        self.target = target
        super().__init__(f"{target}: {self.code.name}: {detail}", remedy)


class InvalidArgument(RequestError):
    """The request is wrong whatever the server's state: a name, dtype, shape or label."""

    code = Code.INVALID_ARGUMENT


class FailedPrecondition(RequestError):
    """The server cannot do this in its present state, or the signature does not exist."""

    code = Code.FAILED_PRECONDITION


class OutOfRange(RequestError):
    """A value is outside what the server accepts."""

    code = Code.OUT_OF_RANGE


class NotFound(RequestError):
    """The model or the version is not served."""

    code = Code.NOT_FOUND


class AlreadyExists(RequestError):
    """What the request would create is there already."""

    code = Code.ALREADY_EXISTS


class DeadlineExceeded(RequestError):
    """No answer within the deadline."""

    code = Code.DEADLINE_EXCEEDED


class Unavailable(RequestError):
    """Nobody answered at the target, or the server refused for now."""

    code = Code.UNAVAILABLE


class ResourceExhausted(RequestError):
    """The server has no thread or no room left, or a message is too large."""

    code = Code.RESOURCE_EXHAUSTED


class PermissionDenied(RequestError):
    """The caller is known and may not do this."""

    code = Code.PERMISSION_DENIED


class Unauthenticated(RequestError):
    """The caller did not say who it is."""

    code = Code.UNAUTHENTICATED


class Unimplemented(RequestError):
    """The server does not offer this call."""

    code = Code.UNIMPLEMENTED


class Aborted(RequestError):
    """The server gave up because of a conflict."""

    code = Code.ABORTED


class Cancelled(RequestError):
    """The call was cancelled on its way."""

    code = Code.CANCELLED


class Internal(RequestError):
    """The server failed, or its answer makes no sense."""

    code = Code.INTERNAL


class DataLoss(RequestError):
    """The server lost data or cannot read it."""

    code = Code.DATA_LOSS


class Unknown(RequestError):
    """An answer without a known code."""

    code = Code.UNKNOWN


_CLASSES: dict[Code, type[RequestError]] = {
    error.code: error
    for error in (
        InvalidArgument,
        FailedPrecondition,
        OutOfRange,
        NotFound,
        AlreadyExists,
        DeadlineExceeded,
        Unavailable,
        ResourceExhausted,
        PermissionDenied,
        Unauthenticated,
        Unimplemented,
        Aborted,
        Cancelled,
        Internal,
        DataLoss,
        Unknown,
    )
}


def known_code(number: int) -> Code:
    """The code of a number; UNKNOWN for one that has no name."""
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def from_code(code: int, detail: str, target: str) -> RequestError:
    """Build the error of a status code and the server's message."""
    known = known_code(code)
    kind = _CLASSES.get(known, Unknown)
    if len(detail) > DETAIL_LIMIT:
        detail = f"{detail[:DETAIL_LIMIT]}..."
    return kind(detail, target=target, remedy=remedy_for(known, detail, target))


def from_grpc(error: grpc.RpcError, target: str) -> RequestError:
    """Build the error of a failed gRPC call, sync or asyncio."""
    status: grpc.StatusCode = error.code()
    number: int = status.value[0]
    return from_code(number, error.details() or status.name, target)


def from_http(status: int, detail: str, target: str) -> RequestError:
    """Build the error of an HTTP status other than 2xx.

    TFS answers 400 for three codes; InvalidArgument stands for all of them. 500 is Internal; what
    only a proxy sends is Unavailable (502) and ResourceExhausted (413, a request too large).
    """
    proxy = {413: Code.RESOURCE_EXHAUSTED, 500: Code.INTERNAL, 502: Code.UNAVAILABLE}
    code = proxy.get(status) or code_of_http(status)
    return from_code(code, detail or f"HTTP {status}", target)
