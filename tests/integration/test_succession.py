"""How one session of a worker takes the place of another."""

from __future__ import annotations

import asyncio

from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.session import Session
from everynode.runtime.worker import Worker


async def test_a_session_that_fails_while_it_waits_for_its_turn(bus: JetStreamBus) -> None:
    """L1: it does not take the place of the one that works, which then nobody would have."""
    worker = Worker(bus, "worker")
    worker._session = present = Session(worker._means, frozenset({1}))
    worker._next = successor = Session(worker._means, frozenset({1, 2}))
    present.writing = 1  # what is on its way is waited for
    replacing = asyncio.create_task(worker._replace(successor))
    await asyncio.sleep(0)
    worker._next, present.writing = None, 0  # as after its failure
    worker._notify()

    assert not await replacing
    assert present is worker._session
