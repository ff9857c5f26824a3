"""The server's side of handing out commands: a durable consumer that all hosts of a backend share.

Used by ``server``. Each command is handed out at least once, to one of those who ask, and comes again until it is
acknowledged, or the word that it is worked on comes too late. An acknowledgement counts whichever delivery it is for.
"""

from __future__ import annotations

import heapq
from functools import partial
from typing import Protocol

from everynode.ports import Received
from everynode.runtime.delivering import ACK_WAIT_MS, SILENCE_MS_MAX
from everynode.testing.simulation import faults as names
from everynode.testing.simulation.connection import Connection, Network
from everynode.testing.simulation.marks import mark
from everynode.testing.simulation.streams import Matches, SimulatedLog

_US_PER_MS = 1_000


class Reader(Protocol):
    """Where commands go."""

    def receive(self, received: Received, count: int) -> None:
        """Take a command in."""
        ...

    def doubt(self) -> None:
        """There was no sign of life for too long."""
        ...


class Puller:
    """One who asks for commands, as the server knows it."""

    __slots__ = ("asked", "connection", "epoch", "reader")

    def __init__(self, connection: Connection, reader: Reader) -> None:
        """It has asked for none yet."""
        self.connection = connection
        self.epoch = connection.epoch
        self.reader = reader
        self.asked = 0


class _Out:
    """A command that was handed out and not acknowledged."""

    __slots__ = ("count", "due_us", "waits")

    def __init__(self) -> None:
        self.count = 0
        self.due_us = 0  # when it comes again if nothing is heard of it
        self.waits = False  # it stands in the queue of those that come again


