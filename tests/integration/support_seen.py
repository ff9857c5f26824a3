"""What happened, for tests of a whole fleet: each pod's life at the backend, and all that is on the log.

Used by ``support_world``. Neither asks any part that is tested: the witness hears the simulated backend itself, the
recorder reads the log over a connection of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from everynode import wire
from everynode.core.commands import AdoptPod, CreatePod, DeletePod, Outcome, ReleasePod
from everynode.core.events import PodGone, PodObserved, StatusGone, StatusReported
from everynode.core.values import Pod, SetKey, Status
from everynode.errors import MalformedMessageError
from everynode.ports import Received
from everynode.runtime.jetstream import JetStreamBus
from everynode_simulated import SimulatedFleet

_Kind = TypeVar("_Kind", bound=wire.AnyMessage)


class Witness:
    """What happens to pods at the backend, change by change, seen by nobody's code but the backend's."""

    def __init__(self, fleet: SimulatedFleet, changed: Callable[[], None]) -> None:
        """Watch from now on."""
        self.created: list[Pod] = []
        self.gone: list[PodGone] = []
        self.doubles: list[str] = []
        self.surging = False  # one old and one new pod may be there at the same time
        self._live: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._known: set[str] = set()
        self._changed = changed
        self._feed = fleet.subscribe(self._hear)

    def close(self) -> None:
        """Watch no longer."""
        self._feed.close()

    def _hear(self) -> None:
        for change in self._feed.take():
            if isinstance(change, PodObserved):
                self._see(change.pod)
            elif isinstance(change, PodGone):
                self.gone.append(change)
                if change.owner is not None:
                    self._live[change.owner.uid, change.node].pop(change.uid, None)
        self._changed()

    def _see(self, pod: Pod) -> None:
        if pod.uid not in self._known:
            self._known.add(pod.uid)
            self.created.append(pod)
        if pod.owner is None:
            for (_, node), live in self._live.items():
                if node == pod.node:
                    live.pop(pod.uid, None)
            return
        here = self._live[pod.owner.uid, pod.node]
        if not pod.live:
            here.pop(pod.uid, None)
            return
        here[pod.uid] = pod.revision
        allowed = len(set(here.values())) if self.surging else 1
        if len(here) > min(allowed, 2):
            self.doubles.append(f"{pod.node}: {pod.set_key} has {len(here)} live pods: {pod.name}")


@dataclass
class Recorder:
    """Everything that is on the log, from its first message on, in order."""

    received: list[Received] = field(default_factory=list)
    messages: list[tuple[int, wire.AnyMessage]] = field(default_factory=list)
    malformed: list[Received] = field(default_factory=list)
    statuses: dict[SetKey, Status] = field(default_factory=dict)
    open_commands: dict[str, int] = field(default_factory=dict)
    quiet_heartbeats: int = 0

    async def run(self, bus: JetStreamBus, changed: Callable[[], None]) -> None:
        """Read on until cancelled."""
        async with aclosing(bus.follow(bus.subjects.stored(), 1)) as chunks:
            async for chunk in chunks:
                self.quiet_heartbeats = 0 if chunk else self.quiet_heartbeats + 1
                for received in chunk:
                    self._take(bus.subjects, received)
                changed()

    def _take(self, subjects: wire.Subjects, received: Received) -> None:
        self.received.append(received)
        try:
            message = wire.decode_from(subjects, received.subject, received.payload)
        except MalformedMessageError:
            self.malformed.append(received)
            return
        self.messages.append((received.sequence, message))
        match message:
            case CreatePod() | DeletePod() | AdoptPod() | ReleasePod():
                self.open_commands[message.id] = received.sequence
            case Outcome():
                self.open_commands.pop(message.id, None)
            case StatusReported(status=status):
                self.statuses[status.set_key] = status
            case StatusGone():
                self.statuses.pop(message.set_key, None)

    def last_of_pod(self, pod: Pod) -> Pod | None:
        """What was last said of a pod; ``None`` if that it is gone."""
        for _, message in reversed(self.messages):
            if isinstance(message, PodObserved) and message.pod.key == pod.key:
                return message.pod
            if isinstance(message, PodGone) and (message.key, message.set_key) == (
                pod.key,
                pod.set_key,  # not what it left behind when it changed hands
            ):
                return None
        return None

    @property
    def sequence(self) -> int:
        """The last place in the log that was read."""
        return self.received[-1].sequence if self.received else 0

    def of(self, kind: type[_Kind]) -> list[tuple[int, _Kind]]:
        """The messages of a kind, with their places in the log."""
        return [(place, message) for place, message in self.messages if isinstance(message, kind)]

    def creates(self) -> list[CreatePod]:
        """All creates that were ever decided."""
        return [create for _, create in self.of(CreatePod)]

    def deletes(self) -> list[DeletePod]:
        """All deletes that were ever decided."""
        return [delete for _, delete in self.of(DeletePod)]
