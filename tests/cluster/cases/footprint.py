"""What the sidecar takes at one poll a second, over at least a minute."""

from __future__ import annotations

import time

from tests.cluster.suite import Context, case
from tests.cluster.usage import Sample, sample_all

SETTLE_SECONDS = 10.0
MEASURE_SECONDS = 60.0
# Limits of the sidecar's contract.
MOST_MEMORY = 45.0  # MiB
MOST_CPU = 10.0  # millicores


@case("footprint", "what the sidecar takes at one poll a second, over a minute")
def footprint(context: Context) -> None:
    """The minute may be one in which other cases ran on other pods: CPU time counts none of it."""
    stack = context.serving()
    first: dict[str, Sample] = context.samples
    if {pod.metadata.name for pod in stack.pods()} != set(first):
        time.sleep(SETTLE_SECONDS)  # its start is over; what is measured is its work
        first = sample_all(stack)
    began = min(sample.at for sample in first.values())
    time.sleep(max(0.0, began + MEASURE_SECONDS - time.time()))  # the measurement is this minute
    memory = cpu = 0.0
    for pod, now in sample_all(stack).items():
        seconds = now.at - first[pod].at
        assert seconds > MEASURE_SECONDS / 2, f"{pod}: two samples only {seconds:.0f} s apart"
        memory = max(memory, now.memory)
        cpu = max(cpu, (now.cpu - first[pod].cpu) / seconds * 1000)
    context.figure("health, working set of the largest", memory, "MiB", f"< {MOST_MEMORY:g}")
    context.figure("health, CPU of the busiest", cpu, "millicores", f"< {MOST_CPU:g}")
    assert memory < MOST_MEMORY, f"{memory:.1f} MiB"
    assert cpu < MOST_CPU, f"{cpu:.1f} millicores"
