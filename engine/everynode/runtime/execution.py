"""Commands of one backend: taken from the log, checked, carried out by its adapter, and answered.

Run by ``runtime.host``. A command comes again until it is acknowledged, and that is when its outcome is on the log.
So none is lost; one that was carried out may be carried out again, which adapters make harmless. What concerns one set
on one node happens one after the other, in the order of the log; everything else side by side.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from everynode import wire
from everynode.core.commands import (
    COMMANDS,
    AdoptPod,
    Command,
    CreatePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.events import NodeObserved
from everynode.core.values import SetKey
from everynode.errors import (
    InvariantError,
    MalformedMessageError,
    OutcomeUnknownError,
    StaleError,
    UnavailableError,
)
from everynode.ports import Adapter, Clock, Delivery, Outgoing
from everynode.runtime.bus import FleetBus
from everynode.runtime.counts import Filled, HostCounts
from everynode.runtime.failures import traceback_of
from everynode.runtime.ledger import Place
from everynode.runtime.logbook import Logbook
from everynode.runtime.templates import Templates

log = structlog.get_logger(__name__)

MS_PER_SECOND = 1_000
REASON_LENGTH_MAX = 1_000
"""Characters of what a backend said that go on the log."""


@dataclass(frozen=True, kw_only=True)
class ExecutionLimits:
    """How much is done at once, and how long it is tried.

    Attributes:
        in_flight_max: Commands that the log hands out before the first of them is acknowledged.
        concurrency_max: Calls to the adapter at once. No set has more of them than an equal share, with one share
            left for a set that has none yet: calls that hang for one set are not in the way of another.
        apply_timeout_ms: How long one call may take; after that its outcome is unknown.
        tries_max: After how many tries a command has failed.
        retry_first_ms: How long to wait after the first try; twice as long after each further one.
        retry_last_ms: The longest wait.
        progress_interval_ms: How often the log hears that commands are still being worked on.
        standstill_ms_max: How long that may have been ago; after that the log may have handed them out again, and
            whatever is known here may be over.
        outcomes_remembered_max: Outcomes by which a command that comes again is answered without another call.
        unsettled_ms: How long a call that got no answer may still take effect. For so long no other pod of the set is
            made on the node.
    """

    in_flight_max: int = 2_048
    concurrency_max: int = 64
    apply_timeout_ms: int = 30_000
    tries_max: int = 5
    retry_first_ms: int = 500
    retry_last_ms: int = 30_000
    progress_interval_ms: int = 3_000  # the log waits for 10 s: delivering.ACK_WAIT_MS
    standstill_ms_max: int = 8_000
    outcomes_remembered_max: int = 10_000
    unsettled_ms: int = 10_000


_Message = tuple[int, str]
"""Sequence and id of a command. What is decided again, long after, has the same id and is to be carried out again."""


@dataclass(slots=True, eq=False)
class _Task:
    """One command in hand."""

    delivery: Delivery
    command: Command
    place: Place

    @property
    def message(self) -> _Message:
        """Tells it from another one of the same id; when it comes again, it is the same."""
        return self.delivery.received.sequence, self.command.id


class Execution:
    """Carries out the commands of one backend while ``run`` runs.

    Args:
        bus: The fleet's log.
        adapter: Who carries them out.
        logbook: What the log knows of the backend, and where outcomes go.
        clock: Time to wait by.
        limits: How much and how long.
        counts: Where to count.
        doubt: Called when the adapter had better list everything again.
    """

    def __init__(
        self,
        *,
        bus: FleetBus,
        adapter: Adapter,
        logbook: Logbook,
        clock: Clock,
        limits: ExecutionLimits,
        counts: HostCounts,
        doubt: Callable[[], None],
    ) -> None:
        """Prepare."""
        self._bus = bus
        self._adapter = adapter
        self._logbook = logbook
        self._ledger = logbook.ledger
        self._templates = Templates(bus, bus.subjects)
        self._clock = clock
        self._limits = limits
        self._counts = counts
        self._doubt = doubt
        self._queue: asyncio.Queue[_Task] = asyncio.Queue(limits.in_flight_max)
        self._busy: dict[Place, deque[_Task]] = {}
        self._calls: Counter[SetKey] = Counter()
        self._parked: dict[SetKey, deque[_Task]] = {}
        self._unsettled: dict[Place, dict[str, float]] = {}  # until when, by the pod's name
        self._in_hand: dict[_Task, None] = {}  # in the order in which they came
        self._answered: OrderedDict[_Message, Outcome] = OrderedDict()
        self._to_acknowledge: list[_Task] = []
        self._stored = asyncio.Event()
        self._reported_s = 0.0

    async def run(self) -> None:
        """Carry out commands until cancelled; those in hand are given back then.

        Raises:
            StaleError: This process stood still for so long that somebody else may have its commands now.
        """
        self._reported_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read())
                group.create_task(self._acknowledge())
                group.create_task(self._report_progress())
                for _ in range(self._limits.concurrency_max):
                    group.create_task(self._work())
        finally:
            for task in list(self._in_hand):
                await task.delivery.nak(0)

    def queues(self) -> dict[str, Filled]:
        """How full its queues are."""
        limits = self._limits
        return {
            "commands_in_hand": Filled(len(self._in_hand), limits.in_flight_max),
            "commands_waiting": Filled(self._queue.qsize(), limits.in_flight_max),
            "commands_parked": Filled(sum(map(len, self._parked.values())), limits.in_flight_max),
            "calls": Filled(self._calls.total(), limits.concurrency_max),
            "outcomes_remembered": Filled(len(self._answered), limits.outcomes_remembered_max),
        }

    # --- from the log -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        deliveries = self._bus.commands(self._adapter.backend, self._limits.in_flight_max)
        async with aclosing(deliveries):
            async for delivery in deliveries:
                task = self._open(delivery)
                if task is None:
                    await delivery.ack()
                else:
                    self._in_hand[task] = None
                    await self._queue.put(task)

    def _open(self, delivery: Delivery) -> _Task | None:
        """Read a command; one that cannot be read is reported, and nothing else happens to it."""
        received = delivery.received
        try:
            command = wire.decode_from(self._bus.subjects, received.subject, received.payload)
        except MalformedMessageError as error:
            self._counts.malformed += 1
            log.warning(
                "command refused",
                subject=received.subject,
                sequence=received.sequence,
                reason=str(error),
            )
            return None
        if not isinstance(command, COMMANDS):
            return None  # cannot be: nothing else has these subjects
        return _Task(delivery, command, Place(command.node_key, command.daemonset_uid))

    # --- carrying out -------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Take commands one after the other; leave those for a busy place to whoever is busy there."""
        while True:
            task = await self._queue.get()
            key = task.command.set_key
            if key in self._parked or self._calls[key] >= self._share(key):
                self._parked.setdefault(key, deque()).append(task)
                continue
            self._calls[key] += 1
            await self._work_at(task)
            while key in self._parked and self._calls[key] <= self._share(key):
                await self._work_at(self._unpark(key))
            self._calls[key] -= 1
            if not self._calls[key]:
                del self._calls[key]

    def _share(self, key: SetKey) -> int:
        """Say how many calls a set may have in hand now."""
        sets = len(self._calls.keys() | {key}) + 1
        return max(1, self._limits.concurrency_max // sets)

    def _unpark(self, key: SetKey) -> _Task:
        parked = self._parked[key]
        task = parked.popleft()
        if not parked:
            del self._parked[key]
        return task

    async def _work_at(self, task: _Task) -> None:
        """Carry out a command, and what has come for the same place meanwhile, one after the other."""
        waiting = self._busy.get(task.place)
        if waiting is not None:
            waiting.append(task)
            return
        waiting = self._busy[task.place] = deque()
        await self._try(task)
        while waiting:
            await self._try(waiting.popleft())
        del self._busy[task.place]

    async def _try(self, task: _Task) -> None:
        """Carry out one command and answer it, or see to it that it comes again."""
        known = self._answered.get(task.message)
        if known is not None:
            self._counts.repeated += 1
            self._answer(task, known)
            return
        try:
            if task.delivery.delivery_count > 1 and await self._answered_before(task):
                self._counts.repeated += 1
                self._to_acknowledge.append(task)
                self._stored.set()
                return
            outcome = await self._carry_out(task)
        except StaleError:
            raise
        except UnavailableError as error:
            await self._try_again_later(task, str(error), error.retry_after_ms)
        except OutcomeUnknownError as error:
            self._leave_unsettled(task)
            await self._try_again_later(task, str(error), None)
        except TimeoutError:
            self._leave_unsettled(task)
            text = f"no answer within {self._limits.apply_timeout_ms} ms"
            await self._try_again_later(task, text, None)
        except Exception as error:  # noqa: BLE001 - a bug in an adapter stops nobody else (L3)
            log.error(  # noqa: TRY400 - see failures
                "adapter failed on a command",
                subject=task.delivery.received.subject,
                traceback=traceback_of(error),
            )
            self._leave_unsettled(task)
            await self._try_again_later(task, f"{type(error).__name__}: {error}", None)
        else:
            self._counts.outcomes[outcome.result] += 1
            self._answer(task, outcome)

    async def _answered_before(self, task: _Task) -> bool:
        """Say whether the log has this command's outcome: a host that is gone stored it and could not say so."""
        subject = self._bus.subjects.of(outcome_of(task.command, "done"))
        received = await self._bus.last(subject)
        if received is None or received.sequence <= task.delivery.received.sequence:
            return False
        try:
            wire.decode_from(self._bus.subjects, subject, received.payload)
        except MalformedMessageError:
            return False
        return True

    async def _carry_out(self, task: _Task) -> Outcome:
        command = task.command
        if self._logbook.time_ms() >= command.expires_ms:
            return outcome_of(command, "superseded", "it has expired")
        objection = await self._objection(command, task)
        if objection:
            return outcome_of(command, "superseded", objection)
        if isinstance(command, CreatePod):
            command = replace(command, template=await self._templates.of(command))
        self._check_moving()
        outcome = await self._apply(command)
        if outcome.id != command.id:
            raise InvariantError(f"the adapter answered command {command.id} with {outcome.id}")
        if outcome.result == "done" and isinstance(command, CreatePod):
            self._ledger.expect(command.pod_key, task.place, outcome.pod_uid)
        elif outcome.result == "done" and isinstance(command, AdoptPod):
            self._ledger.expect(command.pod_key, task.place, command.pod_uid)
        return outcome

    async def _apply(self, command: Command) -> Outcome:
        began_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._limits.apply_timeout_ms / MS_PER_SECOND):
                return await self._adapter.apply(command)
        finally:
            self._counts.applied.add(asyncio.get_running_loop().time() - began_s)

    async def _objection(self, command: Command, task: _Task) -> str:
        """Say why a command is no longer wanted; empty if it is.

        It may be handed out late, when its pod has come and gone or changed hands, or its node has another one: S1 is
        kept here.

        Raises:
            UnavailableError: It is not known whether the node has a pod: a list is to say so.
        """
        match command:
            case CreatePod():
                if self._ledger.has_gone_since(command.pod_key, task.delivery.received.sequence):
                    return f"pod {command.pod} has gone since this was decided"
                return self._place_taken(command, task) or await self._node_changed(command)
            case AdoptPod():
                return self._place_taken(command, task)
            case ReleasePod():
                return ""  # a pod that is not its own is left alone by the adapter
            case _:
                known = self._ledger.pods.get(command.pod_key)
                is_meant = known is not None and known.uid == command.pod_uid
                if known is not None and is_meant and known.set_key != command.set_key:
                    return f"pod {command.pod} has changed hands since this was decided"
                return ""

    def _place_taken(self, command: CreatePod | AdoptPod, task: _Task) -> str:
        """Say which live pod has the place; a second one is for a create into slot 1, of another revision."""
        self._check_settled(command, task.place)
        neighbours = self._ledger.neighbours(task.place, command.pod)
        slot, revision = 0, None
        if isinstance(command, CreatePod):
            slot, revision = command.slot, command.revision
        for key in neighbours:
            if self._ledger.is_awaited(key):
                self._doubt()
                raise UnavailableError(f"pod {key.name} may be there, and is not observed yet")
            if len(neighbours) > slot or self._ledger.pods[key].revision == revision:
                return f"node {command.node} has pod {key.name} already"
        return ""

    def _leave_unsettled(self, task: _Task) -> None:
        """Note that a call may still put a pod in its place: nobody has said that it will not."""
        if not isinstance(task.command, CreatePod | AdoptPod):
            return
        now_s = asyncio.get_running_loop().time()
        for place in [
            place for place, pods in self._unsettled.items() if max(pods.values()) <= now_s
        ]:
            del self._unsettled[place]
        until_s = now_s + self._limits.unsettled_ms / MS_PER_SECOND
        self._unsettled.setdefault(task.place, {})[task.command.pod] = until_s

    def _check_settled(self, command: CreatePod | AdoptPod, place: Place) -> None:
        """Make sure that no call for another pod may still take effect in the same place (S1).

        Raises:
            UnavailableError: One may, for a while.
        """
        pods = self._unsettled.get(place, {})
        until_s = max((until for pod, until in pods.items() if pod != command.pod), default=0.0)
        wait_ms = int((until_s - asyncio.get_running_loop().time()) * MS_PER_SECOND)
        if wait_ms > 0:
            raise UnavailableError(
                "another pod may still be made there: a call had no answer", wait_ms
            )

    async def _node_changed(self, command: CreatePod) -> str:
        node = self._ledger.nodes.get(command.node_key)
        uid = node.uid if node is not None else await self._uid_on_the_log(command)
        return "" if uid == command.node_uid else f"node {command.node} is not the node that it was"

    async def _uid_on_the_log(self, command: CreatePod) -> str:
        """Look up a node that has not been read back yet, or is gone."""
        subject = self._bus.subjects.of_node(command.node_key)
        received = await self._bus.last(subject)
        if received is None:
            return ""
        try:
            message = wire.decode_from(self._bus.subjects, subject, received.payload)
        except MalformedMessageError:
            return ""
        return message.node.uid if isinstance(message, NodeObserved) else ""

    # --- answering ----------------------------------------------------------------------------------------------------

    async def _try_again_later(self, task: _Task, reason: str, retry_after_ms: int | None) -> None:
        tries = task.delivery.delivery_count
        if tries >= self._limits.tries_max:
            received = task.delivery.received
            log.error(
                "command given up",
                subject=received.subject,
                sequence=received.sequence,
                tries=tries,
                reason=reason,
            )
            self._counts.dead_lettered += 1
            self._counts.outcomes["failed"] += 1
            self._answer(task, outcome_of(task.command, "failed", reason))
            return
        self._counts.retried += 1
        self._in_hand.pop(task, None)
        await task.delivery.nak(max(self._delay_ms(tries), retry_after_ms or 0))

    def _delay_ms(self, tries: int) -> int:
        """How long to wait after so many tries: twice as long each time, and spread."""
        longest_ms: int = min(
            self._limits.retry_first_ms << min(tries - 1, 16), self._limits.retry_last_ms
        )
        return longest_ms // 2 + random.randrange(longest_ms // 2 + 1)  # noqa: S311 - no secret

    def _answer(self, task: _Task, outcome: Outcome) -> None:
        """Put the outcome on its way to the log; once it is there, the command is acknowledged."""
        if len(outcome.message) > REASON_LENGTH_MAX:
            outcome = replace(outcome, message=outcome.message[:REASON_LENGTH_MAX])
        self._remember(task, outcome)
        subject = self._bus.subjects.of(outcome)

        def stored(_: int) -> None:
            self._to_acknowledge.append(task)
            self._stored.set()

        self._logbook.outbox.put(Outgoing(subject, wire.encode(outcome)), stored)

    def _remember(self, task: _Task, outcome: Outcome) -> None:
        self._answered[task.message] = outcome
        if len(self._answered) > self._limits.outcomes_remembered_max:
            self._answered.popitem(last=False)

    async def _acknowledge(self) -> None:
        while True:
            await self._stored.wait()
            self._stored.clear()
            tasks, self._to_acknowledge = self._to_acknowledge, []
            for task in tasks:
                self._in_hand.pop(task, None)
                await task.delivery.ack()

    async def _report_progress(self) -> None:
        """Tell the log that what is in hand is still worked on, so that it is not handed out again."""
        while True:
            await self._clock.sleep_ms(self._limits.progress_interval_ms)
            self._check_moving()
            self._reported_s = asyncio.get_running_loop().time()
            for task in list(self._in_hand):
                await task.delivery.in_progress()

    def _check_moving(self) -> None:
        """Make sure that the log still waits for us; what it sent before a standstill looks as new as ever (S1, S5)."""
        still_ms = (asyncio.get_running_loop().time() - self._reported_s) * MS_PER_SECOND
        if still_ms > self._limits.standstill_ms_max:
            raise StaleError(f"stood still for {still_ms:.0f} ms; others may have the commands")
