"""When the publisher looks, and who is told: once for an init container, for ever beside a server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from serving.errors import ChopstickError
from serving.health import logs
from serving.health.metrics import Metrics
from serving.health.monitor import Monitor
from serving.health.publisher import Publisher, Round
from serving.health.state import Published


def once(publisher: Publisher) -> None:
    """Publish once; raises ChopstickError when nothing that the server could load is there."""
    publisher.prepare()
    try:
        found = publisher.look()
    except OSError as error:
        raise ChopstickError(
            f"cannot read '{publisher.source}': {error.strerror}",
            "The volume (--volume, MODEL_VOLUME) must hold a directory with the model's name.",
        ) from None
    _log(found)
    needed = publisher.required
    if needed in found.published or (needed is None and found.published):
        return
    reasons = "; ".join(message for _, message in found.refused) or "it is not there"
    what = "version" if needed is None else f"version {needed}"
    raise ChopstickError(
        f"no verified {what} in '{publisher.source}': {reasons}",
        "Copy a version there whole, as 'chopstick train' exported it; 'chopstick verify DIR' "
        "names the files that differ.",
    )


async def run(publisher: Publisher, monitor: Monitor, metrics: Metrics, period: float) -> None:
    """Look at the volume once per period, for ever; raises what the publisher does not expect."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def tell(found: Round, digests: dict[int, str]) -> None:
        metrics.digests.update(digests)
        metrics.set_unverified(len(found.refused))
        monitor.apply(Published(found.refused, found.published))

    def work() -> None:
        digests: dict[int, str] = {}
        trouble = ""
        try:
            while True:
                try:
                    found = publisher.look()
                except OSError as error:
                    if str(error) != trouble:
                        trouble = str(error)
                        logs.warn("volume unreadable", message=trouble)
                else:
                    trouble = ""
                    _log(found)
                    for number in set(found.published) - set(digests):
                        digests[number] = publisher.digest(number)
                    loop.call_soon_threadsafe(tell, found, dict(digests))
                time.sleep(period)
        except Exception as error:
            # The loop may be closed: then the process ends, and nobody asks.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set_exception, error)

    # A copy may take minutes, and the end of the process does not wait for it: what is cut off is
    # no version.
    threading.Thread(target=work, name="publisher", daemon=True).start()
    await ended


def _log(found: Round) -> None:
    for number, message in found.newly_refused:
        logs.warn("version refused", version=number, message=message)
    for number in found.copied:
        logs.say("version published", version=number)
    for number in found.removed:
        logs.say("version removed", version=number)
