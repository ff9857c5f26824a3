"""A worker's session and a log that is not what it was; the restarts themselves are in test_restarts.

A connection that was made anew may lead to an older copy of the log. What stood on the part that is lost must not be
decided from, even if nobody has decided about the set since.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import pytest
from tests.integration.conftest import UNTIL_SECONDS
from tests.integration.support_world import make_set

from everynode import wire
from everynode.core.decision import Proposal
from everynode.core.events import DaemonSetObserved
from everynode.core.pacing import Limits
from everynode.core.state import Record
from everynode.core.values import SetKey
from everynode.errors import StaleError, UnavailableError
from everynode.ports import Outgoing, Received
from everynode.runtime.apart import read_apart
from everynode.runtime.clock import SystemClock
from everynode.runtime.counts import WorkerCounts
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.session import Means, Session

AGENT = SetKey("default", "agent")
Messages = Callable[[JetStreamBus, int], list[Outgoing]]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
ReadState = Callable[[Sequence[str]], AsyncGenerator[list[Received]]]


def session_of(bus: JetStreamBus, shards: int | None = None) -> Session:
    """A session that has read nothing yet: of all shards, or of the first few."""
    means = Means(
        bus, SystemClock(), Limits(), "worker", WorkerCounts(), lambda: None, lambda: None
    )
    return Session(means, frozenset(range(shards or bus.subjects.shards)))


def first(act: Callable[[], Awaitable[None]], read_state: ReadState) -> ReadState:
    """Do something before STATE is read for the first time."""
    acts = [act]

    async def read(subjects: Sequence[str]) -> AsyncGenerator[list[Received]]:
        while acts:
            await acts.pop()()
        async for chunk in read_state(subjects):
            yield chunk

    return read


def proposal_of(session: Session, bus: JetStreamBus) -> Proposal:
    """What it proposes once it has read of a set."""
    message = DaemonSetObserved(daemonset=make_set("agent"))
    now_ms = time.time_ns() // 1_000_000
    session.machine.own(session.shards)
    session.machine.fold(Record(1, now_ms, wire.decode(wire.encode(message))))
    (proposal,) = session.machine.proposals(10)
    assert proposal.fence == 0
    assert bus.subjects.of(proposal.decision).startswith(f"{bus.subjects.prefix}.decision.")
    return proposal


async def read_back(bus: JetStreamBus, sequence: int) -> Received:
    """A message as it was read."""
    time_ms = await bus.time_of(sequence)
    assert time_ms is not None
    return Received(sequence, time_ms, "anything", b"")


class TestAnotherConnection:
    """A connection that was made anew may lead to an older copy of the log."""

    @pytest.mark.parametrize("count", [1, 2])
    async def test_of_another_connection(self, bus: JetStreamBus, count: int) -> None:
        """What was meant for another connection is not sent: the log may be an older copy by now (S6)."""
        messages = [Outgoing(bus.subjects.of_set("decision", AGENT), b"x")] * count
        with pytest.raises(UnavailableError, match="another one"):
            await bus.publish_fenced(messages, 0, bus.epoch + 1)
        assert (await bus.log_position()).last_sequence == 0
        assert await bus.publish_fenced(messages, 0, bus.epoch) == count


class TestEnded:
    """A session that has failed is replaced, and may be told of shards until then."""

    async def test_told_of_shards(self, bus: JetStreamBus, until: Until) -> None:
        """It decides nothing any more (L3: a worker that took that for its own failure would end)."""
        session = session_of(bus)
        running = asyncio.create_task(session.run())

        async def caught_up() -> bool:
            return session.caught_up

        await until(caught_up)
        session._sure_epoch, session._last_read = -1, Received(9, 1, "anything", b"")
        session.machine.fold(Record(1, 1, DaemonSetObserved(daemonset=make_set("agent"))))
        session.own(session.shards)
        with pytest.raises(ExceptionGroup) as failed:
            await running
        assert isinstance(failed.value.exceptions[0], StaleError)
        session.own(frozenset())
        session.machine.refused(AGENT, None)
        session.own(session.shards)
        assert (await bus.log_position()).last_sequence == 0


class TestLostEnd:
    """S6: a decision is stored only if the log still has what it was made from."""

    async def test_still_there(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """It has: the decision is stored."""
        await bus.publish(node_messages(bus, 3))
        session = session_of(bus)
        session._last_read = await read_back(bus, 3)
        assert await session._store(proposal_of(session, bus)) is not None

    @pytest.mark.parametrize("sequence", [2, 3, 9])
    async def test_lost(self, bus: JetStreamBus, node_messages: Messages, sequence: int) -> None:
        """It has something else there, or ends before it: nothing is stored, though nobody decided since."""
        await bus.publish(node_messages(bus, 3))
        session = session_of(bus)
        session._last_read = Received(sequence, 1, "anything", b"")
        with pytest.raises(StaleError, match=f"at {sequence}"):
            await session._store(proposal_of(session, bus))
        assert (await bus.log_position()).last_sequence == 3

    async def test_only_state_was_read(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """Nothing of the log was read, but where it ended: it still must not end before."""
        await bus.publish(node_messages(bus, 3))
        session = session_of(bus)
        session.machine.passed(4)
        with pytest.raises(StaleError, match="at 4"):
            await session._make_sure()

    async def test_aged_out(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """It let go of it in its time: that is no loss."""
        await bus.publish(node_messages(bus, 3))
        session = session_of(bus)
        session._last_read = await read_back(bus, 1)
        await bus._link.call(f"STREAM.PURGE.{bus._log}", {"seq": 3})
        assert await session._store(proposal_of(session, bus)) is not None

    async def test_asked_once(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """It is asked for once per connection: what is read over it afterwards need not be."""
        await bus.publish(node_messages(bus, 3))
        session = session_of(bus)
        session._last_read = await read_back(bus, 3)
        assert await session._make_sure() == bus.epoch
        session._last_read = Received(9, 1, "anything", b"")
        assert await session._make_sure() == bus.epoch

    async def test_lost_before_it_was_followed(
        self, bus: JetStreamBus, node_messages: Messages
    ) -> None:
        """It is compared before anything new is taken in: what is new would be compared instead."""
        await bus.publish(node_messages(bus, 3))
        session = session_of(bus)
        session.machine.passed(2)
        session._last_read = Received(2, 1, "anything", b"")
        with pytest.raises(StaleError, match="at 2"):
            async with asyncio.timeout(UNTIL_SECONDS):
                await session._follow()
        assert session.machine.fleet.sequence == 2

    async def test_lost_while_it_was_read(self, bus: JetStreamBus, node_messages: Messages) -> None:
        """It ended later when STATE was begun to be read: STATE may tell of what is lost."""
        await bus.publish(node_messages(bus, 3))
        session = session_of(bus)
        position = await session._load()
        await session._catch_up(position._replace(end=9))
        with pytest.raises(StaleError):
            await session._make_sure()


class TestStart:
    """What a session has read when it begins to decide."""

    async def test_read_apart(
        self, bus: JetStreamBus, node_messages: Messages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each message of its shards once, in the log's order, and nothing that came later; or all is to be read."""
        prefix, nodes = bus.subjects.prefix, node_messages(bus, 2)
        ours = [Outgoing(f"{prefix}.command.1.node.0.id", b""), Outgoing(f"{prefix}.tick.0", b"")]
        await bus.publish([ours[0], nodes[0], Outgoing(f"{prefix}.tick.7", b""), ours[1], nodes[1]])
        session = session_of(bus, 2)
        reading = (session._bus, session._filters, 1, 4, session._concerns)
        found = await read_apart(*reading)
        assert found is not None
        assert [received.sequence for received in found] == [1, 2, 4]
        monkeypatch.setattr("everynode.runtime.apart.READ_APART_MESSAGES_MAX", 2)
        assert await read_apart(*reading) is None

    @pytest.mark.parametrize("shards", [1, 16])
    async def test_not_behind_state(
        self,
        bus: JetStreamBus,
        node_messages: Messages,
        until: Until,
        monkeypatch: pytest.MonkeyPatch,
        shards: int,
    ) -> None:
        """Its basis is no older than anything that STATE had (S7), though more was written while it began to read."""
        await bus.publish(node_messages(bus, 3))

        async def write_more() -> None:
            last = await bus.publish(node_messages(bus, 8))
            assert last == 11

            async def state_has_it() -> bool:
                chunks = [chunk async for chunk in read_state([bus.subjects.everything()])]
                return any(one.sequence == last for chunk in chunks for one in chunk)

            await until(state_has_it)

        read_state = bus.read_state
        monkeypatch.setattr(bus, "read_state", first(write_more, read_state))
        session = session_of(bus, shards)
        position = await session._load()
        assert position.end == 3
        await session._catch_up(position)
        assert session.machine.fleet.sequence == 11
        assert session._last_read is not None
        assert session._last_read.sequence == 11

    async def test_over_two_connections(
        self, bus: JetStreamBus, node_messages: Messages, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It begins again: what the first connection read may be lost, and the log have grown past it (S6)."""
        await bus.publish(node_messages(bus, 3))

        async def connect_anew() -> None:
            bus._link.epoch += 1

        monkeypatch.setattr(bus, "read_state", first(connect_anew, bus.read_state))
        session = session_of(bus)
        with pytest.raises(UnavailableError, match="connection was lost"):
            async with asyncio.timeout(UNTIL_SECONDS):  # it would follow for ever
                await session.run()
        assert not session.caught_up
