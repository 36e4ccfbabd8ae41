"""Requests that come together are let in together; one that comes alone does not wait."""

import asyncio

from serving.server import turns
from serving.server.turns import ALONE, MOST, Turns


async def let_in(order: list[str], gate: Turns, name: str) -> None:
    turn = gate.join()
    if turn is not None:
        await turn
    order.append(name)


async def test_requests_of_a_few_turns_are_let_in_together() -> None:
    gate = Turns(3)
    order: list[str] = []

    async def later(number: int) -> None:
        # Each of the three needs one more turn of the loop to come.
        for _ in range(number):
            await asyncio.sleep(0)
        order.append("came")
        await let_in(order, gate, "let in")

    await asyncio.gather(*(later(number) for number in range(3)))
    assert order == ["came"] * 3 + ["let in"] * 3


async def test_no_more_than_most_at_once() -> None:
    gate = Turns(3)
    order: list[str] = []
    await asyncio.gather(*(let_in(order, gate, str(n)) for n in range(2 * MOST)))
    assert order == [str(n) for n in range(2 * MOST)]
    assert not gate._waiting


async def test_after_a_while_alone_only_one_in_many_waits() -> None:
    gate = Turns(1)
    waited = []
    for _ in range(5 * ALONE):
        turn = gate.join()
        waited.append(turn is not None)
        if turn is not None:
            await turn
    assert all(waited[:ALONE])
    assert sum(waited[ALONE:]) == 4


async def test_company_ends_being_alone() -> None:
    gate = Turns(1)
    order: list[str] = []
    for number in range(2 * ALONE):
        await let_in(order, gate, str(number))
    for _ in range(ALONE):
        await asyncio.gather(let_in(order, gate, "a"), let_in(order, gate, "b"))
    assert gate.join() is not None


async def test_a_caller_who_left_holds_nobody_up() -> None:
    gate = Turns(2)
    order: list[str] = []
    left = asyncio.ensure_future(let_in(order, gate, "left"))
    stays = asyncio.ensure_future(let_in(order, gate, "stays"))
    await asyncio.sleep(0)
    left.cancel()
    await stays
    assert order == ["stays"]


def test_grpc_is_given_the_turns_that_it_needs() -> None:
    assert turns.GRPC_PATIENCE >= 4
