"""TensorFlow, imported once and quietly; the only module of the server that imports it."""

from __future__ import annotations

import logging
import os

# Start-up notes about CPU features are not of use to whoever reads a server's log.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

tf.get_logger().setLevel(logging.ERROR)

__all__ = ["config_pb2", "tf"]
