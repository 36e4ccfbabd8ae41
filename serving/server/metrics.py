"""TensorFlow Serving's metrics page: its names, types, labels, bucket bounds and exposition.

The Prometheus client library cannot write this page (it forces `_total` on counters and adds
HELP and `_created` lines), so the exposition of tensorflow_serving/util/prometheus_exporter.cc is
written here.

Threads: every update is one in-place operation on a dict item, list item or slot, with no call
between load and store, which CPython runs without switching threads as long as there is a GIL;
only the creation of a series takes a lock.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Sequence

CONTENT_TYPE = "text/plain"
DEFAULT_PATH = "/monitoring/prometheus/metrics"

# TFS copies the model's name from the request into a label before it looks the model up, so a
# caller who invents names could fill memory. Past these limits a new series is not recorded and a
# label value is cut; no real server comes near them.
MAX_SERIES = 10_000
MAX_LABEL_CHARS = 1024

Labels = tuple[str, ...]


def exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    """`count` bucket bounds, computed by repeated multiplication as TensorFlow's Buckets does."""
    bounds = []
    bound = float(scale)
    for _ in range(count):
        bounds.append(bound)
        bound *= growth
    return tuple(bounds)


# Microseconds, 10 us to about 20 minutes: tensorflow_serving/servables/tensorflow/util.cc.
BUCKETS_LATENCY = exponential(10, 1.8, 33)
# Examples per request: the same file.
BUCKETS_EXAMPLE_COUNTS = exponential(1, 2, 15)
# Microseconds in the queue: tensorflow_serving/batching/batching_session.cc.
BUCKETS_QUEUING = exponential(100, 1.2, 52)
# Rows in a batch: tensorflow_serving/batching/batching_util.h.
BUCKETS_BATCH_SIZE = exponential(1, 2, 14)
# Microseconds and bytes of a graph run: tensorflow/core/framework/metrics.cc.
BUCKETS_GRAPH_RUN = exponential(1000, 2, 20)
BUCKETS_TENSOR_BYTES = exponential(1, 4, 14)


def _exported_name(path: str) -> str:
    name = re.sub(r"[^a-zA-Z0-9_]", ":", path)
    return f"_{name}" if name[:1].isdigit() else name


def _exported_label(label: str) -> str:
    name = re.sub(r"[^a-zA-Z0-9]", "_", label)
    return f"_{name}" if name[:1].isdigit() else name


def _escape(value: str) -> str:
    # TFS leaves a newline as it is, which breaks the page for every reader; the exposition format
    # has an escape for it.
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Metric:
    """What all kinds share: a path, label names, and a lock that guards new series."""

    kind = "untyped"

    def __init__(self, path: str, labels: Sequence[str] = (), *, lazy: bool = False) -> None:
        self.path = path
        self.name = _exported_name(path)
        self.labels = tuple(labels)
        self.lazy = lazy
        self._label_names = tuple(_exported_label(label) for label in labels)
        self._lock = threading.Lock()
        self.known: set[str] = set()
        """First label values that are admitted however many series there are."""

    def _pairs(self, values: Labels) -> str:
        return ",".join(
            f'{name}="{_escape(value)}"'
            for name, value in zip(self._label_names, values, strict=True)
        )

    def _admit(self, values: Labels, present: int) -> Labels | None:
        """The labels under which a new series may be made, or None when there are too many.

        Raises ValueError for the wrong number of labels: an error in the calling code.
        """
        if len(values) != len(self.labels):
            raise ValueError(f"{self.path} has labels {self.labels}, got {values}")
        if present >= MAX_SERIES and values[:1] and values[0] not in self.known:
            return None
        if any(len(value) > MAX_LABEL_CHARS for value in values):
            return tuple(value[:MAX_LABEL_CHARS] for value in values)
        return values

    def is_empty(self) -> bool:
        """No series yet."""
        raise NotImplementedError

    def lines(self) -> list[str]:
        """The metric as lines of the page, the TYPE line first."""
        raise NotImplementedError


class _Scalar(_Metric):
    """One integer per label tuple."""

    def __init__(self, path: str, labels: Sequence[str] = (), *, lazy: bool = False) -> None:
        super().__init__(path, labels, lazy=lazy)
        self._values: dict[Labels, int] = {}

    def first_value(self) -> int:
        """Value of the series that sorts first; 0 when there is none."""
        return min(self._values.items())[1] if self._values else 0

    def value(self, labels: Labels = ()) -> int:
        """The current value; 0 for a series that does not exist."""
        return self._values.get(labels, 0)

    def is_empty(self) -> bool:
        """No series yet."""
        return not self._values

    def lines(self) -> list[str]:
        """The metric as lines of the page, the TYPE line first."""
        return [
            f"# TYPE {self.name} {self.kind}",
            *(
                f"{self.name}{{{self._pairs(labels)}}} {value}"
                for labels, value in sorted(self._values.items())
            ),
        ]


