"""The embedded model server: TensorFlow Serving's flags, RPCs, REST, errors and metrics."""
