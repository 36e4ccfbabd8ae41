"""Replay of `assets.extra/tf_serving_warmup_requests`, before a version becomes AVAILABLE."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from serving.protocol import messages
from serving.protocol.status import Code, ServingError, invalid_argument, unimplemented
from serving.server.logs import log
from serving.server.metrics import ServerMetrics
from serving.server.tensorflow import tf

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000  # saved_model_warmup_util.h

Answer = Callable[[messages.PredictionLog], None]


def replay(path: str, answer: Answer, metrics: ServerMetrics, *, iterations: int) -> int:
    """Send every record of the version at `path` through `answer`; return how many there were.

    Each is sent `iterations` times. A missing file is fine. Raises ServingError when a record
    can't be read, is of a kind TFS does not replay, or fails, and when there are more than 1,000:
    any of these fails the load, as in TFS.
    """
    file = Path(path, FILE)
    if not file.is_file():
        log.info(f"No warmup data file found at {file}")
        return 0
    started = time.perf_counter()
    records = 0
    unreadable: ServingError | None = None
    try:
        for record in _records(file):
            # An empty record is fine, and counted.
            for _ in range(max(iterations, 1) if record.WhichOneof("log_type") else 0):
                answer(record)
            records += 1
            if records > MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}"
                )
    except _Unreadable as error:
        unreadable = error.reason
    # A record that fails leaves no trace in the metrics; TFS returns before it counts.
    status = f"{unreadable.code.name}: {unreadable.message}" if unreadable else Code.OK.name
    micros = (time.perf_counter() - started) * 1e6
    metrics.model_warmup_latency.observe((path, status), micros)
    metrics.model_warmup_records_read.add((path, status), records)
    if unreadable is not None:
        if unreadable.code is Code.DATA_LOSS:
            unreadable.message += ". Please verify your warmup data is in TFRecord format."
        raise unreadable
    log.info(
        f"Finished reading warmup data for model at {file}. Number of warmup records read: "
        f"{records}. Elapsed time (microseconds): {micros:.0f}."
    )
    return records


class _Unreadable(Exception):  # noqa: N818
    """The file itself can't be read on."""

    def __init__(self, reason: ServingError) -> None:
        super().__init__(reason.message)
        self.reason = reason


def _records(file: Path) -> Iterator[messages.PredictionLog]:
    try:
        for raw in tf.compat.v1.io.tf_record_iterator(str(file)):
            try:
                record = messages.PredictionLog.FromString(raw)
            except DecodeError:
                text = raw.decode("utf-8", "replace")
                raise invalid_argument(
                    f"Failed to parse warmup record: {text} from {file}"
                ) from None
            kind = record.WhichOneof("log_type")
            if kind in ("session_run_log", "predict_streamed_log"):
                number = record.DESCRIPTOR.fields_by_name[kind].number
                raise unimplemented(f"Unsupported log_type for warmup: {number}")
            yield record
    except tf.errors.OpError as error:
        raise _Unreadable(ServingError(error.error_code, error.message)) from None
