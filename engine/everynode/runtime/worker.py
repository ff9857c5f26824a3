"""A worker: decides for its share of a fleet's sets, and takes over what others leave behind.

It runs one ``session`` that knows the worker's shards. When shards come to it, it begins another session beside the
first, which goes on until the new one has read everything; so nobody waits while somebody reads. ``roster`` knows who
else is there. It holds nothing that it cannot read again: killed at any point and started anew, it reads STATE and the
last minutes of the log and goes on. Nothing here is needed for safety: that is the fence's business.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from everynode.core.pacing import Limits
from everynode.core.values import NAME_LENGTH_MAX, SetKey, Status
from everynode.errors import ConfigurationError, StaleError, UnavailableError
from everynode.ports import Clock
from everynode.runtime.bus import FleetBus
from everynode.runtime.clock import SystemClock, monotonic_ms
from everynode.runtime.counts import WorkerCounts
from everynode.runtime.roster import Roster, Standing
from everynode.runtime.session import RETRY_LAST_MS, Means, Session, jittered

log = structlog.get_logger(__name__)

RESTART_DELAY_MS = RETRY_LAST_MS // 5
GATHER_MS = 50
"""Shards that come to it within so short a time are read together."""
SHED_AFTER_MS = 5_000
"""So long a worker goes on following shards that are another one's now: if they come back, nothing is to be read."""
CLAIM_WAIT_MS = 600
"""How long it waits for another worker to let go of a shard. Whoever hears nothing of this worker would never."""
LET_GO_MS = 500
"""How long a session is waited for whose decisions are still on their way, before another takes its place."""


