"""What the fleet says of a backend's own sets, told to its adapter: statuses, revisions, notices.

Used by ``runtime.host`` for adapters that are ``ports.Reporting``. The adapter is told the last word about everything
when this starts, then each change; of several changes in a row only the last. Notices with the same reason are joined,
so that a rollout over a thousand nodes is no thousand events. One set's reports go one after the other, and one set
that cannot be told about is in nobody else's way.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import structlog

from everynode import wire
from everynode.core.events import (
    NoticeReported,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
)
from everynode.core.notices import joined
from everynode.core.values import Notice, SetKey
from everynode.errors import (
    MalformedMessageError,
    OutcomeUnknownError,
    RefusedError,
    UnavailableError,
)
from everynode.ports import Clock, Received, Report, Reporting
from everynode.runtime.bus import FleetBus
from everynode.runtime.counts import HostCounts
from everynode.runtime.failures import traceback_of

log = structlog.get_logger(__name__)

CONCURRENT_SETS_MAX = 8
NOTICE_INTERVAL_MS = 10_000
"""How often a set's notices with the same reason are told at most; the first one at once."""
NOTICE_AGE_MAX_MS = (
    600_000  # when this starts, older ones have been told, or are of no use any more
)
AGAIN_INTERVAL_MS = 5_000
"""How often all that holds for a set is told once more at most: two who write one status would never rest (L2)."""
RETRY_FIRST_MS = 500
RETRY_LAST_MS = 30_000