class Counter(_Scalar):
    """A whole number that only grows."""

    kind = "counter"

    def add(self, labels: Labels = (), amount: int = 1) -> None:
        """Add a whole amount to the series of these label values."""
        try:
            self._values[labels] += amount
        except KeyError:
            self._add_new(labels, amount)

    def _add_new(self, labels: Labels, amount: int) -> None:
        with self._lock:
            if labels not in self._values:
                admitted = self._admit(labels, len(self._values))
                if admitted is None:
                    return
                labels = admitted
                self._values.setdefault(labels, 0)
        self._values[labels] += amount


class Gauge(_Scalar):
    """A whole number that goes up and down."""

    kind = "gauge"

    def set(self, labels: Labels, value: int) -> None:
        """Set the series of these label values."""
        if labels in self._values:
            self._values[labels] = value
            return
        with self._lock:
            admitted = self._admit(labels, len(self._values))
            if admitted is not None:
                self._values[admitted] = value


class OpaqueGauge(Gauge):
    """A gauge of a type other than int64, which TFS's exporter prints as 0 whatever it holds."""

    def lines(self) -> list[str]:
        """The metric as lines of the page, the TYPE line first."""
        return [
            f"# TYPE {self.name} {self.kind}",
            *(f"{self.name}{{{self._pairs(labels)}}} 0" for labels in sorted(self._values)),
        ]


class _Cell:
    __slots__ = ("counts", "sum")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.sum = 0.0


class Histogram(_Metric):
    """Counts per bucket and a sum.

    A value equal to a bound counts in the bucket above it, as in TensorFlow's histogram, although
    the page says `le`.
    """

    kind = "histogram"

    def __init__(
        self,
        path: str,
        labels: Sequence[str] = (),
        bounds: Sequence[float] = BUCKETS_LATENCY,
        *,
        lazy: bool = False,
    ) -> None:
        super().__init__(path, labels, lazy=lazy)
        self.bounds = tuple(bounds)
        self._edges = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        self._cells: dict[Labels, _Cell] = {}

    def observe(self, labels: Labels, value: float) -> None:
        """Count a value, in the metric's unit, under these label values."""
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._new_cell(labels)
            if cell is None:
                return
        index = bisect_right(self.bounds, value)
        cell.counts[index] += 1
        cell.sum += value

    def _new_cell(self, labels: Labels) -> _Cell | None:
        with self._lock:
            if labels in self._cells:
                return self._cells[labels]
            admitted = self._admit(labels, len(self._cells))
            if admitted is None:
                return None
            return self._cells.setdefault(admitted, _Cell(len(self._edges)))

    def count(self, labels: Labels = ()) -> int:
        """How many values were counted; 0 for a series that does not exist."""
        cell = self._cells.get(labels)
        return sum(cell.counts) if cell else 0

    def sum(self, labels: Labels = ()) -> float:
        """The sum of the values; 0 for a series that does not exist."""
        cell = self._cells.get(labels)
        return cell.sum if cell else 0.0

    def is_empty(self) -> bool:
        """No series yet."""
        return not self._cells

    def lines(self) -> list[str]:
        """The metric as lines of the page, the TYPE line first."""
        lines = [f"# TYPE {self.name} histogram"]
        for labels in sorted(self._cells):
            cell = self._cells[labels]
            pairs = self._pairs(labels)
            prefix = f"{self.name}_bucket{{{pairs}," if pairs else f"{self.name}_bucket{{"
            seen = 0
            # The copy keeps the buckets and the count of one page consistent.
            for edge, count in zip(self._edges, cell.counts.copy(), strict=True):
                seen += count
                lines.append(f'{prefix}le="{edge}"}} {seen}')
            lines.append(f"{self.name}_sum{{{pairs}}} {cell.sum:g}")
            lines.append(f"{self.name}_count{{{pairs}}} {seen}")
        return lines


class Registry:
    """The metrics of one page, in order of their paths.

    A lazy metric appears with its first series: TensorFlow registers it only then. All others
    have their TYPE line from the start.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric] = {}
        self.known: set[str] = set()
        """Names of models that are configured: invented ones can't take their places."""

    def register(self, *metrics: _Metric) -> None:
        """Put metrics on the page. Raises ValueError when a path is taken."""
        for metric in metrics:
            if metric.path in self._metrics:
                raise ValueError(f"metric {metric.path} is registered twice")
            metric.known = self.known
            self._metrics[metric.path] = metric

    def first_value(self, path: str) -> int:
        """Value of a metric's first series, by its path; 0 where TFS has no integer either.

        HandleReloadConfigRequest reports how much metrics grew by this.
        """
        metric = self._metrics.get(path)
        return metric.first_value() if isinstance(metric, _Scalar) else 0

    def render(self) -> str:
        """The page, in TFS's exposition, to be sent as `CONTENT_TYPE`."""
        lines: list[str] = []
        for _, metric in sorted(self._metrics.items()):
            if not (metric.lazy and metric.is_empty()):
                lines += metric.lines()
        return "\n".join(lines) + "\n"