class CommandQueue:
    """The consumer of one backend.

    Args:
        network: The server, for time and faults.
        log: LOG.
        matches: Which subjects are the backend's commands.
    """

    def __init__(self, network: Network, log: SimulatedLog, matches: Matches) -> None:
        """Begin with the first message that there is."""
        self.position = log.first_sequence
        self.in_flight_max = 1
        self.pullers: dict[Puller, None] = {}
        self._network = network
        self._loop = network.loop
        self._log = log
        self._matches = matches
        self._out: dict[int, _Out] = {}
        self._again: list[tuple[int, int]] = []
        self._checks_at_us = 0
        self._pumps_at_us = 0

    @property
    def in_flight(self) -> int:
        """How many commands are out."""
        return len(self._out)

    # --- who asks -----------------------------------------------------------------------------------------------------

    def attach(self, puller: Puller, in_flight_max: int) -> None:
        """Know someone who will ask."""
        self.in_flight_max = in_flight_max
        self.pullers[puller] = None

    def detach(self, connection: Connection) -> None:
        """Forget who asked over a connection; what it was sent and did not acknowledge comes again later."""
        self.pullers = {one: None for one in self.pullers if one.connection is not connection}

    def silenced(self, connection: Connection) -> None:
        """Nothing arrives over a connection: who asks there will doubt after a while, if that lasts."""
        for puller in self.pullers:
            if puller.connection is connection:
                self._loop.after_ms(SILENCE_MS_MAX, _doubt_if_cut, puller)

    def more(self, puller: Puller, count: int) -> None:
        """Someone asks for more."""
        puller.asked += count
        self.pump()

    def leave(self, puller: Puller) -> None:
        """Someone asks no more."""
        self.pullers.pop(puller, None)

    # --- handing out --------------------------------------------------------------------------------------------------

    def wants(self, subject: str) -> bool:
        """Whether a message is for it."""
        return self._matches(subject)

    def pump(self) -> None:
        """Hand out what can be handed out."""
        if not self._network.is_up:
            return
        while True:
            asking = [one for one in self.pullers if one.asked > 0 and one.connection.is_up]
            if not asking:
                return
            received = self._next()
            if received is None:
                return
            place = int(self._loop.random.random() * len(asking)) if len(asking) > 1 else 0
            self._hand_out(received, asking[place])

    def _next(self) -> Received | None:
        """Take what comes again before what is new."""
        again = self._again
        while again and again[0][0] <= self._loop.now_us:
            sequence = heapq.heappop(again)[1]
            out = self._out.get(sequence)
            if out is None or not out.waits:
                continue
            received = self._log.get(sequence)
            if received is None:  # LOG has let go of it
                del self._out[sequence]
                continue
            return received
        if again:
            self._pump_at(again[0][0])
        if len(self._out) >= self.in_flight_max:
            return None
        for received in self._log.since(self.position):
            self.position = received.sequence + 1
            if received.sequence not in self._out and self._matches(received.subject):
                return received
        return None

    def _hand_out(self, received: Received, puller: Puller) -> None:
        out = self._out.setdefault(received.sequence, _Out())
        out.count += 1
        out.waits = False
        self._hear(out)
        puller.asked -= 1
        if not puller.asked:
            self._loop.after_ms(SILENCE_MS_MAX, self._fall_silent, puller)
        faults, draw = self._network.faults, self._loop.random.random
        if faults.consumer_vanished and draw() < faults.consumer_vanished:
            mark(names.CONSUMER_VANISHED)
            self.vanish(puller)
            return
        if faults.command_lost and draw() < faults.command_lost:
            mark(names.COMMAND_LOST)
            return
        more_us = 0
        if faults.command_late and draw() < faults.command_late:
            mark(names.COMMAND_LATE)
            more_us = 1 + int(draw() * faults.late_ms_max * _US_PER_MS)
        puller.connection.to_client(
            partial(puller.reader.receive, received, out.count), more_us=more_us
        )
        if faults.command_twice and draw() < faults.command_twice:
            mark(names.COMMAND_TWICE)
            more_us = 1 + int(draw() * faults.late_ms_max * _US_PER_MS)
            puller.connection.to_client(
                partial(puller.reader.receive, received, out.count), more_us=more_us
            )

    def _fall_silent(self, puller: Puller) -> None:
        """Have someone notice that no question is open: there are no heartbeats then."""
        if puller in self.pullers and not puller.asked:
            puller.reader.doubt()

    def vanish(self, puller: Puller) -> None:
        """Forget someone who does not hear of it, and finds out after a silence."""
        self.leave(puller)
        self._loop.after_ms(SILENCE_MS_MAX, puller.reader.doubt)

    def _pump_at(self, when_us: int) -> None:
        """Be there when the next command comes again; one timer is enough for all."""
        if not self._loop.now_us < self._pumps_at_us <= when_us:
            self._pumps_at_us = when_us
            self._loop.after_us(when_us - self._loop.now_us, self.pump)

    # --- what is heard ------------------------------------------------------------------------------------------------

    def acknowledge(self, sequence: int) -> None:
        """A command is done; whichever delivery this is about."""
        faults, draw = self._network.faults, self._loop.random.random
        if faults.command_again and sequence in self._out and draw() < faults.command_again:
            mark(names.COMMAND_AGAIN)
            self.refuse(sequence, int(draw() * faults.late_ms_max))
            return
        if self._out.pop(sequence, None) is not None:
            self.pump()

    def refuse(self, sequence: int, delay_ms: int) -> None:
        """A command is to come again after a delay."""
        out = self._out.get(sequence)
        if out is not None:
            self._come_again(out, sequence, self._loop.now_us + delay_ms * _US_PER_MS)
            self.pump()

    def hear_of(self, sequence: int) -> None:
        """A command is still worked on."""
        out = self._out.get(sequence)
        if out is not None and not out.waits:
            self._hear(out)

    def _hear(self, out: _Out) -> None:
        out.due_us = self._loop.now_us + ACK_WAIT_MS * _US_PER_MS
        if self._checks_at_us <= self._loop.now_us:
            self._check_at(out.due_us)

    def _check_at(self, when_us: int) -> None:
        self._checks_at_us = when_us
        self._loop.after_us(when_us - self._loop.now_us, self._check)

    def _check(self) -> None:
        """Have what nobody has acknowledged in time come again."""
        now_us = self._loop.now_us
        next_us = 0
        for sequence, out in self._out.items():
            if out.waits:
                continue
            if out.due_us <= now_us:
                mark(names.COMMAND_EXPIRED)
                self._come_again(out, sequence, now_us)
            elif not next_us or out.due_us < next_us:
                next_us = out.due_us
        if next_us:
            self._check_at(next_us)
        self.pump()

    def _come_again(self, out: _Out, sequence: int, when_us: int) -> None:
        out.waits = True
        heapq.heappush(self._again, (when_us, sequence))

    # --- what happens to it -------------------------------------------------------------------------------------------

    def truncated(self, *, stays_ahead: bool) -> None:
        """LOG has lost its end: what was lost is no longer out; ``stays_ahead``: nor is what takes its place new."""
        last = self._log.last_sequence
        self._out = {sequence: out for sequence, out in self._out.items() if sequence <= last}
        if not stays_ahead:
            self.position = min(self.position, last + 1)

    def started_again(self) -> None:
        """The server was away: whoever asked has to ask anew."""
        self.pullers.clear()


def _doubt_if_cut(puller: Puller) -> None:
    if puller.connection.cut_from:
        puller.reader.doubt()
