"""The readiness sidecar: says whether the model server beside it answers, and why not.

`config` reads flags and environment, `state` decides (pure), `asking` and `probe` ask the model
server, `poller` brings the two together, `publisher` copies verified versions for the server to
find. `pages`, `http`, `grpc_health`, `metrics` and `logs` tell the outcome; `sidecar` wires them up,
`drain` is the hook that ends a pod's readiness, and `__main__` is the program.

It runs in every pod, so it has a budget of 45 MiB: no NumPy, TensorFlow, click or rich here.
"""
