"""What a caller pod runs: asks what it is told to ask, and says which code came back.

Needs `serving`, gRPC and Python alone, and is sent as text to a pod of the tools image
(`python -u -c`), or run beside the tests for callers from outside. It reads one JSON object a line
and answers each with one line:

    {"do": "rpc", "target": "svc:8500", "rpc": "Predict"}        {"codes": ["OK"], "detail": ""}
    {"do": "rest", "target": "svc:8501", "path": "/v1/models/x"} {"codes": ["404"], "detail": ""}
    {"do": "metrics"}                                            {"text": "..."}

`times` repeats a call one after the other (default 1), `together` sends that many at once instead;
`codes` has an entry each, in the order of sending; `tell` counts what the answers said. Channels are
kept, by target, until a call says `"fresh": true`: a proxy forgets what it knows of a Service some
seconds after nobody holds a connection to it, and with that what its breakers have counted. Nothing
is ever tried again here.

A code is gRPC's name, HTTP's number, or what became of a connection that got no answer: REFUSED,
RESET (closed without an answer), SILENT (the deadline), UNREACHABLE (no route, no name). GARBLED is
an answer with a code that gRPC's C library does not read: where a refusal is sent before all of the
request has come, Linkerd's proxy may pass its end on as an empty frame of its own (2.20: one in ten,
one in three of many at once), which the library takes for "Stream removed" and calls UNKNOWN.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import sys
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from serving.client import wire
from serving.client.channel import TLS, open_channel
from serving.protocol import messages

MODEL = "chopstick"
INPUT = "chopstick_length"
# Takes Examples; the model has none for regression, so that Regress gets the server's own refusal.
SIGNATURE = "classify"
PREDICTION = "/tensorflow.serving.PredictionService/"
MODELS = "/tensorflow.serving.ModelService/"
# A gRPC channel that cannot connect says UNAVAILABLE and keeps the reason for its detail.
REASONS = (
    ("Connection refused", "REFUSED"),
    ("Connection reset", "RESET"),
    ("Socket closed", "RESET"),
    ("recvmsg:", "RESET"),
    ("No route to host", "UNREACHABLE"),
    ("DNS resolution failed", "UNREACHABLE"),
)
# A connection that nobody answers: longer than a Service's first, shorter than any patience.
CONNECT_SECONDS = 5.0

channels: dict[str, grpc.Channel] = {}


def inputs(rows: int, value: float) -> dict[str, np.ndarray]:
    """`rows` copies of one length in mm, [rows, 1] float32."""
    return {INPUT: np.full((rows, 1), value, np.float32)}


def body(rpc: str, rows: int, value: float) -> bytes:
    """A well-formed request of an RPC; an empty one for RPCs that are not TensorFlow Serving's."""
    given = inputs(rows, value)
    if rpc == "Predict":
        request = wire.predict_request(MODEL, given, None, None, None, outputs=())
    elif rpc in ("Classify", "Regress"):
        kind = messages.ClassificationRequest if rpc == "Classify" else messages.RegressionRequest
        request = kind()
        request.model_spec.name = MODEL
        request.model_spec.signature_name = SIGNATURE
        fill(request.input, rows, value)
    elif rpc == "MultiInference":
        request = messages.MultiInferenceRequest()
        task = request.tasks.add(method_name="tensorflow/serving/classify")
        task.model_spec.name = MODEL
        task.model_spec.signature_name = SIGNATURE
        fill(request.input, rows, value)
    elif rpc == "GetModelMetadata":
        request = messages.GetModelMetadataRequest()
        request.model_spec.name = MODEL
        request.metadata_field.append("signature_def")
    elif rpc == "GetModelStatus":
        request = messages.GetModelStatusRequest()
        request.model_spec.name = MODEL
    elif rpc == "HandleReloadConfigRequest":
        # No config in it: the server refuses that and changes nothing.
        request = messages.ReloadConfigRequest()
    else:
        return b""
    return request.SerializeToString()


def fill(given: Any, rows: int, value: float) -> None:
    """Write `rows` Examples with one length each."""
    for _ in range(rows):
        example = given.example_list.examples.add()
        example.features.feature[INPUT].float_list.value.append(value)


def path_of(rpc: str) -> str:
    """The path of an RPC's name; a name that begins with / is one already."""
    if rpc.startswith("/"):
        return rpc
    service = MODELS if rpc in ("GetModelStatus", "HandleReloadConfigRequest") else PREDICTION
    return service + rpc


