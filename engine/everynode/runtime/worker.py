"""The driver around a worker machine: reads the log, folds it, writes what the machine proposes.

All that is decided is decided in ``core.machine``; this module only moves messages, waits and retries. It holds nothing
that it cannot read again: killed at any point and started anew, it reads STATE and the last minutes of the log and
goes on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from everynode import wire
from everynode.core.commands import CreatePod, DeletePod
from everynode.core.decision import Proposal
from everynode.core.events import NoticeReported, StatusReported, Tick
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import FleetState, Record
from everynode.core.values import SetKey, Status
from everynode.errors import (
    OutcomeUnknownError,
    RefusedError,
    StaleError,
    UnavailableError,
)
from everynode.ports import Clock, Outgoing, Received
from everynode.runtime.bus import FleetBus
from everynode.runtime.clock import SystemClock
from everynode.runtime.failures import traceback_of
from everynode.runtime.view import last_good

log = structlog.get_logger(__name__)

PROPOSALS_IN_FLIGHT_MAX = 64
STATUS_INTERVAL_MS = 200
"""How many messages in a row on one subject may be well formed and yet not usable before it counts as empty."""
RETRY_FIRST_MS = 50
RETRY_LAST_MS = 5_000
TICK_INTERVAL_MS = 100
SPOILED_MESSAGES_MAX = 1_000  # unusable messages that wait to be replaced by the last good ones


@dataclass
class WorkerCounts:
    """What a worker has done since it started.

    Attributes:
        decisions: Decisions of its own that the log took.
        creates: Creates in them.
        deletes: Deletes in them.
        refused: Proposals that the log refused because another decision came first.
        malformed: Messages that could not be used.
        restarts: How often it has started again from STATE.
    """

    decisions: int = 0
    creates: int = 0
    deletes: int = 0
    refused: int = 0
    malformed: int = 0
    restarts: int = 0


class _Position(NamedTuple):
    start: int
    end: int


@dataclass
class _Session:
    """One run from STATE on: a machine, and the tasks that write for it."""

    machine: WorkerMachine
    caught_up_at: int
    group: asyncio.TaskGroup


class Worker:
    """Decides for a fleet until it is cancelled.

    Args:
        bus: The fleet's log.
        name: Who this is, in decisions and logs.
        limits: What it allows itself.
        clock: Time to wait by.
    """

    def __init__(
        self,
        bus: FleetBus,
        name: str,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Prepare; nothing is read before ``run``."""
        self.name = name
        self.counts = WorkerCounts()
        self._bus = bus
        self._limits = limits or Limits()
        self._limits.check()
        self._clock = clock or SystemClock()
        self._session: _Session | None = None
        self._changed = asyncio.Event()
        self._writing = 0
        self._folded_at_ms = 0
        self._spoiled: asyncio.Queue[Received] = asyncio.Queue(SPOILED_MESSAGES_MAX)
        # Nodes and pods are said again by their adapter, statuses by the next report.
        kinds = ("daemonset", "revision")
        self._restated = tuple(f"{bus.subjects.prefix}.{kind}." for kind in kinds)

    async def run(self) -> None:
        """Work until cancelled; start again from STATE when the log is not what it was."""
        while True:
            try:
                await self._run_session()
            except* StaleError as errors:
                reason = str(errors.exceptions[0])
                log.warning(
                    "log changed under the worker; starting again from STATE", reason=reason
                )
            except* UnavailableError as errors:
                log.warning("log unavailable; starting again", reason=str(errors.exceptions[0]))
            self.counts.restarts += 1
            await self._clock.sleep_ms(_jittered(RETRY_LAST_MS // 5))

    # What others may ask

    @property
    def sequence(self) -> int:
        """The last message of the log that was folded; 0 before the first."""
        return 0 if self._session is None else self._session.machine.fleet.sequence

    @property
    def caught_up(self) -> bool:
        """It has read up to where the log ended when it started, and decides."""
        return self._session is not None and self.sequence >= self._session.caught_up_at

    @property
    def settled(self) -> bool:
        """Nothing is to be done, nothing is on its way, and that is what the statuses say."""
        if self._session is None or not self.caught_up or self._writing:
            return False
        return self._session.machine.settled

    def statuses(self) -> dict[SetKey, Status]:
        """Return the statuses as the log has them."""
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

    # One session

    async def _run_session(self) -> None:
        machine = WorkerMachine(self.name, self._bus.subjects.shards, self._limits)
        shards = list(range(machine.shards))
        position = await self._load(machine, shards)
        async with asyncio.TaskGroup() as group:
            self._writing = 0
            self._session = _Session(machine, position.end, group)
            group.create_task(self._report_statuses(machine))
            group.create_task(self._tick(machine))
            group.create_task(self._restate())
            subjects = self._bus.subjects.followed_by_worker(shards)
            async for chunk in self._bus.follow(subjects, position.start):
                for received in chunk:
                    self._fold(machine, received)
                if chunk:
                    self._folded_at_ms = self._clock.now_ms()
                else:
                    # Nothing of ours is left before the end: what follows it is for others.
                    machine.caught_up(max(machine.fleet.sequence, position.end))
                self._decide()
                self._notify()

    async def _load(self, machine: WorkerMachine, shards: list[int]) -> _Position:
        """Read STATE; returns from where to follow the log, and where it ended just before."""
        _, end, _ = await self._bus.log_position()
        last = 0
        async for chunk in self._bus.read_state(self._bus.subjects.loaded_by_worker(shards)):
            for received in chunk:
                last = max(last, received.sequence)
                await self._load_one(machine, received)
        time_ms = await self._bus.time_of(last) if last else None
        if time_ms is None:
            return _Position(last + 1, end)
        start = await self._bus.sequence_at(time_ms - self._limits.horizon_ms)
        return _Position(min(start, last + 1), end)

    async def _load_one(self, machine: WorkerMachine, received: Received) -> None:
        """Take in what STATE has of a subject; if that cannot be used, the last before it in LOG that can."""
        if not self._took_in(machine.load, received):
            good = await last_good(self._bus, received, self._usable)
            if good is not None:
                self._took_in(machine.load, good)

    def _fold(self, machine: WorkerMachine, received: Received) -> None:
        if not self._took_in(machine.fold, received):
            machine.passed(received.sequence)

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

    async def _restate(self) -> None:
        """Say again what was last said well, where something that cannot be used has taken its place.

        Else STATE would lose it: a worker that starts could find nothing there, once LOG has let go of the old.
        """
        while True:
            spoiled = await self._spoiled.get()
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

    def _report_malformed(self, received: Received, reason: str) -> None:
        self.counts.malformed += 1
        if received.subject.startswith(self._restated) and not self._spoiled.full():
            self._spoiled.put_nowait(received)
        log.warning(
            "message refused",
            subject=received.subject,
            sequence=received.sequence,
            reason=reason,
        )

    def _decide(self) -> None:
        """Write what the machine proposes; each proposal is on its way by itself."""
        session = self._session
        if session is None or not self.caught_up:
            return
        room = PROPOSALS_IN_FLIGHT_MAX - self._writing
        self._report_faults(session.machine)
        for proposal in session.machine.proposals(room) if room > 0 else ():
            self._writing += 1
            session.group.create_task(self._write_decision(session.machine, proposal))

    def _report_faults(self, machine: WorkerMachine) -> None:
        for key, error in sorted(machine.faults().items()):
            log.error("set passed over", daemonset=str(key), error=traceback_of(error))

    async def _write_decision(self, machine: WorkerMachine, proposal: Proposal) -> None:
        batch = (proposal.decision, *proposal.others)
        try:
            messages = [self._outgoing(message) for message in batch]
            last = await self._bus.publish_fenced(messages, proposal.fence)
        except StaleError as error:
            self.counts.refused += 1
            if error.last_sequence is None:  # it raced with another batch: let that one come in
                await self._clock.sleep_ms(_jittered(RETRY_FIRST_MS))
            machine.refused(proposal.key, error.last_sequence)
        except (UnavailableError, OutcomeUnknownError) as error:
            # If it was stored after all, the fence refuses the next try until it has been folded.
            log.warning("decision not written", daemonset=str(proposal.key), reason=str(error))
            await self._clock.sleep_ms(_jittered(RETRY_LAST_MS // 5))
            machine.refused(proposal.key, None)
        except RefusedError as error:
            log.warning("decision refused", daemonset=str(proposal.key), reason=str(error))
            await self._clock.sleep_ms(_jittered(RETRY_LAST_MS))
            machine.refused(proposal.key, None)
        else:
            self._count(proposal)
            machine.accepted(proposal.key, last)
        self._writing -= 1
        self._decide()
        self._notify()

    def _outgoing(self, message: wire.AnyMessage) -> Outgoing:
        ttl = self._bus.tombstone_ttl_seconds if isinstance(message, wire.TOMBSTONES) else None
        return Outgoing(self._bus.subjects.of(message), wire.encode(message), ttl)

    def _count(self, proposal: Proposal) -> None:
        self.counts.decisions += 1
        for message in proposal.others:
            self.counts.creates += isinstance(message, CreatePod)
            self.counts.deletes += isinstance(message, DeletePod)

    async def _report_statuses(self, machine: WorkerMachine) -> None:
        """Write statuses that have changed, and notices: at most one per set and interval, and always the last one."""
        while True:
            await self._clock.sleep_ms(STATUS_INTERVAL_MS)
            statuses = machine.reports() if self.caught_up else []
            notices = machine.notices() if self.caught_up else []
            self._notify()
            if not statuses and not notices:
                continue
            self._writing += 1
            reports = [
                *(self._outgoing(StatusReported(status=status)) for status in statuses),
                *(self._outgoing(NoticeReported(notice=notice)) for notice in notices),
            ]
            try:
                await self._bus.publish(reports)
            except (UnavailableError, OutcomeUnknownError) as error:
                log.warning("statuses not written", reason=str(error))
                for status in statuses:
                    machine.unreported(status)
                for notice in notices:
                    machine.untold(notice)
            self._writing -= 1
            self._notify()

    async def _tick(self, machine: WorkerMachine) -> None:
        """When something is due and no message has moved the log's time there, write one that does."""
        while True:
            await self._clock.sleep_ms(TICK_INTERVAL_MS)
            due = machine.due() if self.caught_up else None
            log_time_ms = machine.fleet.now_ms + self._clock.now_ms() - self._folded_at_ms
            if due is None or log_time_ms < due.time_ms:
                continue
            tick = Tick(shard=machine.shard(due.set_key), due_ms=due.time_ms)
            try:
                sequence = await self._bus.publish([self._outgoing(tick)])
            except (UnavailableError, OutcomeUnknownError) as error:
                log.warning("tick not written", reason=str(error))
                await self._clock.sleep_ms(_jittered(RETRY_LAST_MS // 5))
            else:
                while self.sequence < sequence:
                    await self.wait_changed()

    def _notify(self) -> None:
        """Wake up everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()


def _jittered(duration_ms: int) -> int:
    """Spread waits over half to one and a half of what was meant, so that many do not return at once."""
    return duration_ms // 2 + random.randrange(duration_ms + 1)  # noqa: S311 - no secret
