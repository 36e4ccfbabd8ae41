"""A server for the traps of Linkerd: what stands behind a Service whose manifest is wrong on purpose.

Needs gRPC and Python alone and is sent as text to a pod of the tools image. On 8500 every RPC is
answered with the pod's name; one with the headers `id` and `fail-first` gets UNAVAILABLE as often as
the latter says, for each `id`, before it is answered. On 8501 every GET is.
"""

from __future__ import annotations

import http.server
import signal
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc

NAME = socket.gethostname().encode()
attempts: Counter[str] = Counter()


def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
    told = dict(context.invocation_metadata())
    identity = told.get("id", "")
    attempts[identity] += 1
    if attempts[identity] <= int(told.get("fail-first", "0")):
        context.abort(grpc.StatusCode.UNAVAILABLE, f"attempt {attempts[identity]}")
    return NAME


class Any(grpc.GenericRpcHandler):
    def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(answer)


class Rest(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(NAME)))
        self.end_headers()
        self.wfile.write(NAME)


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Any()])
    server.add_insecure_port("0.0.0.0:8500")
    server.start()
    rest = http.server.ThreadingHTTPServer(("0.0.0.0", 8501), Rest)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(1))
    server.wait_for_termination()


if __name__ == "__main__":
    main()
