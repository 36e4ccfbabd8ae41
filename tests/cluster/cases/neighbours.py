"""6: `local` and another model's overlay beside `unmeshed`: all serve, none sees another."""

from __future__ import annotations

import time

from tests.cluster.stack import OVERLAYS
from tests.cluster.suite import Context, case

# Runs in a pod of the tools image: what each address says of each model.
_ASK = """
import sys
import numpy as np
from serving.client import Client, NotFound
inputs = {"chopstick": {"chopstick_length": np.array([[240.0]], np.float32)},
          "half_plus_two": {"x": np.array([1.0], np.float32)}}
for target in sys.argv[1:]:
    for model, given in inputs.items():
        with Client(target, model=model, timeout=5) as client:
            try:
                outputs = client.predict(given).outputs
                print(target, model, *(np.ravel(value).tolist() for value in outputs.values()))
            except NotFound:
                print(target, model, "NOT_FOUND")
"""


@case("neighbours", "local and example-half-plus-two beside unmeshed")
def neighbours(context: Context) -> None:
    unmeshed = context.serving()
    local = context.stack("chopstick-local", OVERLAYS / "local")
    example = context.stack("half-plus-two", OVERLAYS / "example-half-plus-two")
    began = time.monotonic()
    for stack in (local, example):
        stack.apply()
    local.wait_ready(1)
    example.wait_ready(3)
    context.figure("both beside unmeshed, apply to ready", time.monotonic() - began, "s")
    stacks = (unmeshed, local, example)
    said = context.callers.python("ask", _ASK, *(stack.grpc for stack in stacks))
    answers = dict(line.rsplit(" ", 1) for line in _shortened(said))
    for stack, own in zip(stacks, ("chopstick", "chopstick", "half_plus_two"), strict=True):
        for model in ("chopstick", "half_plus_two"):
            answer = answers[f"{stack.grpc} {model}"]
            assert (answer != "NOT_FOUND") == (model == own), said
    assert answers[f"{example.grpc} half_plus_two"] == "[2.5]", said
    assert len(unmeshed.ready_pods()) == 3
    context.note("each serves its own model and answers NOT_FOUND for the other's")


def _shortened(said: str) -> list[str]:
    """The lines `target model answer`, with the answer's spaces left out."""
    lines = []
    for line in said.splitlines():
        target, model, answer = line.split(" ", 2)
        lines.append(f"{target} {model} {answer.replace(' ', '')}")
    return lines
