"""The connection of one simulated process to the simulated server: what is on its way, and what gets lost there.

Used by ``server`` and ``bus``. Each direction keeps its order, as TCP does. A cut holds back what is sent, and it comes
late if the connection lasts; one that is dead for long is given up, and what was on its way is lost with it. What it
carries are callbacks: this module knows nothing of streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from everynode.errors import EverynodeError, OutcomeUnknownError, UnavailableError
from everynode.runtime.link import delay_ms
from everynode.runtime.publishing import PUBLISH_TIMEOUT_MS
from everynode.testing.simulation import faults as names
from everynode.testing.simulation.faults import BusFaults
from everynode.testing.simulation.loop import VirtualLoop
from everynode.testing.simulation.marks import mark
from everynode.testing.simulation.process import Process

CALL_TIMEOUT_MS = PUBLISH_TIMEOUT_MS
DEAD_AFTER_MS = 15_000
"""After so long without a word from the other side a connection is given up."""
ANSWER_AFTER_STANDSTILL = 0.5
"""How often an answer still counts that came in time for a process that stood still until it was too late."""

_US_PER_MS = 1_000

Act = Callable[[], object]
Direction = Literal["to", "from", "both"]


class Woken(Protocol):
    """Someone who listens on a connection."""

    def wake(self) -> None:
        """The connection is another one."""
        ...


class Network(Protocol):
    """What a connection needs to know of the server."""

    loop: VirtualLoop
    faults: BusFaults
    is_up: bool

    def connected(self, connection: Connection) -> None:
        """A connection has been made again."""
        ...

    def disconnected(self, connection: Connection) -> None:
        """A connection is gone."""
        ...

    def silenced(self, connection: Connection) -> None:
        """Nothing arrives over a connection for a while; whoever listens there may notice."""
        ...

    def flushed(self, connection: Connection) -> None:
        """What was held back may be sent."""
        ...


@dataclass(slots=True, eq=False)
class Ask:
    """A call that waits for its answer.

    Attributes:
        epoch: Over which connection it was sent.
        number: The calls of one process are numbered in their order.
    """

    act: Callable[[], Any]
    future: asyncio.Future[Any]
    sent_us: int
    epoch: int
    number: int

    def fail(self, error: EverynodeError) -> None:
        """Give up, if there is no answer yet."""
        self.settle(error)

    def settle(self, result: object) -> None:
        """Hand over what came of it, if somebody still waits.

        An error is handed over as a result: as an exception it would be complained of if nobody waits any more.
        """
        if not self.future.done():
            self.future.set_result(result)


class Connection:
    """One process's connection, and those that replace it.

    Attributes:
        is_up: There is one, as far as the process knows.
        epoch: Raised when it is lost: what was on its way then never arrives.
    """

    def __init__(self, network: Network, process: Process) -> None:
        """Begin connected."""
        self.process = process
        self.is_up = True
        self.epoch = 0
        self.cut_to = False
        self.cut_from = False
        self._network = network
        self._loop = network.loop
        self._cuts = 0
        self._asked = 0
        self._last_performed = 0
        self._failures = 0
        self._arrived_to_us = 0
        self._arrived_from_us = 0
        self._sent = 0
        self._held_to: list[tuple[int, Act]] = []  # with its place in what was sent
        self._held_from: list[Act] = []
        self._waiting: dict[Ask, None] = {}
        self._watchers: dict[Woken, None] = {}
        process.on_kill.append(self._killed)
        process.on_resume.append(self._resumed)

    @property
    def is_blocked(self) -> bool:
        """Nothing that the server sends arrives now."""
        return self.cut_from or self.process.paused or not self.is_up

    def watch(self, woken: Woken) -> None:
        """Wake somebody up whenever the connection has come back."""
        self._watchers[woken] = None

    def unwatch(self, woken: Woken) -> None:
        """Leave it alone from now on."""
        self._watchers.pop(woken, None)

    # --- calls --------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse to send without a connection.

        Raises:
            UnavailableError: There is none.
        """
        if not self.is_up or not self.process.alive:
            raise UnavailableError("no connection to the log")

    async def ask(self, act: Callable[[], Any]) -> Any:
        """Have the server do something; returns what came of it, or raises the error of ours that came of it.

        Raises:
            UnavailableError: There is no connection; nothing was done.
            OutcomeUnknownError: There was no answer.
        """
        self.check()
        loop = self._loop
        self._asked += 1
        ask = Ask(act, loop.create_future(), loop.now_us, self.epoch, self._asked)
        faults, draw = self._network.faults, loop.random.random
        self._waiting[ask] = None
        if self.cut_to or self.cut_from:
            self._expire_later(ask)
        if faults.request_refused and draw() < faults.request_refused:
            mark(names.REQUEST_REFUSED)
            del self._waiting[ask]
            raise UnavailableError("nothing was sent: the connection is full")
        if faults.request_lost and draw() < faults.request_lost:
            mark(names.REQUEST_LOST)
            self._expire_later(ask)
        elif faults.request_late and draw() < faults.request_late:
            mark(names.REQUEST_LATE)
            self._expire_later(ask)
            late_ms = CALL_TIMEOUT_MS + draw() * faults.late_ms_max
            loop.after_us(int(late_ms * _US_PER_MS), self._arrive_late, ask)
        else:
            self.to_server(partial(self._perform, ask))
        result = await ask.future
        if isinstance(result, EverynodeError):
            raise result
        return result

    def _perform(self, ask: Ask) -> None:
        """Do at the server what was asked, and answer."""
        self._last_performed = max(self._last_performed, ask.number)
        result: object
        try:
            result = ask.act()
        except EverynodeError as error:
            result = error
        faults = self._network.faults
        if faults.answer_lost and self._loop.random.random() < faults.answer_lost:
            mark(names.ANSWER_LOST)
            self._expire_later(ask)
            return
        self.to_client(partial(self._answer, ask, result))

    def _arrive_late(self, ask: Ask) -> None:
        """Do it after all, unless it would have to overtake on its own connection: the order there is kept."""
        if ask.epoch == self.epoch and ask.number < self._last_performed:
            return
        if self._network.is_up:
            try:
                ask.act()
            except EverynodeError:
                return

    def _answer(self, ask: Ask, result: object) -> None:
        self._waiting.pop(ask, None)
        waited_us = self._loop.now_us - ask.sent_us
        # After a standstill: which comes first, the answer or the end of its patience?
        is_late = waited_us > CALL_TIMEOUT_MS * _US_PER_MS
        if is_late and self._loop.random.random() >= ANSWER_AFTER_STANDSTILL:
            self._give_up(ask)
        ask.settle(result)

    def _expire_later(self, ask: Ask) -> None:
        waited_us = self._loop.now_us - ask.sent_us
        self._loop.after_us(CALL_TIMEOUT_MS * _US_PER_MS - waited_us, self._give_up, ask)

    def _give_up(self, ask: Ask) -> None:
        self._waiting.pop(ask, None)
        if self.process.alive:
            ask.fail(OutcomeUnknownError(f"no answer within {CALL_TIMEOUT_MS} ms"))

    # --- on the way ---------------------------------------------------------------------------------------------------

    def latency_us(self) -> int:
        """Draw how long a message is on its way."""
        faults, draw = self._network.faults, self._loop.random.random
        if faults.slow and draw() < faults.slow:
            mark(names.SLOW)
            return int(draw() * faults.slow_ms_max * _US_PER_MS)
        shortest = faults.latency_ms_min
        return int((shortest + draw() * (faults.latency_ms_max - shortest)) * _US_PER_MS)

    def to_server(self, act: Act) -> None:
        """Send something to the server."""
        self._sent += 1
        if self.cut_to:
            self._held_to.append((self._sent, act))
            return
        arrive_us = max(self._loop.now_us + self.latency_us(), self._arrived_to_us)
        self._arrived_to_us = arrive_us
        self._arrive_after(arrive_us - self._loop.now_us, act)

    def tell(self, act: Act) -> None:
        """Send a word that needs no answer, and is lost without a connection.

        It draws nothing, so that it does not matter in which order words are said at one moment.
        """
        if not self.is_up or not self.process.alive:
            return
        self._sent += 1
        if self.cut_to:
            self._held_to.append((self._sent, act))
            return
        shortest_us = int(self._network.faults.latency_ms_min * _US_PER_MS)
        arrive_us = max(self._loop.now_us + shortest_us, self._arrived_to_us)
        self._arrive_after(arrive_us - self._loop.now_us, act)

    def _arrive_after(self, delay_us: int, act: Act) -> None:
        self._loop.after_us(delay_us, self._arrive_at_server, self.epoch, self._sent, act)

    def _arrive_at_server(self, epoch: int, number: int, act: Act) -> None:
        if epoch != self.epoch or not self._network.is_up:
            return
        if self.cut_to:
            self._held_to.append((number, act))
        else:
            act()

    def to_client(self, act: Act, more_us: int = 0) -> None:
        """Send something to the process; with ``more_us`` it comes so much later, out of order."""
        if more_us:
            self._loop.after_us(more_us, self._arrive_at_client, self.epoch, act)
            return
        arrive_us = max(self._loop.now_us + self.latency_us(), self._arrived_from_us)
        self._arrived_from_us = arrive_us
        self._loop.after_us(arrive_us - self._loop.now_us, self._arrive_at_client, self.epoch, act)

    def _arrive_at_client(self, epoch: int, act: Act) -> None:
        if epoch != self.epoch or not self.process.alive:
            return
        if self.cut_from or self.process.paused:
            self._held_from.append(act)
        else:
            act()

    # --- what happens to it -------------------------------------------------------------------------------------------

    def cut(self, duration_ms: int, direction: Direction = "both") -> None:
        """Let nothing through for a while; what is sent is held back."""
        if direction in {"to", "both"}:
            mark(names.CUT_TO)
            self.cut_to = True
        if direction in {"from", "both"}:
            mark(names.CUT_FROM)
            self.cut_from = True
        self._cuts += 1
        for ask in self._waiting:
            self._expire_later(ask)
        self._loop.after_ms(duration_ms, self._mend_cut, self._cuts)
        if duration_ms > DEAD_AFTER_MS:
            self._loop.after_ms(DEAD_AFTER_MS, self._give_up_connection, self._cuts)
        if self.cut_from:
            self._network.silenced(self)

    def _give_up_connection(self, cuts: int) -> None:
        if cuts == self._cuts and self.is_up:
            mark(names.GIVEN_UP)
            self.lose()

    def _mend_cut(self, cuts: int) -> None:
        if cuts == self._cuts:
            self.mend()

    def mend(self) -> None:
        """Let everything through again."""
        self._cuts += 1
        self.cut_to = self.cut_from = False
        # In the order in which it was sent: what was on its way at the cut is held after what was sent during it.
        held = sorted(self._held_to, key=lambda each: each[0])
        self._held_to = []
        for _, act in held:
            self.to_server(act)
        self._flush()

    def _flush(self) -> None:
        if self.is_blocked:
            return
        held, self._held_from = self._held_from, []
        for act in held:
            self.to_client(act)
        self._network.flushed(self)

    def lose(self) -> None:
        """Lose the connection, with all that is on its way; it is made again after a while."""
        if not self.is_up:
            return
        self.is_up = False
        self.epoch += 1
        self._held_to.clear()
        self._held_from.clear()
        waiting, self._waiting = self._waiting, {}
        if self.process.alive:
            for ask in waiting:
                ask.fail(OutcomeUnknownError("no answer (the connection to the log was lost)"))
        self._network.disconnected(self)
        self._failures = 0
        self._connect_later()

    def _connect_later(self) -> None:
        if self.process.alive:
            self._loop.after_ms(delay_ms(self._failures), self._connect)

    def _connect(self) -> None:
        if not self.process.alive:
            return
        if not self._network.is_up or self.cut_to or self.cut_from or self.process.paused:
            self._failures += 1
            self._connect_later()
            return
        self.is_up = True
        self._network.connected(self)
        for woken in list(self._watchers):
            woken.wake()

    def _killed(self) -> None:
        """The process is gone: what it had sent arrives, and the server notices."""
        self._waiting.clear()
        self._loop.after_us(self.latency_us(), self._network.disconnected, self)

    def _resumed(self) -> None:
        self._flush()
