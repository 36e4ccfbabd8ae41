"""The one place that imports TensorFlow, so that its start-up noise is silenced before it starts."""

from __future__ import annotations

import os
from typing import Any

# Read once, when TensorFlow's library is loaded: later is too late. A caller who wants the noise
# sets the variable first.
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # oneDNN picks kernels by processor and thread count; without it a sum has one order.
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "KERAS_BACKEND": "tensorflow",
}


def tensorflow() -> Any:
    """Import and return TensorFlow, quietly."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import tensorflow as tf

    return tf


def keras() -> Any:
    """Import and return Keras on the TensorFlow backend, quietly."""
    tensorflow()
    import keras as module

    return module
