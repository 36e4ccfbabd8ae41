"""What each stage of a Predict costs: `python -m tests.bench.stages BASE_PATH ROWS` prints JSON.

In one process without sockets, caches warm, microseconds, the least of several runs: what has to be
done for a request whatever surrounds it. `tests.bench.where` sets it beside the whole.
"""

from __future__ import annotations

import asyncio
import json
import sys
import timeit
from collections.abc import Callable
from typing import Any

from serving.protocol import messages
from serving.server import inference, json_tensor, options, plain_rows
from serving.server.core import ServerCore
from serving.server.json_tensor import Document, Format
from tests.bench import cases

REPEATS = 9
SECONDS = 0.02


def micros(work: Callable[[], Any]) -> float:
    """Least microseconds of one run."""
    work()
    timer = timeit.Timer(work)
    number = max(1, int(SECONDS / max(timer.timeit(3) / 3, 1e-7)))
    return min(timer.repeat(REPEATS, number)) / number * 1e6


async def stages(base_path: str, rows: int) -> dict[str, float]:
    """Microseconds by the stage's name."""
    flags = options.ServerOptions()
    flags.model_name, flags.model_base_path = cases.MODEL, base_path
    core = ServerCore(flags)
    await core.start()
    servable = core.manager.lookup(messages.ModelSpec(name=cases.MODEL))
    bundle = servable.bundle
    assert bundle is not None
    body, message = cases.predict_body(rows), cases.predict_message(rows)
    fill = plain_rows.read(body)
    assert fill is not None
    plain = inference.plain_call(bundle, fill, check_method=True)
    assert plain is not None
    outputs = plain.runner(*plain.arrays)

    def from_message() -> Any:
        request = messages.PredictRequest.FromString(message)
        return inference.predict_call(
            bundle, request, servable.version, as_content=False, check_method=True
        )

    def exactly() -> Any:
        request = messages.PredictRequest()
        request.model_spec.name = cases.MODEL
        json_tensor.fill_predict(request, Document(body), {cases.INPUT: messages.DT_FLOAT})
        return inference.predict_call(
            bundle, request, servable.version, as_content=False, check_method=True
        )

    call = from_message()
    response = call.finish(outputs)

    def read_plainly() -> Any:
        fill = plain_rows.read(body)
        assert fill is not None
        return inference.plain_call(bundle, fill, check_method=True)

    measured = {
        "rest read": micros(read_plainly),
        "rest read exactly": micros(exactly),
        "run": micros(lambda: plain.runner(*plain.arrays)),
        "rest write": micros(lambda: json_tensor.float_rows_body(outputs[0])),
        "rest write columns": micros(
            lambda: json_tensor.predict_body(response.outputs, Format.COLUMNAR)
        ),
        "grpc read": micros(from_message),
        "grpc write": micros(lambda: call.finish(outputs).SerializeToString()),
    }
    await core.close()
    return measured


if __name__ == "__main__":
    print(json.dumps(asyncio.run(stages(sys.argv[1], int(sys.argv[2])))))
