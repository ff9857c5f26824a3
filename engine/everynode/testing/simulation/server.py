"""The log of one fleet as JetStream keeps it, on virtual time: it keeps what is promised and breaks what is not.

Whoever builds a simulation makes one and gives each process a bus (``bus``). Total order, fences, batches that are
taken whole, the last message of each subject, and commands at least once are kept whatever happens. Everything else
breaks as ``faults`` says, or when one of the methods under "misfortune" is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from everynode.errors import ConfigurationError, StaleError, UnavailableError
from everynode.ports import Outgoing, Received
from everynode.testing.simulation import faults as names
from everynode.testing.simulation.beside import Beside
from everynode.testing.simulation.bus import SimulatedBus
from everynode.testing.simulation.connection import Connection, Direction
from everynode.testing.simulation.faults import BusFaults
from everynode.testing.simulation.handing import CommandQueue
from everynode.testing.simulation.loop import VirtualLoop
from everynode.testing.simulation.marks import mark
from everynode.testing.simulation.process import Process
from everynode.testing.simulation.pushing import Push
from everynode.testing.simulation.streams import SimulatedLog, SimulatedState, matcher
from everynode.wire import Subjects

__all__ = ["BusFaults", "SimulatedServer"]

SHARDS = 16
STATE_RETRY_MS = 100
"""How often STATE looks whether the server is back."""
RACE_MS = 50
"""Who is refused so soon after who came first may not be told the sequence."""

_US_PER_MS = 1_000


class SimulatedServer:
    """One fleet's log, and whoever is connected to it.

    Args:
        loop: Time, and chance.
        fleet: The fleet's name.
        shards: How many shards it has.
        faults: What may go wrong by itself; nothing, if not given. May be replaced at any time.

    Attributes:
        subjects: The fleet's subjects.
        log: The stream LOG.
        state: The stream STATE.
        backends: Which backends the fleet knows, by name.
        is_up: It answers.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        fleet: str = "sim",
        shards: int = SHARDS,
        faults: BusFaults | None = None,
    ) -> None:
        """Begin with an empty log."""
        self.loop = loop
        self.faults = faults or BusFaults()
        self.subjects = Subjects(fleet, shards)
        self.log = SimulatedLog()
        self.state = SimulatedState(self.subjects.kept())
        self.beside = Beside(self)
        self.backends: dict[str, str] = {}
        self.is_up = True
        self.pushes: dict[Push, None] = {}
        self.queues: dict[str, CommandQueue] = {}
        self.clock = loop.world.clock
        self._buses: list[SimulatedBus] = []
        self._takes = matcher(tuple(self.subjects.stored()))
        self._outages = 0
        self._disk_full_until_us = 0
        self._state_stops_until_us = 0
        self._takes_over = False

    @property
    def history(self) -> list[Received]:
        """Every message that was ever stored, in that order; a sequence that goes back says that some were lost."""
        return self.log.history

    def bus(self, process: Process) -> SimulatedBus:
        """Connect a process."""
        self._buses = [one for one in self._buses if one.connection.process.alive]
        bus = SimulatedBus(self, Connection(self, process))
        self._buses.append(bus)
        if not self.is_up:
            bus.connection.lose()
        return bus

    # --- storing ------------------------------------------------------------------------------------------------------

    def store(self, messages: Sequence[Outgoing], expected: int | None) -> int:
        """Store messages, all or none; returns the sequence of the last one.

        Args:
            messages: At least one.
            expected: What must be the last sequence on the first one's subject; ``None``: anything.

        Raises:
            StaleError: It is another one.
            UnavailableError: They cannot be stored now, or nobody takes such a subject.
        """
        if self.loop.now_us < self._disk_full_until_us:
            raise UnavailableError(f"{messages[0].subject}: nothing was stored: no space left")
        for message in messages:
            if not self._takes(message.subject):
                raise UnavailableError(f"nobody answers on {message.subject}")
        if expected is not None:
            self.check_fence(messages[0].subject, expected)
        return self._append(messages)

    def check_fence(self, subject: str, expected: int) -> None:
        """Refuse a batch that was made on another view than the log's.

        Raises:
            StaleError: Someone else wrote to the subject first.
        """
        last = self.log.last(subject)
        sequence = last.sequence if last is not None else 0
        if sequence == expected:
            return
        mark(names.STALE)
        named: int | None = sequence
        if self.faults.race_unnamed and last is not None:
            is_race = self.clock.now_ms() - last.time_ms <= RACE_MS
            if is_race and self.loop.random.random() < self.faults.race_unnamed:
                mark(names.RACE_UNNAMED)
                named = None
        raise StaleError(f"{subject}: expected {expected} as its last sequence", named)

    def _append(self, messages: Sequence[Outgoing]) -> int:
        time_ms = self.clock.now_ms()
        append = self.log.append
        stored = [append(message.subject, message.payload, time_ms) for message in messages]
        for push in self.pushes:
            push.stored(stored)
        for queue in self.queues.values():
            if any(queue.wants(received.subject) for received in stored):
                queue.pump()
        self._take_over_later()
        return self.log.last_sequence

    def _take_over_later(self) -> None:
        """Have STATE take over what there is, after its lag."""
        if self._takes_over:
            return
        self._takes_over = True
        lag_us = int(self.loop.random.random() * self.faults.state_lag_ms_max * _US_PER_MS)
        stopped_us = max(self._state_stops_until_us - self.loop.now_us, 0)
        self.loop.after_us(max(lag_us, stopped_us), self._take_over)

    def _take_over(self) -> None:
        if not self.is_up:
            self.loop.after_ms(STATE_RETRY_MS, self._take_over)
            return
        self._takes_over = False
        if self.loop.now_us < self._state_stops_until_us:
            self._take_over_later()
            return
        self.state.take_over(self.log, self.log.last_sequence, self.clock.now_ms())

    def record_backend(self, backend: str, identity: str) -> None:
        """Know a backend by its name.

        Raises:
            ConfigurationError: The fleet knows another one under this name.
        """
        known = self.backends.setdefault(backend, identity)
        if known != identity:
            message = (
                f"backend {backend} of fleet {self.subjects.fleet} is {known}, and this one is "
                f"{identity}: use another backend name, or another fleet"
            )
            raise ConfigurationError(message)

    def queue(self, backend: str) -> CommandQueue:
        """Return the consumer of a backend's commands; it lasts."""
        if backend not in self.queues:
            matches = matcher((self.subjects.commands_for(backend),))
            self.queues[backend] = CommandQueue(self, self.log, matches)
        return self.queues[backend]

    def draw_chunk(self, messages_max: int) -> int:
        """Say how many messages are read at once."""
        faults, draw = self.faults, self.loop.random.random
        if faults.chunk_cut and draw() < faults.chunk_cut:
            return 1 + int(draw() ** 4 * (messages_max - 1))
        return messages_max

    # --- connections; for ``Connection`` ------------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """A connection has been made again: it serves what it served."""
        for bus in self._buses:
            if bus.connection is connection:
                bus.serve_again()

    def disconnected(self, connection: Connection) -> None:
        """A connection is gone, and with it whoever listened over it."""
        for push in [one for one in self.pushes if one.connection is connection]:
            push.is_alive = False
            del self.pushes[push]
        for queue in self.queues.values():
            queue.detach(connection)
        self.beside.forget(connection)

    def silenced(self, connection: Connection) -> None:
        """Nothing arrives over a connection: who listens there will doubt after a while."""
        for push in self.pushes:
            if push.connection is connection:
                push.silenced()
        for queue in self.queues.values():
            queue.silenced(connection)

    def flushed(self, connection: Connection) -> None:
        """A connection lets through again."""
        for push in self.pushes:
            if push.connection is connection:
                push.schedule()

    def vanish(self, push: Push) -> None:
        """Drop a consumer; its reader finds out after a silence."""
        push.is_alive = False
        self.pushes.pop(push, None)
        push.silenced()

    # --- misfortune ---------------------------------------------------------------------------------------------------

    def outage(self, duration_ms: int) -> None:
        """Be away for a while: every connection is lost, with what was on its way."""
        mark(names.OUTAGE)
        self._outages += 1
        self.is_up = False
        for bus in self._buses:
            bus.connection.lose()
        for queue in self.queues.values():
            queue.started_again()
        self.loop.after_ms(duration_ms, self._come_back, self._outages)

    def _come_back(self, outages: int) -> None:
        if outages == self._outages:
            self.is_up = True

    def drop_consumers(self) -> None:
        """Let everybody who listens wait for nothing, as after a failover."""
        for push in list(self.pushes):
            mark(names.CONSUMER_VANISHED)
            self.vanish(push)
        for queue in self.queues.values():
            for puller in list(queue.pullers):
                queue.vanish(puller)

    def cut(self, process: Process, duration_ms: int, direction: Direction = "both") -> None:
        """Cut a process off: ``to`` the server, ``from`` it, or both."""
        for bus in self._buses:
            if bus.connection.process is process:
                bus.connection.cut(duration_ms, direction)

    def truncate(
        self,
        count: int,
        *,
        state_too: bool = True,
        consumers_stay_ahead: bool = False,
        outage_ms: int = 1_000,
    ) -> int:
        """Lose acknowledged messages at the end of LOG, as servers do that lose power; returns how many.

        Args:
            count: How many.
            state_too: STATE loses what it took over of them. If not, it takes over nothing until LOG has grown past
                that.
            consumers_stay_ahead: What takes their place is not handed out as commands.
            outage_ms: How long the server is away.
        """
        self.outage(outage_ms)
        lost = self.log.truncate(count)
        if lost:
            mark(names.TRUNCATED)
        if state_too:
            self.state.truncate(self.log.last_sequence)
        elif self.state.position > self.log.last_sequence:
            mark(names.TRUNCATED_BELOW_STATE)
        for queue in self.queues.values():
            queue.truncated(stays_ahead=consumers_stay_ahead)
        return lost

    def age_out(self, older_than_ms: int) -> None:
        """Let go of what LOG took in longer ago than this, once STATE has taken it over."""
        first = self.log.sequence_at(self.clock.now_ms() - older_than_ms)
        first = min(first, self.state.position + 1)
        if first > self.log.first_sequence:
            mark(names.AGED_OUT)
            self.log.age_out(first)

    def publish_foreign(self, subject: str, payload: bytes) -> int:
        """Store what somebody else published."""
        mark(names.FOREIGN)
        return self._append([Outgoing(subject, payload)])

    def garbage(self) -> Received:
        """Store something that nobody can use, on a subject that somebody uses if there is one."""
        draw = self.loop.random
        kinds = ("node", "pod", "daemonset", "revision", "decision", "status", "outcome", "command")
        kind = draw.choice(kinds)
        prefix = f"{self.subjects.prefix}.{kind}."
        known = sorted({one.subject for one in self.history if one.subject.startswith(prefix)})
        subject = draw.choice(known) if known else f"{prefix}1.nobody.nothing"
        payloads: list[Callable[[], bytes]] = [
            lambda: draw.randbytes(draw.randrange(64)),
            lambda: b"{",
            lambda: b'{"v":1}',
            lambda: b'{"v":99,"kind":"NodeObserved"}',
            partial(self._of_another_subject, subject),
        ]
        self.publish_foreign(subject, draw.choice(payloads)())
        return self.history[-1]

    def _of_another_subject(self, subject: str) -> bytes:
        """Return a message that is well formed and belongs elsewhere: put on its own subject, it would be a forgery."""
        own = {one.payload for one in self.history if one.subject == subject}
        others = [one.payload for one in self.history if one.payload not in own]
        return self.loop.random.choice(others) if others else b"[]"

    def fill_disk(self, duration_ms: int) -> None:
        """Refuse to store anything for a while."""
        mark(names.DISK_FULL)
        self._disk_full_until_us = self.loop.now_us + duration_ms * _US_PER_MS

    def stop_state(self, duration_ms: int) -> None:
        """Have STATE take over nothing for a while."""
        mark(names.STATE_STOPPED)
        self._state_stops_until_us = self.loop.now_us + duration_ms * _US_PER_MS

    def heal(self) -> None:
        """End everything that is wrong; what was lost stays lost."""
        self.faults = BusFaults()
        self._outages += 1
        self.is_up = True
        self._disk_full_until_us = 0
        self._state_stops_until_us = 0
        self._take_over()
        self.clock.set(0)
        for bus in self._buses:
            if bus.connection.cut_to or bus.connection.cut_from:
                bus.connection.mend()