class _Told:
    """What is to be told about one set."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.last: dict[str, Report] = {}  # by subject: what holds for good
        self.waiting: dict[str, Report] = {}
        self.notices: dict[str, Notice] = {}  # by reason: joined
        self.told_ms: dict[str, int] = {}  # by reason: when it was told last
        self.again_ms = -AGAIN_INTERVAL_MS  # when all of it was told once more
        self.failures = 0
        self.queued = False
        self.alarmed = False  # it will be queued when its next notice is due

    def notice_due_ms(self) -> int | None:
        """Return when the next notice is to be told; ``None`` if there is none."""
        due = (self.told_ms.get(reason, -NOTICE_INTERVAL_MS) for reason in self.notices)
        earliest = min(due, default=None)
        return None if earliest is None else earliest + NOTICE_INTERVAL_MS


class Reporter:
    """Tells one adapter while ``run`` runs.

    Args:
        bus: The fleet's log.
        adapter: Whom to tell.
        backend: Its backend, for logs.
        clock: Time to wait by.
        counts: Where to count.
    """

    def __init__(
        self,
        bus: FleetBus,
        adapter: Reporting,
        backend: str,
        clock: Clock,
        counts: HostCounts,
    ) -> None:
        """Know nothing yet."""
        self._bus = bus
        self._adapter = adapter
        self._backend = backend
        self._clock = clock
        self._counts = counts
        self._sets: dict[SetKey, _Told] = {}
        self._queue: asyncio.Queue[tuple[SetKey, _Told]] = asyncio.Queue()  # each set once
        self._started_ms = 0

    def again(self, key: SetKey) -> None:
        """Tell once more what holds for a set, not too often: somebody may have changed what the backend shows."""
        told = self._sets.get(key)
        now_ms = self._clock.now_ms()
        if told is not None and now_ms - told.again_ms >= AGAIN_INTERVAL_MS:
            told.again_ms = now_ms
            told.waiting = {**told.last, **told.waiting}
            self._enqueue(key, told)

    async def run(self) -> None:
        """Follow the log and tell, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENT_SETS_MAX):
                group.create_task(self._work(group))
            await self._follow()

    async def _follow(self) -> None:
        self._started_ms = (await self._bus.log_position()).last_time_ms
        kept = [self._bus.subjects.of_kind(kind) for kind in ("revision", "status")]
        last = 0
        async with aclosing(self._bus.read_state(kept)) as chunks:
            async for chunk in chunks:
                for received in chunk:
                    last = max(last, received.sequence)
                    self._take(received)
        subjects = [*kept, self._bus.subjects.of_kind("notice")]
        async with aclosing(self._bus.follow(subjects, last + 1)) as chunks:
            async for chunk in chunks:
                for received in chunk:
                    self._take(received)

    def _take(self, received: Received) -> None:
        try:
            message = wire.decode_from(self._bus.subjects, received.subject, received.payload)
        except MalformedMessageError:
            return  # workers report it, and say the last good one again
        match message:
            case StatusReported(status=status):
                self._keep(status.set_key, received.subject, message)
            case RevisionRecorded(revision=revision):
                self._keep(revision.set_key, received.subject, message)
            case RevisionGone():
                self._keep(message.set_key, received.subject, message)
            case StatusGone():
                self._sets.pop(message.set_key, None)  # the set is gone, and so are its pods
            case NoticeReported(notice=notice):
                if received.time_ms >= self._started_ms - NOTICE_AGE_MAX_MS:
                    self._keep_notice(notice)

    def _keep(self, key: SetKey, subject: str, report: Report) -> None:
        told = self._sets.setdefault(key, _Told())
        if isinstance(report, RevisionGone):
            told.last.pop(subject, None)
        else:
            told.last[subject] = report
        told.waiting.pop(subject, None)  # behind what waits: no status overtakes its revision
        told.waiting[subject] = report
        self._enqueue(key, told)

    def _keep_notice(self, notice: Notice) -> None:
        told = self._sets.setdefault(notice.set_key, _Told())
        earlier = told.notices.get(notice.reason)
        same_set = earlier is not None and earlier.daemonset_uid == notice.daemonset_uid
        told.notices[notice.reason] = joined(earlier, notice) if earlier and same_set else notice
        self._enqueue(notice.set_key, told)

    def _enqueue(self, key: SetKey, told: _Told) -> None:
        if not told.queued:
            told.queued = True
            self._queue.put_nowait((key, told))

    async def _work(self, group: asyncio.TaskGroup) -> None:
        while True:
            key, told = await self._queue.get()
            if self._sets.get(key) is not told:
                continue  # the set is gone; there may be another one of its name
            try:
                await self._tell(told)
            except (UnavailableError, OutcomeUnknownError) as error:
                told.failures += 1
                self._counts.reports_failed += 1
                wait_ms = max(_delay_ms(told.failures), getattr(error, "retry_after_ms", None) or 0)
                log.warning(
                    "not shown in the backend, for now",
                    backend=self._backend,
                    daemonset=str(key),
                    reason=str(error),
                    wait_ms=wait_ms,
                )
                group.create_task(self._requeue_later(key, told, wait_ms))
                continue  # it stays queued
            told.failures = 0
            due_ms = told.notice_due_ms()
            told.queued = False
            if told.waiting:
                self._enqueue(key, told)
            elif due_ms is not None and not told.alarmed:
                told.alarmed = True
                wait_ms = max(0, due_ms - self._clock.now_ms())
                group.create_task(self._enqueue_later(key, told, wait_ms))

    async def _requeue_later(self, key: SetKey, told: _Told, wait_ms: int) -> None:
        await self._clock.sleep_ms(wait_ms)
        self._queue.put_nowait((key, told))

    async def _enqueue_later(self, key: SetKey, told: _Told, wait_ms: int) -> None:
        await self._clock.sleep_ms(wait_ms)
        told.alarmed = False
        self._enqueue(key, told)

    async def _tell(self, told: _Told) -> None:
        """Tell all that waits about one set; what fails for now goes on waiting, unless there is newer."""
        while told.waiting:
            subject, report = next(iter(told.waiting.items()))
            await self._tell_one(report)
            if told.waiting.get(subject) is report:
                del told.waiting[subject]
        now_ms = self._clock.now_ms()
        for reason, notice in sorted(told.notices.items(), key=lambda item: item[1].first_ms):
            if told.told_ms.get(reason, -NOTICE_INTERVAL_MS) + NOTICE_INTERVAL_MS > now_ms:
                continue
            told.notices.pop(reason, None)
            try:
                await self._tell_one(NoticeReported(notice=notice))
            except (UnavailableError, OutcomeUnknownError):
                later = told.notices.get(reason)
                told.notices[reason] = notice if later is None else joined(notice, later)
                raise
            told.told_ms[reason] = now_ms

    async def _tell_one(self, report: Report) -> None:
        try:
            await self._adapter.report(report)
        except (UnavailableError, OutcomeUnknownError):
            raise
        except RefusedError as error:
            self._refused(report, str(error))
        except Exception as error:  # noqa: BLE001 - a bug in an adapter stops nobody else (L3)
            self._refused(report, traceback_of(error))
        else:
            self._counts.reported += 1

    def _refused(self, report: Report, reason: str) -> None:
        self._counts.reports_failed += 1
        log.warning(
            "not shown in the backend",
            backend=self._backend,
            subject=self._bus.subjects.of(report),
            reason=reason,
        )


def _delay_ms(failures: int) -> int:
    longest_ms: int = min(RETRY_FIRST_MS << min(failures - 1, 16), RETRY_LAST_MS)
    return longest_ms // 2 + random.randrange(longest_ms // 2)  # noqa: S311 - no secret
