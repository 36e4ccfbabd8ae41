"""One client of each kind against the real server."""

import inspect

import pytest

from serving.client import AsyncClient, AsyncRestClient, Client, RestClient

KINDS = {
    "grpc": Client,
    "grpc-async": AsyncClient,
    "rest": RestClient,
    "rest-async": AsyncRestClient,
}


class Caller:
    """Calls a client of any kind with `await`."""

    def __init__(self, client):
        self.client = client
        self.rest = isinstance(client, RestClient | AsyncRestClient)

    def __getattr__(self, name):
        method = getattr(self.client, name)

        async def call(*arguments, **named):
            answer = method(*arguments, **named)
            return await answer if inspect.isawaitable(answer) else answer

        return call


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
async def client(kind, model_server):
    rest = kind in (RestClient, AsyncRestClient)
    caller = Caller(kind(model_server.rest if rest else model_server.grpc, timeout=20))
    yield caller
    await caller.close()
