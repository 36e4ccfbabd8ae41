"""MLServer with a custom runtime, as its documentation has it: serve.py SAVED_MODEL GRPC REST."""

import sys

import numpy as np
import tensorflow as tf
import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import decode_args


class Chopstick(MLModel):
    async def load(self) -> bool:
        self._loaded = tf.saved_model.load(self.settings.parameters.uri)
        self._predict = self._loaded.signatures["serving_default"]
        return True

    @decode_args
    async def predict(self, chopstick_length: np.ndarray) -> np.ndarray:
        return self._predict(chopstick_length=tf.constant(chopstick_length))["classes_prob"].numpy()


async def main(path: str, grpc_port: int, http_port: int) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_endpoint=None,
        # On one core a second process for inference only costs.
        parallel_workers=0,
        debug=False,
    )
    server = MLServer(settings)
    model = ModelSettings(
        name="chopstick", implementation=Chopstick, parameters={"uri": path}, parallel_workers=0
    )
    await server.start([model])


if __name__ == "__main__":
    # As `mlserver start` does.
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
