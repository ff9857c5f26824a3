"""One run of a worker from STATE on: a machine that knows some shards, and the tasks that read and write for it.

Used by ``worker``, which begins one, tells it for which of its shards to decide, and ends it when another one has taken
its place. All that is decided is decided in ``core.machine``; this module only moves messages, waits and retries.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import structlog

from everynode import wire
from everynode.core.commands import CreatePod, DeletePod
from everynode.core.decision import Proposal
from everynode.core.events import NoticeReported, StatusReported, Tick
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import FleetState, Record
from everynode.errors import (
    OutcomeUnknownError,
    RefusedError,
    StaleError,
    UnavailableError,
)
from everynode.ports import Clock, Outgoing, Received
from everynode.runtime.apart import read_apart
from everynode.runtime.bus import FleetBus
from everynode.runtime.clock import monotonic_ms
from everynode.runtime.counts import WorkerCounts
from everynode.runtime.failures import traceback_of
from everynode.runtime.view import last_good

log = structlog.get_logger(__name__)

PROPOSALS_IN_FLIGHT_MAX = 64
STATUS_INTERVAL_MS = 200
RETRY_FIRST_MS = 50
RETRY_LAST_MS = 5_000
TICK_INTERVAL_MS = 100
MEASURE_INTERVAL_MS = 1_000
NEVER_SURE = -1
MEASURED_ENDS = 4
"""Ends of the log that are remembered to say how far behind it is: what has been there for so many intervals and was
not read. The log says only once a second that there was nothing for us; a shorter time would always show something."""
SPOILED_MESSAGES_MAX = 1_000  # unusable messages that wait to be replaced by the last good ones


@dataclass(frozen=True)
class Means:
    """What a worker gives to each of its sessions.

    Attributes:
        changed: Called when something was folded or written.
        let_go: Called when the last proposal is answered that was on its way for a shard of another worker.
    """

    bus: FleetBus
    clock: Clock
    limits: Limits
    name: str
    counts: WorkerCounts
    changed: Callable[[], None]
    let_go: Callable[[], None]


class _Position(NamedTuple):
    start: int
    end: int


class Session:
    """Reads and writes for a machine, from STATE on until it is cancelled.

    Args:
        means: What it works with.
        shards: What it is to know of.
        predecessor: The session of this worker that it is to take the place of.
    """

    def __init__(
        self, means: Means, shards: frozenset[int], predecessor: Session | None = None
    ) -> None:
        """Decide for nothing yet."""
        self.shards = shards
        before = None if predecessor is None else predecessor.machine
        self.machine: WorkerMachine = WorkerMachine(
            means.name, means.bus.subjects.shards, means.limits, before
        )
        self.machine.own(frozenset())
        self.caught_up = False
        """It has read up to where the log ended when it started, and can decide."""
        self.writing = 0
        self._means = means
        self._bus, self._clock, self._limits = means.bus, means.clock, means.limits
        self._counts = means.counts
        self._group: asyncio.TaskGroup | None = None
        self._letting_go = False
        self._folded_at_ms = 0
        self._ends: deque[int] = deque(maxlen=MEASURED_ENDS)
        self._read_to = 0
        self._last_read: Received | None = None
        self._sure_epoch = NEVER_SURE
        """The connection over which the log was found to have what has been read."""
        self._spoiled: dict[str, Received] = {}
        self._to_restate = asyncio.Event()
        # Nodes and pods are said again by their adapter, statuses by the next report.
        prefix = f"{self._bus.subjects.prefix}."
        self._restated = tuple(f"{prefix}{kind}." for kind in ("daemonset", "revision"))
        # For what has been written long ago; of what is new the server sends us only our own.
        self._filters = self._bus.subjects.read_by_worker(sorted(shards))
        self._is_whole = len(shards) == self._bus.subjects.shards
        self._tokens = {wire.ORPHANS, *map(str, shards)}

    @property
    def behind(self) -> int:
        """How many messages were on the log some seconds ago and had not been read, were they for us or not."""
        return max(self._ends[0] - self._read_to, 0) if self._ends else 0

    @property
    def settled(self) -> bool:
        """Nothing is to be done, nothing is on its way, and that is what the statuses say."""
        return self.caught_up and not self.writing and self.machine.settled

    def own(self, shards: frozenset[int]) -> None:
        """Decide for these of its shards from now on, and for no others."""
        if shards == self.machine.owned:
            return
        self.machine.own(shards)
        self._letting_go = self.machine.engaged != shards
        self._to_restate.set()
        self._decide()

    async def run(self) -> None:
        """Read STATE, read the log to its end, then follow it and write, until cancelled.

        Raises:
            StaleError: The log is not what it was.
            UnavailableError: It could not be read, or not over one connection.
        """
        epoch = self._bus.epoch
        position = await self._load()
        await self._catch_up(position)
        if self._bus.epoch != epoch:
            # Only the last message is compared (``_make_sure``), and the log may have grown past it again (S6).
            message = "the connection was lost while STATE and the log were read: what came first may be lost"
            raise UnavailableError(message)
        async with asyncio.TaskGroup() as group:
            self._group = group
            self.caught_up = True
            self._means.changed()
            for part in (self._report, self._tick, self._restate, self._measure):
                group.create_task(self._carry(part))
            await self._carry(self._follow)

    async def _carry(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part; once one has failed or was cancelled, no other is begun: a group that ends takes none."""
        try:
            await part()
        except BaseException:
            self._group = None
            raise

    # Reading

    async def _load(self) -> _Position:
        """Read STATE; returns from where to follow the log, and where it ended just before."""
        _, end, _ = await self._bus.log_position()
        last = 0
        for subject in self._filters:
            async with aclosing(self._bus.read_state([subject])) as chunks:
                async for whole in chunks:
                    chunk = [received for received in whole if self._concerns(received.subject)]
                    for received in chunk:
                        last = max(last, received.sequence)
                        await self._load_one(received)
                    self._counts.loaded += len(chunk)
        time_ms = await self._bus.time_of(last) if last else None
        if time_ms is None:
            return _Position(last + 1, end)
        start = await self._bus.sequence_at(time_ms - self._limits.horizon_ms)
        return _Position(min(start, last + 1), end)

    async def _load_one(self, received: Received) -> None:
        """Take in what STATE has of a subject; if that cannot be used, the last before it in LOG that can."""
        if not self._took_in(self.machine.load, received):
            good = await last_good(self._bus, received, self._usable)
            if good is not None:
                self._took_in(self.machine.load, good)

    def _concerns(self, subject: str) -> bool:
        """Say whether a message is about nodes, orphans or one of the shards, by its subject."""
        kind, shard = self._bus.subjects.parts(subject)
        return kind != "notice" and (kind == "node" or self._is_whole or shard in self._tokens)

    async def _catch_up(self, position: _Position) -> None:
        """Read the log to its end; that it is the end is known at once, where a follower hears of it only in silence.

        Raises:
            StaleError: The log has let go of messages faster than they were read.
        """
        # Later than where it ended before STATE was read: nothing is decided on a basis older than what STATE had (S7).
        # If it ends before that now, it has lost its end: who follows hears so (S6).
        end = max(position.end, (await self._bus.log_position()).last_sequence)
        found = None
        if len(self._filters) > 1:
            found = await read_apart(self._bus, self._filters, position.start, end, self._concerns)
        if found is None:
            everything = [self._bus.subjects.everything()]
            async with aclosing(self._bus.read_log(everything, position.start)) as chunks:
                async for chunk in chunks:
                    self._fold_all([one for one in chunk if self._concerns(one.subject)])
                    self.machine.passed(chunk[-1].sequence)
                    self._last_read = chunk[-1]
        elif found:
            self._fold_all(found)
            self._last_read = found[-1]
        first, _, _ = await self._bus.log_position()
        if first > position.end + 1:
            message = f"the log begins at {first}, and ended at {position.end} when it was begun to be read"
            raise StaleError(message)
        self.machine.caught_up(max(self.machine.fleet.sequence, end))
        self._read_to = self.machine.fleet.sequence
        self._folded_at_ms = monotonic_ms()

    async def _follow(self) -> None:
        sequence = self.machine.fleet.sequence
        subjects = self._bus.subjects.followed_by_worker(sorted(self.shards))
        async with aclosing(self._bus.follow(subjects, sequence + 1)) as chunks:
            async for chunk in chunks:
                if self._sure_epoch == NEVER_SURE:  # later on, who follows makes sure of it
                    await self._make_sure()
                if chunk:
                    self._fold_all(chunk)
                    self._last_read = chunk[-1]
                    self._folded_at_ms = monotonic_ms()
                    self._read_to = max(self._read_to, chunk[-1].sequence)
                else:
                    # Nothing of ours is left before the end: what follows it is for others.
                    self.machine.caught_up(self.machine.fleet.sequence)
                    self._read_to = max(self._read_to, *self._ends, 0)
                self._decide()
                self._means.changed()

    async def _make_sure(self) -> int:
        """Make sure, once for each connection, that the log still has what has been read.

        It may have lost its end, and may have grown past it again: nothing must be decided from what is lost (S6).

        Returns:
            The connection for which that holds.

        Raises:
            StaleError: It has something else where the last message stood that was read.
            UnavailableError: The server did not answer.
        """
        while self._sure_epoch != self._bus.epoch:
            epoch, last, read_to = self._bus.epoch, self._last_read, self.machine.fleet.sequence
            first, end, _ = await self._bus.log_position()
            is_there = last is None or await self._bus.time_of(last.sequence) == last.time_ms
            is_aged_out = last is not None and last.sequence < first
            if end < read_to or not (is_there or is_aged_out):
                at = read_to if last is None else last.sequence
                raise StaleError(f"the log has another message at {at} than was read, or none")
            self._sure_epoch = epoch
        return self._sure_epoch

    def _fold_all(self, chunk: list[Received]) -> None:
        for received in chunk:
            if not self._took_in(self.machine.fold, received):
                self.machine.passed(received.sequence)
        self._counts.folded += len(chunk)

    def _took_in(self, take: Callable[[Record], None], received: Received) -> bool:
        """Take in a message; one that cannot be used is reported, and stops nobody else."""
        try:
            message = wire.decode_from(self._bus.subjects, received.subject, received.payload)
            take(Record(received.sequence, received.time_ms, message))
        except RefusedError as error:
            self._report_malformed(received, str(error))
        except Exception as error:  # noqa: BLE001 - a bug that one message meets is not the end of a fleet (L3)
            self._report_malformed(received, traceback_of(error))
        else:
            return True
        return False

    def _usable(self, received: Received) -> bool:
        """Say whether a message can be read and would be taken in."""
        try:
            message = wire.decode_from(self._bus.subjects, received.subject, received.payload)
            FleetState(self._limits).load(Record(received.sequence, received.time_ms, message))
        except RefusedError:
            return False
        return True

    def _report_malformed(self, received: Received, reason: str) -> None:
        self._counts.malformed += 1
        if received.subject.startswith(self._restated):
            if len(self._spoiled) < SPOILED_MESSAGES_MAX or received.subject in self._spoiled:
                self._spoiled[received.subject] = received
            self._to_restate.set()
        log.warning(
            "message refused",
            subject=received.subject,
            sequence=received.sequence,
            reason=reason,
        )

    # Writing

    def _decide(self) -> None:
        """Write what the machine proposes; each proposal is on its way by itself."""
        if self._group is None:
            return
        room = PROPOSALS_IN_FLIGHT_MAX - self.writing
        for key, error in sorted(self.machine.faults().items()):
            log.error("set passed over", daemonset=str(key), error=traceback_of(error))
        for proposal in self.machine.proposals(room) if room > 0 else ():
            self.writing += 1
            self._group.create_task(self._carry(partial(self._write_decision, proposal)))

    async def _write_decision(self, proposal: Proposal) -> None:
        try:
            last = await self._store(proposal)
        except (UnavailableError, OutcomeUnknownError) as error:
            # If it was stored after all, the fence refuses the next try until it has been folded.
            log.warning("decision not written", daemonset=str(proposal.key), reason=str(error))
            await self._clock.sleep_ms(jittered(RETRY_LAST_MS // 5))
            self.machine.refused(proposal.key, None)
        except RefusedError as error:
            log.warning("decision refused", daemonset=str(proposal.key), reason=str(error))
            await self._clock.sleep_ms(jittered(RETRY_LAST_MS))
            self.machine.refused(proposal.key, None)
        else:
            if last is not None:
                self._count(proposal)
                self.machine.accepted(proposal.key, last)
        self.writing -= 1
        if self._letting_go and self.machine.engaged == self.machine.owned:
            self._letting_go = False
            self._means.let_go()
        self._decide()
        self._means.changed()

    async def _store(self, proposal: Proposal) -> int | None:
        """Write a decision with its batch; returns its last sequence, or ``None`` if another decision came first.

        Raises:
            StaleError: The log is not what it was.
            UnavailableError: Nothing was stored.
            OutcomeUnknownError: There was no answer.
        """
        messages = [self._outgoing(each) for each in (proposal.decision, *proposal.others)]
        epoch = await self._make_sure()
        try:
            return await self._bus.publish_fenced(messages, proposal.fence, epoch)
        except StaleError as error:
            self._counts.refused += 1
            await self._refused(proposal, error.last_sequence)
            return None

    async def _refused(self, proposal: Proposal, last_decision: int | None) -> None:
        """Take in that another decision came first, if it did.

        Raises:
            StaleError: The log has lost the decision that this one was based on (S6).
        """
        named = last_decision
        if named == 0 and proposal.fence:  # it has aged out, or was lost
            try:
                first, _, _ = await self._bus.log_position()
            except UnavailableError:
                named = None
            else:
                if first <= proposal.fence:
                    message = f"decision {proposal.fence} about {proposal.key} is gone from the log before its time"
                    raise StaleError(message, 0)
        if named is None:  # it raced with another batch: let that one come in
            await self._clock.sleep_ms(jittered(RETRY_FIRST_MS))
        self.machine.refused(proposal.key, named)

    def _outgoing(self, message: wire.AnyMessage) -> Outgoing:
        ttl = self._bus.tombstone_ttl_seconds if isinstance(message, wire.TOMBSTONES) else None
        return Outgoing(self._bus.subjects.of(message), wire.encode(message), ttl)

    def _count(self, proposal: Proposal) -> None:
        self._counts.decisions += 1
        for message in proposal.others:
            self._counts.creates += isinstance(message, CreatePod)
            self._counts.deletes += isinstance(message, DeletePod)

    async def _report(self) -> None:
        """Write statuses that have changed, and notices: at most one per set and interval, and always the last one."""
        machine = self.machine
        while True:
            await self._clock.sleep_ms(STATUS_INTERVAL_MS)
            statuses = machine.reports()
            notices = machine.notices()
            self._means.changed()
            if not statuses and not notices:
                continue
            self.writing += 1
            reports = [
                *(self._outgoing(StatusReported(status=status)) for status in statuses),
                *(self._outgoing(NoticeReported(notice=notice)) for notice in notices),
            ]
            stored = False
            try:
                await self._bus.publish(reports)
                stored = True
            except (UnavailableError, OutcomeUnknownError) as error:
                log.warning("statuses not written", reason=str(error))
            finally:
                if not stored:  # also if this session ends: the next one tells people
                    for status in statuses:
                        machine.unreported(status)
                    for notice in notices:
                        machine.untold(notice)
            self.writing -= 1
            self._means.changed()

    async def _tick(self) -> None:
        """When something is due and no message has moved the log's time there, write one that does."""
        machine = self.machine
        while True:
            await self._clock.sleep_ms(TICK_INTERVAL_MS)
            due = machine.due()
            log_time_ms = machine.fleet.now_ms + monotonic_ms() - self._folded_at_ms
            if due is None or log_time_ms < due.time_ms:
                continue
            tick = Tick(shard=machine.shard(due.set_key), due_ms=due.time_ms)
            try:
                sequence = await self._bus.publish([self._outgoing(tick)])
            except (UnavailableError, OutcomeUnknownError) as error:
                log.warning("tick not written", reason=str(error))
                await self._clock.sleep_ms(jittered(RETRY_LAST_MS // 5))
            else:
                while machine.fleet.sequence < sequence:
                    await self._clock.sleep_ms(TICK_INTERVAL_MS)

    async def _restate(self) -> None:
        """Say again what was last said well, where something that cannot be used has taken its place.

        Else STATE would lose it: a worker that starts could find nothing there, once LOG has let go of the old.
        """
        while True:
            await self._to_restate.wait()
            self._to_restate.clear()
            for subject, spoiled in list(self._spoiled.items()):
                if self._bus.subjects.parts(subject)[1] in map(str, self.machine.owned):
                    del self._spoiled[subject]
                    await self._say_again(spoiled)

    async def _say_again(self, spoiled: Received) -> None:
        try:
            good = await last_good(self._bus, spoiled, self._usable)
            if good is not None:
                message = wire.decode_from(self._bus.subjects, good.subject, good.payload)
                await self._bus.publish_fenced([self._outgoing(message)], spoiled.sequence)
                log.info("said again", subject=spoiled.subject, sequence=good.sequence)
        except StaleError:
            pass  # somebody has said something since
        except (UnavailableError, OutcomeUnknownError) as error:
            log.warning("not said again", subject=spoiled.subject, reason=str(error))

    async def _measure(self) -> None:
        """Ask now and then where the log ends, to be able to say how far behind it is."""
        while True:
            with contextlib.suppress(UnavailableError):
                self._ends.append((await self._bus.log_position()).last_sequence)
            await self._clock.sleep_ms(MEASURE_INTERVAL_MS)


def jittered(duration_ms: int) -> int:
    """Spread waits over half to one and a half of what was meant, so that many do not return at once."""
    return duration_ms // 2 + random.randrange(duration_ms + 1)  # noqa: S311 - no secret
