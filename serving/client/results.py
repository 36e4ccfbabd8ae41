"""What the calls return; the same classes for gRPC and REST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.protocol.status import Code


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer of Predict.

    `outputs` maps the signature's output names to arrays whose first axis is the batch. `version`
    is the version that answered; REST does not say it, so it is None there unless the call named
    a version. `signature` is the effective signature key.
    """

    outputs: dict[str, NDArray[Any]]
    version: int | None
    signature: str

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.outputs[name]


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer of Classify for n examples with k classes each.

    `labels` [n, k] str and `scores` [n, k] float32; `version` and `signature` as in Prediction.
    """

    labels: NDArray[np.str_]
    scores: NDArray[np.float32]
    version: int | None
    signature: str


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of a model and its state: START, LOADING, AVAILABLE, UNLOADING or END."""

    version: int
    state: str
    error_code: Code = Code.OK
    error_message: str = ""

    @property
    def available(self) -> bool:
        """Whether this version answers requests."""
        return self.state == "AVAILABLE"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """dtype and shape of one input or output; -1 is any size, shape None is any rank.

    `dtype` is TensorFlow's name without `DT_`, in lower case: `float`, `int64`, `string`.
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """What one signature takes and gives."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The signatures of the version that answered."""

    name: str
    version: int
    signatures: Mapping[str, Signature]