def channel(order: dict[str, Any]) -> grpc.Channel:
    """The channel that an order wants, a kept one unless it says "fresh"."""
    address = order.get("connect_to") or order["target"]
    key = f"{address} {order['target']}"
    if order.get("fresh") and key in channels:
        channels.pop(key).close()
    if key not in channels:
        # Channels of one process to one address share a connection otherwise.
        options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
        if order.get("connect_to"):
            options.append(("grpc.default_authority", order["target"]))
        name = order["target"].rpartition(":")[0]
        channels[key] = open_channel(
            address,
            tls=TLS(ca=order["ca"], server_name=name) if order.get("ca") else None,
            options=options,
            retries=False,
            asynchronous=False,
        )
    return channels[key]


def code_of(error: grpc.RpcError) -> tuple[str, str]:
    """The code's name, or what became of the connection, and the detail."""
    detail = error.details() or ""
    if error.code() is grpc.StatusCode.UNKNOWN and "END_STREAM flag received" in detail:
        return "GARBLED", detail
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        for text, name in REASONS:
            if text in detail:
                return name, detail
    return error.code().name, detail


def told(details: dict[str, str]) -> str:
    """What came with each code that isn't good."""
    return "; ".join(f"{code}: {detail}" for code, detail in details.items())


def ask_rpc(order: dict[str, Any]) -> dict[str, Any]:
    rpc = order["rpc"]
    call = channel(order).unary_unary(path_of(rpc))
    request = body(rpc, order.get("rows", 1), order.get("value", 240.0))
    timeout = order.get("timeout", CONNECT_SECONDS)
    headers = tuple(order.get("headers", {}).items())
    codes: list[str] = []
    details: dict[str, str] = {}
    said: Counter[str] = Counter()
    together = order.get("together", 0)
    futures = [call.future(request, timeout=timeout, metadata=headers) for _ in range(together)]
    for index in range(together or order.get("times", 1)):
        code, detail = "OK", ""
        try:
            answer = (
                futures[index].result()
                if futures
                else call(request, timeout=timeout, metadata=headers)
            )
            if order.get("tell"):
                said[answer.decode()] += 1
        except grpc.RpcError as error:
            code, detail = code_of(error)
        codes.append(code)
        if code != "OK":
            details.setdefault(code, detail)
    return {
        "codes": codes,
        "detail": told(details),
        "bytes": len(request),
        "said": said,
    }


class Directed(http.client.HTTPSConnection):
    """HTTPS to an address that is not what its certificate and its Host say."""

    def __init__(self, host: str, address: str, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(host, context=context, timeout=timeout)
        self._address, self._trust = address, context

    def connect(self) -> None:
        host, _, port = self._address.rpartition(":")
        plain = socket.create_connection((host, int(port)), self.timeout)
        self.sock = self._trust.wrap_socket(plain, server_hostname=self.host)


def ask_rest_once(order: dict[str, Any]) -> tuple[str, str]:
    target, timeout = order["target"], order.get("timeout", CONNECT_SECONDS)
    if order.get("ca"):
        trust = ssl.create_default_context(cafile=order["ca"])
        connection: http.client.HTTPConnection = Directed(
            target.rpartition(":")[0], order.get("connect_to") or target, trust, timeout
        )
    else:
        connection = http.client.HTTPConnection(target, timeout=timeout)
    given = order.get("body")
    with contextlib.closing(connection):
        try:
            connection.request(
                order.get("method", "GET"),
                order["path"],
                body=json.dumps(given) if given is not None else None,
                headers=order.get("headers", {}),
            )
            answer = connection.getresponse()
            return str(answer.status), answer.read().decode(errors="replace")[:200]
        except TimeoutError as error:
            return "SILENT", str(error)
        except ConnectionRefusedError as error:
            return "REFUSED", str(error)
        except (ConnectionError, http.client.HTTPException, ssl.SSLError) as error:
            return "RESET", str(error)
        except OSError as error:
            return "UNREACHABLE", str(error)


def ask_rest(order: dict[str, Any]) -> dict[str, Any]:
    together = order.get("together", 0)
    if together:
        with ThreadPoolExecutor(together) as pool:
            answers = list(pool.map(ask_rest_once, [order] * together))
    else:
        answers = [ask_rest_once(order) for _ in range(order.get("times", 1))]
    return {
        "codes": [code for code, _ in answers],
        "detail": told({code: detail for code, detail in answers if code != "200"}),
    }


def metrics(_: dict[str, Any]) -> dict[str, Any]:
    """The page of the pod's own proxy; asked from inside the pod, which needs nobody's leave."""
    with urllib.request.urlopen("http://localhost:4191/metrics", timeout=10) as answer:
        return {"text": answer.read().decode()}


DEEDS = {"rpc": ask_rpc, "rest": ask_rest, "metrics": metrics}


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = DEEDS[order["do"]](order)
        except Exception as error:
            # Whoever waits for the line must learn why there is no other.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
