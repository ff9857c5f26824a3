"""What the simulator has found in the program, each as a small story of its own.

A host and its adapter on a simulated log: virtual time, no faults but the one that the story is about.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import pytest
from msgspec.structs import replace

from everynode import wire
from everynode.core.commands import Command, Outcome, outcome_of
from everynode.core.events import NodeObserved
from everynode.core.values import Node, NodeKey
from everynode.errors import OutcomeUnknownError
from everynode.ports import ListBegun, ListEnded, Observation, Outgoing, View
from everynode.runtime.host import AdapterHost
from everynode.runtime.listing import Listing
from everynode.testing.builders import node
from everynode.testing.hosting import ScriptedAdapter, create, revision
from everynode.testing.simulation.faults import BusFaults
from everynode.testing.simulation.loop import Process, VirtualLoop
from everynode.testing.simulation.run import silent
from everynode.testing.simulation.server import SimulatedServer

BACKEND = "east"
STEPS_MAX = 500_000
LATER_MS = 1_800_000_000_000
"""After the end of every story."""


class Stalling(ScriptedAdapter):
    """An adapter that has no answer to the first command, though it may carry it out later."""

    async def apply(self, command: Command) -> Outcome:
        """Keep the command; answer all but the first."""
        self.applied.append(command)
        if len(self.applied) == 1:
            raise OutcomeUnknownError("no answer")
        return outcome_of(command, "done")


class Story:
    """One host on a simulated log."""

    def __init__(self, loop: VirtualLoop, adapter: ScriptedAdapter) -> None:
        """Start the host, and wait until its lists are on the log."""
        self.loop = loop
        self.server = SimulatedServer(loop, faults=BusFaults())
        self.process: Process = loop.process("host")
        bus = self.server.bus(self.process)
        self.host = AdapterHost(bus, adapter, clock=self.process.clock, host_id="host")
        self.process.spawn(self.host.run())
        self.run_for(2_000)
        assert self.host.listed.is_set()

    def run_for(self, duration_ms: int) -> None:
        """Let virtual time pass."""
        until_ms = self.loop.now_ms + duration_ms
        self.loop.run_until(lambda: False, steps_max=STEPS_MAX, until_ms=until_ms)

    def say(self, *messages: wire.AnyMessage) -> None:
        """Put messages on the log."""
        subjects = self.server.subjects
        outgoing = [Outgoing(subjects.of(message), wire.encode(message)) for message in messages]
        self.server.store(outgoing, None)

    def outcomes(self) -> list[str]:
        """Return the results on the log, in order."""
        decoded = [wire.decode(received.payload) for received in self.server.history]
        return [message.result for message in decoded if isinstance(message, Outcome)]


@contextmanager
def story(adapter: ScriptedAdapter) -> Iterator[Story]:
    """Tell a story of one host."""
    with silent(), VirtualLoop(random.Random(1)) as loop:
        yield Story(loop, adapter)


def test_no_other_pod_is_made_where_a_create_had_no_answer() -> None:
    """S1: a call that got no answer may still take effect; for a while its place is not given to another pod."""
    home = node("node-1", backend=BACKEND)
    adapter = Stalling(BACKEND, [home])
    with story(adapter) as told:
        first = replace(create(home), expires_ms=LATER_MS)
        other = replace(create(home, replaces="a pod that went"), expires_ms=LATER_MS)
        told.say(revision(), first)
        told.loop.run_until(lambda: bool(adapter.applied), steps_max=STEPS_MAX)
        assert [first.id] == [command.id for command in adapter.applied]
        told.say(other)
        told.run_for(5_000)
        assert {first.id} == {command.id for command in adapter.applied}
        told.run_for(30_000)
        assert {first.id, other.id} == {command.id for command in adapter.applied}


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000])
def test_a_clock_that_jumps_makes_no_command_expire(jump_ms: int) -> None:
    """L1: what has expired is said by the log's time; a jump of the host's own clock does not move that."""
    home = node("node-1", backend=BACKEND)
    adapter = ScriptedAdapter(BACKEND, [home])
    with story(adapter) as told:
        told.process.set_clock(jump_ms)
        expires_ms = told.loop.now_ms + 60_000
        told.say(revision(), replace(create(home), expires_ms=expires_ms))
        told.run_for(5_000)
        assert ["done"] == told.outcomes()
        late = replace(create(home, attempt=1), expires_ms=told.loop.now_ms - 1)
        told.say(late)
        told.run_for(5_000)
        assert ["done", "superseded"] == told.outcomes()


class Changing(ScriptedAdapter):
    """An adapter whose node changes when it is told so."""

    def __init__(self, backend: str, before: Node, after: Node) -> None:
        """Begin with the node as it was."""
        super().__init__(backend, [before])
        self.now = before
        self.after = after
        self.changes = asyncio.Event()

    async def observe(self, known: View) -> AsyncGenerator[Observation]:  # noqa: ARG002 - it lists everything
        """List the node as it is now, then say that it has changed."""
        yield ListBegun("nodes")
        yield NodeObserved(node=self.now)
        yield ListEnded("nodes")
        yield ListBegun("pods")
        yield ListEnded("pods")
        await self.changes.wait()
        self.now = self.after
        yield NodeObserved(node=self.now)
        await asyncio.Event().wait()


def test_what_the_log_took_and_lost_is_said_again() -> None:
    """L1: a host whose last words were lost before it read them back notices, and says them again."""
    after = node("node-1", backend=BACKEND, zone="b")
    adapter = Changing(BACKEND, node("node-1", backend=BACKEND), after)
    with story(adapter) as told:
        subject = told.server.subjects.of_node(NodeKey(BACKEND, "node-1"))
        told.server.drop_consumers()  # it reads nothing back for some seconds
        adapter.changes.set()
        told.run_for(100)
        assert 2 == len([one for one in told.server.history if one.subject == subject])
        told.server.truncate(1, outage_ms=10)
        told.run_for(60_000)
        last = told.server.log.last(subject)
        assert last is not None
        assert NodeObserved(node=after) == wire.decode(last.payload)


def test_a_list_says_nothing_of_what_was_heard_of_after_it_began() -> None:
    """S1: what another host has made while a list was on its way is not gone because the list does not name it."""
    listing: Listing[str] = Listing()
    listing.begin({"there", "gone"})
    listing.named("there")
    assert ["gone"] == listing.end(["there", "gone", "made meanwhile"])
    listing.begin({"there", "made meanwhile", "another"})
    listing.named("there")
    listing.named("another")
    assert ["made meanwhile"] == listing.end(["there", "made meanwhile", "another"])
