"""What a server could do that does no work: `python -m tests.bench.echo KIND PORT FILE`.

`grpc`: grpc.aio on uvloop with the server's options; parses the PredictRequest, serialises the
PredictResponse whose bytes are in the file. `rest`: the server's own HTTP server and a plain ASGI
application; json.loads of the body, json.dumps of the answer in the file. `starlette`: the same as
Starlette has it. All answer with what the file holds, so that answers are as large as ours.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any


async def grpc_echo(port: int, response: bytes) -> None:
    import grpc
    import grpc.aio

    from serving.protocol import messages
    from serving.protocol.services import PredictionService_METHODS, PredictionService_NAME

    request_type, response_type = PredictionService_METHODS["Predict"]
    answer = messages.PredictResponse.FromString(response)

    async def predict(request: Any, context: Any) -> Any:
        return answer

    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    handler = grpc.unary_unary_rpc_method_handler(
        predict,
        request_deserializer=request_type.FromString,
        response_serializer=response_type.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(PredictionService_NAME, {"Predict": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    gc.collect()
    gc.freeze()
    await server.wait_for_termination()


async def rest_echo(port: int, answer: Any) -> None:
    from serving.server import http

    headers = [(b"content-type", b"application/json")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message.get("more_body", False)
        json.loads(body)
        reply = json.dumps(answer).encode()
        length = (b"content-length", b"%d" % len(reply))
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": reply})

    await _serve_http(http, app, port)


async def starlette_echo(port: int, answer: Any) -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from serving.server import http

    async def predict(request: Request) -> JSONResponse:
        await request.json()
        return JSONResponse(answer)

    app = Starlette(routes=[Route("/{path:path}", predict, methods=["POST"])])
    await _serve_http(http, app, port)


async def _serve_http(http: Any, app: Any, port: int) -> None:
    gc.collect()
    gc.freeze()
    server = await http.serve(app, "127.0.0.1", port)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()


if __name__ == "__main__":
    import uvloop

    kind, port, file = sys.argv[1:]
    content = Path(file).read_bytes()
    if kind == "grpc":
        uvloop.run(grpc_echo(int(port), content))
    elif kind == "rest":
        uvloop.run(rest_echo(int(port), json.loads(content)))
    else:
        uvloop.run(starlette_echo(int(port), json.loads(content)))
