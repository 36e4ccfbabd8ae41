"""Step 3: one gRPC channel through a layer-4 balancer, and through one that sees requests."""

from __future__ import annotations

import asyncio
import time

from serving.client import INPUT
from serving.client.channel import open_channel
from serving.client.wire import predict_request
from serving.desk.demo.report import Report, Result
from serving.desk.supervisor import Desk
from serving.desk.table import bar
from serving.protocol.services import PredictionServiceAsyncStub

TITLE = "the reason for a mesh"
# Enough to keep every replica busy, few enough that none of them queues for long.
_IN_FLIGHT = 32
# An even share may still be off by what was under way when the counting ended.
_EVEN = 1.05
_DEADLINE = 10.0


async def step(desk: Desk, l4: str, l7: str, requests: int, report: Report) -> Result:
    """Send `requests` over one channel each way; shares by the replicas' own counters."""
    shares, seconds = {}, {}
    for name, target in (("L4", l4), ("L7", l7)):
        report.progress(f"{requests:,} requests over one channel through {name}")
        before = await _counts(desk)
        started = time.monotonic()
        await _burst(target, desk.servable.name, requests)
        seconds[name] = time.monotonic() - started
        after = await _counts(desk)
        shares[name] = [b - a for a, b in zip(before, after, strict=True)]
    report.table(
        ("replica", "L4: tcp_proxy", "", "L7: round robin", ""),
        [
            (
                replica.grpc,
                f"{four:,}",
                bar(four / requests, 20),
                f"{seven:,}",
                bar(seven / requests, 20),
            )
            for replica, four, seven in zip(desk.addresses, shares["L4"], shares["L7"], strict=True)
        ],
    )
    ratios = {name: max(share) * len(share) / max(1, sum(share)) for name, share in shares.items()}
    complete = all(sum(share) == requests for share in shares.values())
    held = complete and ratios["L7"] <= _EVEN and ratios["L4"] >= 0.95 * len(desk.addresses)
    verdict = (
        f"max/mean {ratios['L4']:.2f} through L4, {ratios['L7']:.2f} through L7, {requests:,} "
        f"requests on one channel to {len(desk.addresses)} replicas"
    )
    if not complete:
        counted = {name: sum(share) for name, share in shares.items()}
        verdict += f"; the replicas counted {counted}, not {requests} each"
    figures = {
        "requests": requests,
        "share": shares,
        "max_over_mean": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "source": "request_count on each replica's metrics page, before and after",
    }
    return report.result(Result(3, TITLE, held, verdict, figures))


async def _counts(desk: Desk) -> list[int]:
    pages = await asyncio.gather(*(probe.request_counts() for probe in desk.probes))
    return [sum(page.values()) for page in pages]


async def _burst(target: str, model: str, requests: int) -> None:
    request = predict_request(model, {INPUT: [[240.0]]}, None, None, None, outputs=())
    # No retries: a request that is sent twice would be counted twice.
    async with open_channel(
        target, tls=None, options=(), retries=False, asynchronous=True
    ) as channel:
        predict = PredictionServiceAsyncStub(channel).Predict
        numbers = iter(range(requests))

        async def worker() -> None:
            for _ in numbers:
                await predict(request, timeout=_DEADLINE)

        await asyncio.gather(*(worker() for _ in range(_IN_FLIGHT)))
