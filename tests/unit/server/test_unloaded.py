"""An unloaded version's bundle, graph and session are gone, not only closed."""

import asyncio
import gc
import weakref

import numpy as np

from serving.protocol import messages, tensors
from serving.server.core import ServerCore
from serving.server.options import ServerOptions
from tests.support.waiting import wait_for


async def test_an_unloaded_bundle_is_collected(chopstick_models):
    options = ServerOptions(
        model_name="chopstick",
        model_base_path=str(chopstick_models),
        file_system_poll_wait_seconds=0,
    )
    core = ServerCore(options)
    await core.start()
    request = messages.PredictRequest()
    request.model_spec.name = "chopstick"
    tensors.fill_proto(request.inputs["chopstick_length"], np.array([[240.0]], np.float32))
    await core.predict(request, timeout=10)
    bundle = core.manager.lookup(request.model_spec).bundle
    gone = [weakref.ref(bundle), weakref.ref(bundle._session), weakref.ref(bundle._session.graph)]
    del bundle
    (servable,) = core.manager.states("chopstick")
    core.manager.aspire("chopstick", {})
    await asyncio.to_thread(wait_for, lambda: servable.state == 50, "the version to be unloaded")
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]
    await core.close()
