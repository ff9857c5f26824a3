"""A simulated fleet for unit tests, whose time passes when the test says so."""

from __future__ import annotations

from everynode.core.values import Node, Owner, Pod, PodKey
from everynode_simulated import Behaviour, SimulatedFleet
from everynode_simulated.feed import Change

NODE = Node(backend="b", name="n1", uid="u1", labels={"zone": "a"})
OTHER = Node(backend="b", name="n2", uid="u2")
OWNER = Owner(name="set", uid="s")
KEY = PodKey("b", "ns", "p")
AT_ONCE = Behaviour(start_ms=(10, 10), ready_ms=(10, 10))
NEVER_MS = 10_000_000


class ManualClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.time_ms = 1_000

    def now_ms(self) -> int:
        """The time that the test has come to."""
        return self.time_ms

    async def sleep_ms(self, duration_ms: int) -> None:
        """Nobody waits here: the fleet is not asynchronous."""
        raise NotImplementedError


class World:
    """A fleet, its clock, and what it has said."""

    def __init__(self, *nodes: Node, behaviour: Behaviour = AT_ONCE) -> None:
        self.clock = ManualClock()
        self.fleet = SimulatedFleet(nodes, behaviour=behaviour, clock=self.clock)
        self.wakes = 0
        self.feed = self.fleet.subscribe(self._wake)

    def _wake(self) -> None:
        self.wakes += 1

    def pass_ms(self, duration_ms: int) -> list[Change]:
        """Let time pass, one thing after the other; returns what was said."""
        end_ms = self.clock.time_ms + duration_ms
        while (due_ms := self.fleet.next_due_ms) is not None and due_ms <= end_ms:
            self.clock.time_ms = max(due_ms, self.clock.time_ms)
            self.fleet.advance()
        self.clock.time_ms = end_ms
        return self.said()

    def said(self) -> list[Change]:
        """What was said since the last time."""
        return list(self.feed.take())

    def create(self, key: PodKey = KEY, node: str = "n1", template: bytes = b"") -> Pod:
        """Make a pod."""
        return self.fleet.create_pod(key, node=node, owner=OWNER, revision="r", template=template)
