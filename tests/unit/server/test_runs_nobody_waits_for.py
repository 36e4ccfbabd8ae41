"""A run whose caller has left before it began is not made."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np

from serving.protocol.status import Code, ServingError
from serving.server.bundle import RunTimes
from serving.server.core import ServerCore
from serving.server.inference import Call
from serving.server.manager import Servable
from serving.server.options import ServerOptions, schedulable_cpus

WORKERS = 4 * schedulable_cpus()


async def test_callers_who_give_up_leave_no_work_behind(tmp_path):
    core = ServerCore(ServerOptions(model_name="m", model_base_path=str(tmp_path)))
    servable = Servable("m", 1, str(tmp_path))
    servable.bundle = SimpleNamespace(batching=None)
    go, made = threading.Event(), []

    def run(*arrays):
        made.append(go.wait(30))
        return list(arrays)

    call = Call(
        SimpleNamespace(name="s", times=RunTimes()), run, (), (), [np.zeros(3)], lambda out: out
    )
    late = [asyncio.ensure_future(core._run(servable, call, 0.1)) for _ in range(5 * WORKERS)]
    gone = [asyncio.ensure_future(core._run(servable, call, None)) for _ in range(WORKERS)]
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    for outcome in await asyncio.gather(*late, return_exceptions=True):
        assert isinstance(outcome, ServingError)
        assert outcome.code == Code.DEADLINE_EXCEEDED
    # Those that have begun go on, and hold the version until they end.
    assert servable.in_flight == WORKERS
    go.set()
    await core._run(servable, call, 30)
    servable.idle = asyncio.Event()
    if servable.in_flight:
        await asyncio.wait_for(servable.idle.wait(), 10)
    assert len(made) == WORKERS + 1
    await core.close()
