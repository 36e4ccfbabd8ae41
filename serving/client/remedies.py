"""What to try next after a failed call, by its code and the words of whoever answered."""

from __future__ import annotations

import re

from serving.protocol.status import Code

# (codes, pattern in the server's message or None, what to try); the first match wins.
_LIST = "'chopstick models {target} --signatures' or client.metadata() shows"
_REQUEST = {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE}
_REMEDIES: tuple[tuple[set[Code], str | None, str], ...] = (
    (
        {Code.NOT_FOUND, Code.UNIMPLEMENTED},
        r"^HTTP 404|status: 404|no route|route not found|^UNIMPLEMENTED$",
        (
            "That is a gateway's or a mesh's answer, not TensorFlow Serving's: no route for this host "
            "or call. Is {target} the right name (one for gRPC, another for --rest), and is the call "
            "one that the routes let through?"
        ),
    ),
    (
        {Code.NOT_FOUND},
        None,
        "See which versions are served: chopstick models {target} --model NAME.",
    ),
    (
        _REQUEST,
        r"version label",
        (
            "Labels are given in the server's model config; "
            "without one, ask by version number or for the newest."
        ),
    ),
    (
        _REQUEST,
        r"(?i)signature (key|name)|No signature was found|classification|regression",
        f"{_LIST} the signatures and what each takes.",
    ),
    (
        _REQUEST,
        r"input size|[Ii]nput alias|named input|Missing named|Expected one input|keys? ",
        f"{_LIST} the names of the signature's inputs.",
    ),
    (
        _REQUEST,
        r"Expects arg|but .* is provided|expected type|Data types don't match",
        (f"Convert the array first, gRPC converts nothing; {_LIST.lower()} the dtypes."),
    ),
    (
        _REQUEST,
        r"matrix|Matrix|shape|dimension|rank|size",
        f"Give the input the signature's shape; {_LIST.lower()} it, -1 being the batch.",
    ),
    (_REQUEST, r"output tensor alias", f"{_LIST} the names of the signature's outputs."),
    (_REQUEST, None, f"{_LIST} what the model takes."),
    (
        {Code.UNAVAILABLE},
        r"DNS resolution|resolving|name resolution|Name or service not known|Errno -[235]\b",
        "Check the host name in {target}.",
    ),
    (
        {Code.UNAVAILABLE},
        r"(?i)batch scheduling queue",
        "The server is overloaded: send less, or give it more batch threads or replicas.",
    ),
    (
        {Code.UNAVAILABLE},
        r"(?i)Hostname mismatch|hostname verification|IP address mismatch|not in peer certificate",
        (
            "The server's certificate is for another name. Give that name as the target; where it "
            "doesn't resolve yet, add the address: --connect-to HOST:PORT (connect_to=)."
        ),
    ),
    (
        {Code.UNAVAILABLE},
        r"(?i)certificate has expired|not yet valid",
        "The server's certificate must be renewed, or a clock is wrong.",
    ),
    (
        {Code.UNAVAILABLE},
        r"(?i)certificate.required|bad.certificate|unknown.ca\b",
        "The server wants a certificate of this client that it trusts: --tls-cert and --tls-key.",
    ),
    (
        {Code.UNAVAILABLE},
        r"(?i)certificate.verify.failed|certificate signature failure",
        (
            "The authority that signed the server's certificate is not known here: "
            "--ca FILE (TLS(ca=...)) names it."
        ),
    ),
    (
        {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE},
        r"(?i)rate[ _-]?limit|HTTP 429|too many requests",
        (
            "A rate limit, not the server: send fewer a second. Limits are per caller and per pod; "
            "who runs the gateway or mesh can raise them."
        ),
    ),
    (
        {Code.UNKNOWN},
        r"(?i)stream removed",
        (
            "A mesh or gateway may have refused the call before it was read, and gRPC then loses the "
            "words: may this caller make it, and below its rate limit?"
        ),
    ),
    (
        {Code.RESOURCE_EXHAUSTED, Code.UNKNOWN},
        r"(?i)HTTP 413|status: 413|payload too large|request.*too large",
        "The gateway takes no request of this size: send fewer rows at once.",
    ),
    (
        {Code.UNAVAILABLE},
        (
            r"(?i)http/?1|without sending a response|illegal request line|protocol error|ssl|tls|"
            r"handshake|certificate"
        ),
        (
            "Is this the right port, and is it TLS or plaintext? TensorFlow Serving answers gRPC on "
            "8500 and REST (--rest) on 8501."
        ),
    ),
    (
        {Code.UNAVAILABLE},
        r"(?i)reset by peer|socket closed|^ReadError$",
        (
            "{target} took the connection and dropped it: does it want TLS (--tls, --ca FILE) or "
            "another name, or has the server just ended?"
        ),
    ),
    (
        {Code.UNAVAILABLE},
        None,
        (
            "Is a server running at {target}? 'chopstick up' starts replicas here, "
            "'chopstick serve' one server."
        ),
    ),
    (
        {Code.DEADLINE_EXCEEDED},
        None,
        (
            "Check that {target} is the right address; if the server is only slow, "
            "allow more time (timeout=, --timeout)."
        ),
    ),
    (
        {Code.RESOURCE_EXHAUSTED},
        None,
        "Send less at once, or give the server more threads or replicas.",
    ),
    (
        {Code.UNAUTHENTICATED},
        None,
        (
            "{target} wants to know who calls: a key that it accepts, by CHOPSTICK_API_KEY or "
            "--api-key (api_key=), with TLS; in a mesh an identity."
        ),
    ),
    (
        {Code.PERMISSION_DENIED},
        None,
        (
            "A policy refuses this caller. In the mesh the service account counts: model-client may "
            "infer and ask for status and metadata, only model-admin may do the rest; a pod without "
            "the mesh may nothing. At the gateway the API key counts."
        ),
    ),
    (
        {Code.UNIMPLEMENTED},
        None,
        "The server at {target} does not offer this call; is it a model server's gRPC port?",
    ),
    (set(Code), None, "The server's log says more."),
)


def remedy_for(code: Code, detail: str, target: str) -> str:
    """What to try after an answer with this code and message."""
    for codes, pattern, remedy in _REMEDIES:
        if code in codes and (pattern is None or re.search(pattern, detail)):
            return remedy.replace("{target}", target)
    return ""
