"""Evaluates the model and trains the next version, in a process of its own.

`python -m serving.desk.demo.workshop BASE VERSION SEED` prints one JSON object per line. Both in
one process: importing TensorFlow is most of the work.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    """Print {"evaluation": …}, then {"trained": directory}; or {"error": …}, and exit 1."""
    # The replicas, which start at the same time, come first: the first prediction waits for them.
    os.nice(19)
    from model.evaluate import evaluate
    from model.train import train
    from serving.errors import ChopstickError

    base, version, seed = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    try:
        _say({"evaluation": evaluate(quick=True).as_dict()})
        _say({"trained": str(train(base=base, version=version, seed=seed).directory)})
    except ChopstickError as error:
        _say({"error": str(error)})
        sys.exit(1)


def _say(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
