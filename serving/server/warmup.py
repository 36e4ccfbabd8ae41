"""Replay of `assets.extra/tf_serving_warmup_requests`, before a version becomes AVAILABLE."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

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
    status = Code.OK.name
    records = 0
    try:
        for record in _records(file):
            if records >= MAX_RECORDS:
                raise invalid_argument(
                    f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}"
                )
            for _ in range(max(iterations, 1)):
                answer(record)
            records += 1
    except ServingError as error:
        status = error.code.name
        raise
    finally:
        micros = (time.perf_counter() - started) * 1e6
        metrics.model_warmup_latency.observe((path, status), micros)
        metrics.model_warmup_records_read.add((path, status), records)
    log.info(
        f"Finished reading warmup data for model at {file}. Number of warmup records read: "
        f"{records}. Elapsed time (microseconds): {micros:.0f}."
    )
    return records


def _records(file: Path) -> list[messages.PredictionLog]:
    records = []
    try:
        for raw in tf.compat.v1.io.tf_record_iterator(str(file)):
            record = messages.PredictionLog.FromString(raw)
            if record.WhichOneof("log_type") in (None, "session_run_log", "predict_streamed_log"):
                raise unimplemented(
                    f"Unsupported log_type for warmup: {record.WhichOneof('log_type')}"
                )
            records.append(record)
            if len(records) > MAX_RECORDS:
                break
    except tf.errors.OpError as error:
        raise ServingError(error.error_code, error.message) from None
    except ServingError:
        raise
    except Exception as error:
        raise invalid_argument(f"Failed to parse warmup record: {error} from {file}") from None
    return records