class ServerMetrics:
    """One attribute per metric of TFS that this server keeps; labels in the order given here."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = registry or Registry()
        counter, gauge = self._counter, self._gauge
        histogram = self._histogram

        # tensorflow_serving/servables/tensorflow/util.cc
        root = "/tensorflow/serving"
        self.request_count = counter(f"{root}/request_count", "model_name", "status")
        self.request_latency = histogram(
            f"{root}/request_latency", BUCKETS_LATENCY, "model_name", "API", "entrypoint"
        )
        self.runtime_latency = histogram(
            f"{root}/runtime_latency", BUCKETS_LATENCY, "model_name", "API", "runtime"
        )
        self.request_example_counts = histogram(
            f"{root}/request_example_counts", BUCKETS_EXAMPLE_COUNTS, "model"
        )
        self.request_example_count_total = counter(f"{root}/request_example_count_total", "model")
        # tensorflow_serving/core/request_logger.cc
        self.request_log_count = counter(f"{root}/request_log_count", "model_name", "status_code")
        # tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc
        self.model_warmup_latency = histogram(
            f"{root}/model_warmup_latency", BUCKETS_LATENCY, "model_path", "status"
        )
        self.model_warmup_records_read = counter(
            f"{root}/model_warmup_records_read", "model_path", "status"
        )
        # tensorflow_serving/servables/tensorflow/machine_learning_metadata.cc
        self.mlmd_map = gauge(f"{root}/mlmd_map", "model_name", "version")
        # tensorflow_serving/batching/batching_session.cc and batching_util.h
        batching = f"{root}/batching_session"
        self.queuing_latency = histogram(
            f"{batching}/queuing_latency", BUCKETS_QUEUING, "thread_pool_name"
        )
        self.wrapped_run_count = counter(f"{batching}/wrapped_run_count")
        self.input_batch_size = histogram(
            f"{batching}/input_batch_size", BUCKETS_BATCH_SIZE, lazy=True
        )
        self.processed_batch_size = histogram(
            f"{batching}/processed_batch_size", BUCKETS_BATCH_SIZE, lazy=True
        )
        self.padding_size = histogram(
            f"{batching}/padding_size", BUCKETS_BATCH_SIZE, "execution_batch_size", lazy=True
        )
        # tensorflow/cc/saved_model/metrics and loader.cc
        saved_model = "/tensorflow/cc/saved_model"
        self.load_attempt_count = counter(
            f"{saved_model}/load_attempt_count", "model_path", "status"
        )
        # Microseconds, and a counter, not a histogram.
        self.load_latency = counter(f"{saved_model}/load_latency", "model_path")
        self.load_latency_by_stage = histogram(
            f"{saved_model}/load_latency_by_stage", BUCKETS_LATENCY, "model_path", "stage"
        )
        # tensorflow/core/framework/metrics.cc
        core = "/tensorflow/core"
        self.graph_runs = counter(f"{core}/graph_runs")
        self.graph_run_time_usecs = counter(f"{core}/graph_run_time_usecs")
        self.graph_run_time_usecs_histogram = histogram(
            f"{core}/graph_run_time_usecs_histogram", BUCKETS_GRAPH_RUN
        )
        self.graph_run_input_tensor_bytes = histogram(
            f"{core}/graph_run_input_tensor_bytes", BUCKETS_TENSOR_BYTES
        )
        self.graph_run_output_tensor_bytes = histogram(
            f"{core}/graph_run_output_tensor_bytes", BUCKETS_TENSOR_BYTES
        )
        self.direct_session_runs = counter(f"{core}/direct_session_runs")
        self.graph_build_calls = counter(f"{core}/graph_build_calls")
        self.graph_build_time_usecs = counter(f"{core}/graph_build_time_usecs")
        # tensorflow/core/common_runtime/session.cc
        self.session_created = gauge(f"{core}/session_created")

    def render(self) -> str:
        """The metrics page."""
        return self.registry.render()

    def _counter(self, path: str, *labels: str) -> Counter:
        metric = Counter(path, labels)
        self.registry.register(metric)
        return metric

    def _gauge(self, path: str, *labels: str) -> OpaqueGauge:
        metric = OpaqueGauge(path, labels)
        self.registry.register(metric)
        return metric

    def _histogram(
        self, path: str, bounds: Sequence[float], *labels: str, lazy: bool = False
    ) -> Histogram:
        metric = Histogram(path, labels, bounds, lazy=lazy)
        self.registry.register(metric)
        return metric
