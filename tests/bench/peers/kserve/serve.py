"""KServe's Python server with a custom model, as its docs have it: serve.py SAVED_MODEL GRPC REST."""

import logging
import sys
from typing import Any

import tensorflow as tf
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class Chopstick(Model):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self._path = path
        self.load()

    def load(self) -> bool:
        self._loaded = tf.saved_model.load(self._path)
        self._predict = self._loaded.signatures["serving_default"]
        self.ready = True
        return True

    def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        lengths = tf.constant(payload.inputs[0].as_numpy())
        result = self._predict(chopstick_length=lengths)["classes_prob"].numpy()
        output = InferOutput("classes_prob", list(result.shape), "FP32")
        output.set_data_from_numpy(result, binary_data=payload.from_grpc)
        return InferResponse(generate_uuid(), self.name, [output])


if __name__ == "__main__":
    server = ModelServer(
        grpc_port=int(sys.argv[2]),
        http_port=int(sys.argv[3]),
        workers=1,
        enable_grpc=True,
        enable_latency_logging=False,
    )
    # It would write three lines for each request.
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).disabled = True
    server.start([Chopstick("chopstick", sys.argv[1])])