class Worker:
    """Decides for a fleet until it is cancelled, together with all others that do.

    Args:
        bus: The fleet's log.
        name: Who this is, in decisions and logs; several may have one name.
        limits: What it allows itself.
        clock: Time to wait by.
        follow_all: Know of all shards, also of those that others decide for.
    """

    def __init__(
        self,
        bus: FleetBus,
        name: str,
        limits: Limits | None = None,
        clock: Clock | None = None,
        *,
        follow_all: bool = False,
    ) -> None:
        """Prepare; nothing is read before ``run``.

        Raises:
            ConfigurationError: The name or a limit cannot be used.
        """
        self.name = _checked(name)
        self.counts = WorkerCounts()
        limits = limits or Limits()
        limits.check()
        self._clock = clock or SystemClock()
        self._all = frozenset(range(bus.subjects.shards)) if follow_all else None
        self._changed = asyncio.Event()
        self._shares_changed = asyncio.Event()
        self.roster = Roster(bus, self._clock, name, self._standing, self._shares_changed.set)
        self._means = Means(
            bus, self._clock, limits, name, self.counts, self._notify, self.roster.nudge
        )
        self._session: Session | None = None
        self._in_charge = False  # the session was told what to decide for
        self._next: Session | None = None
        self._next_task: asyncio.Task[None] | None = None
        self._next_from_ms = 0  # not before that is another session begun
        self._claimed_since_ms: dict[int, int] = {}
        self._missing_since_ms: int | None = None
        self._surplus_since_ms: int | None = None

    async def run(self) -> None:
        """Work until cancelled; start again from STATE when the log is not what it was."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.roster.run())
                group.create_task(self._work())
        except (asyncio.CancelledError, Exception):
            await self.roster.leave()
            raise

    async def _work(self) -> None:
        await self.roster.greeted.wait()
        while True:
            try:
                await self._share_work()
            except* StaleError as errors:
                log.warning(
                    "log changed under the worker; starting again from STATE",
                    reason=_reason(errors),
                )
            except* UnavailableError as errors:
                log.warning("log unavailable; starting again", reason=_reason(errors))
            self._session = self._next = self._next_task = None
            self._in_charge = False
            self._missing_since_ms = self._surplus_since_ms = None
            self.roster.nudge()
            self.counts.restarts += 1
            await self._clock.sleep_ms(jittered(RESTART_DELAY_MS))

    # What others may ask

    @property
    def sequence(self) -> int:
        """The last message of the log that was folded; 0 before the first."""
        return 0 if self._session is None else self._session.machine.fleet.sequence

    @property
    def behind(self) -> int:
        """How many messages were on the log some seconds ago and had not been read."""
        return 0 if self._session is None else self._session.behind

    @property
    def owned(self) -> frozenset[int]:
        """The shards that it decides for."""
        return frozenset() if self._session is None else self._session.machine.owned

    @property
    def caught_up(self) -> bool:
        """It has read up to where the log ended when it started, and decides."""
        return self._session is not None and self._in_charge

    @property
    def settled(self) -> bool:
        """Nothing of its own is to be done or on its way, that is what the statuses say, and no shard comes or goes."""
        if self._session is None or not self.caught_up or self._next is not None:
            return False
        return self._session.settled

    def statuses(self) -> dict[SetKey, Status]:
        """Return the statuses as the log has them, of the sets that it knows."""
        if self._session is None:
            return {}
        sets = self._session.machine.fleet.sets
        return {key: state.status for key, state in sorted(sets.items()) if state.status}

    async def wait_changed(self) -> None:
        """Wait until something was folded or written."""
        await self._changed.wait()

    async def wait_settled(self, sequence: int) -> None:
        """Wait until everything up to a place in the log was folded and nothing is left to do."""
        while not (self.sequence >= sequence and self.settled):
            await self.wait_changed()

    def _notify(self) -> None:
        """Wake up everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()
        if self._next is not None and self._next.caught_up:
            self._shares_changed.set()

    def _standing(self) -> Standing:
        session = self._session
        if session is None or not session.caught_up:
            return Standing()
        machine = session.machine
        return Standing(
            ready=True,
            shards=machine.engaged,
            holds=session.shards,
            sequence=machine.fleet.sequence,
            behind=session.behind,
        )

    # Sharing

    async def _share_work(self) -> None:
        """Run sessions, one after the other and for a while two, until the log cannot be read on."""
        async with asyncio.TaskGroup() as group:
            session = Session(self._means, self._all or self.roster.peers.first_share())
            self._session = session
            task = group.create_task(session.run())
            while not session.caught_up:
                await self.wait_changed()
            self.roster.nudge()
            while True:
                self._shares_changed.clear()
                wait_ms = self._apportion(group)
                successor, successor_task = self._next, self._next_task
                if successor is not None and successor_task is not None and successor.caught_up:
                    if await self._replace(successor):
                        task.cancel()
                        task = successor_task
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                        await self._shares_changed.wait()

    def _apportion(self, group: asyncio.TaskGroup) -> int | None:
        """Decide for what is ours now, and see to it that we know what ought to be.

        Returns:
            After how many milliseconds to look again, if nothing happens before; ``None``: not at all.
        """
        session = self._session
        if session is None:
            return None
        now_ms = monotonic_ms()
        waits = [self._take_charge(session, now_ms)]
        peers = self.roster.peers
        # What is meant for another worker is kept until that one holds it, or it would be nobody's meanwhile.
        wanted = (self._all or peers.wanted()) | peers.owned(session.shards)
        missing, surplus = wanted - session.shards, session.shards - wanted
        if not missing:
            self._missing_since_ms = None
        if not surplus:
            self._surplus_since_ms = None
        if self._next is not None and not _helps(self._next.shards, session.shards, wanted):
            self._give_up_next()  # others were only late, or have gone meanwhile
        if self._next is None and missing:
            self._missing_since_ms = self._missing_since_ms or now_ms
            waits.append(self._begin_next(group, wanted, self._missing_since_ms + GATHER_MS))
        elif self._next is None and surplus:
            self._surplus_since_ms = self._surplus_since_ms or now_ms
            waits.append(self._begin_next(group, wanted, self._surplus_since_ms + SHED_AFTER_MS))
        return min((wait for wait in waits if wait is not None), default=None)

    def _take_charge(self, session: Session, now_ms: int) -> int | None:
        """Decide for all that is ours and that nobody else has still in hand; returns after how long to look again."""
        peers = self.roster.peers
        owned = peers.owned(session.shards)
        claimed = (owned - session.machine.owned) & peers.claimed()
        since_ms = {shard: self._claimed_since_ms.get(shard, now_ms) for shard in claimed}
        self._claimed_since_ms = since_ms
        waits_ms = [CLAIM_WAIT_MS - (now_ms - since_ms[shard]) for shard in claimed]
        held_back = {shard for shard in claimed if now_ms - since_ms[shard] < CLAIM_WAIT_MS}
        if owned - held_back != session.machine.owned:
            session.own(owned - held_back)
            log.debug("decides for", worker=self.name, shards=sorted(session.machine.owned))
            self.roster.nudge()
        self._in_charge = True
        self._notify()
        return min((wait_ms for wait_ms in waits_ms if wait_ms > 0), default=None)

    def _begin_next(
        self, group: asyncio.TaskGroup, shards: frozenset[int], from_ms: int
    ) -> int | None:
        """Begin to read for another session, or say after how long to do so."""
        wait_ms = max(from_ms, self._next_from_ms) - monotonic_ms()
        if wait_ms > 0:
            return wait_ms
        log.debug("reads for", worker=self.name, shards=sorted(shards))
        self._next = Session(self._means, shards, self._session)
        self._next_task = group.create_task(self._run_next(self._next))
        return None

    async def _run_next(self, session: Session) -> None:
        """Run a session that may fail as long as the one before it goes on."""
        try:
            await session.run()
        except* UnavailableError as errors:
            if session is self._session:
                raise
            if session is self._next:  # and was not given up while it failed
                log.warning("shares not read; trying again", reason=_reason(errors))
                self._next = self._next_task = None
                self._next_from_ms = monotonic_ms() + jittered(RESTART_DELAY_MS)
                self._shares_changed.set()

    def _give_up_next(self) -> None:
        if self._next_task is not None:
            self._next_task.cancel()
        self._next = self._next_task = None

    async def _replace(self, successor: Session) -> bool:
        """Let a session take the place of the present one, once that has nothing on its way.

        Returns:
            Whether it has: it may fail meanwhile, and then the present one goes on.
        """
        session = self._session
        if session is not None:
            session.own(frozenset())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LET_GO_MS / 1000):
                    while session.writing:
                        await self.wait_changed()
        if self._next is not successor:
            return False
        self._session, self._next, self._next_task = successor, None, None
        self._claimed_since_ms.clear()
        self.counts.handovers += 1
        self.roster.nudge()
        return True


def _checked(name: str) -> str:
    """Refuse a name with which nobody could read this worker's decisions."""
    is_text = not any("\ud800" <= character <= "\udfff" for character in name)
    if not (is_text and 1 <= len(name) <= NAME_LENGTH_MAX):
        message = f"worker: name is {name[:NAME_LENGTH_MAX]!r}; choose 1 to {NAME_LENGTH_MAX} characters of Unicode"
        raise ConfigurationError(message)
    return name


def _helps(shards: frozenset[int], present: frozenset[int], wanted: frozenset[int]) -> bool:
    """Say whether a session with some shards is better than the present one: it must lose nothing that is wanted."""
    if (present & wanted) - shards:
        return False
    missing = wanted - present
    return bool(missing & shards) if missing else shards < present


def _reason(error: BaseException) -> str:
    """Say what the first error in a group was."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
