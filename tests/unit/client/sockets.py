"""Servers of a few lines on loopback, for what the real one never does."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from serving.protocol import messages, services


@contextlib.contextmanager
def listener(
    answer: Callable[[socket.socket], object], accepted: list[socket.socket] | None = None
) -> Iterator[str]:
    """A TCP server that does `answer(connection)` with every connection; yields its address."""
    connections = [] if accepted is None else accepted
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            # Closing alone leaves accept() waiting.
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in connections:
                connection.close()


@contextlib.contextmanager
def predictor(
    predict: Callable[[messages.PredictRequest, grpc.ServicerContext], messages.PredictResponse],
) -> Iterator[str]:
    """A gRPC server whose Predict is the given function; yields its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    method = grpc.unary_unary_rpc_method_handler(
        predict, messages.PredictRequest.FromString, messages.PredictResponse.SerializeToString
    )
    handler = grpc.method_handlers_generic_handler(
        services.PredictionService_NAME, {"Predict": method}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
