"""Sets and revisions that a backend keeps as objects of its own, on their way to the log.

Used by ``runtime.host``. What the adapter says is compared with what the log has and written as a compare-and-set, one
after the other: there are few sets, and nobody may overwrite what somebody else said meanwhile. It decides nothing, and
it never touches a set that was applied to the fleet or is another backend's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog
from msgspec import structs

from everynode import wire
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    RevisionGone,
    RevisionRecorded,
)
from everynode.core.revisions import HISTORY_LIMIT_EXCEEDED
from everynode.core.values import DaemonSet, SetKey
from everynode.errors import (
    MalformedMessageError,
    OutcomeUnknownError,
    RefusedError,
    StaleError,
    UnavailableError,
)
from everynode.ports import Clock, Declaration, Outgoing, Received
from everynode.runtime.applying import read_set
from everynode.runtime.bus import FleetBus
from everynode.runtime.counts import HostCounts
from everynode.runtime.view import last_good, read_view

log = structlog.get_logger(__name__)

NOT_LISTED = "not in the backend's list"
RETRY_FIRST_MS = 50
RETRY_LAST_MS = 5_000


def _is_older(daemonset: DaemonSet, known: DaemonSet) -> bool:
    """Say whether a set is an earlier generation of the same one: somebody answered from an old copy."""
    return daemonset.uid == known.uid and daemonset.generation < known.generation


def _with_template_of(known: DaemonSet, daemonset: DaemonSet) -> DaemonSet:
    """Let the template stand that the log has of this very generation: nobody has changed it.

    It looks otherwise after an upgrade of an API server that fills in one field more; that is no reason to make all
    pods anew (kubernetes#78633).
    """
    same = (known.uid, known.generation) == (daemonset.uid, daemonset.generation)
    return structs.replace(daemonset, template=known.template) if same else daemonset


class Declarations:
    """What a backend says of its sets, until it is on the log; a later word about the same takes the earlier's place.

    Args:
        bus: The fleet's log.
        backend: The backend.
        ready: Waits until nodes and pods are on the log that were observed before: a set that is written earlier would
            be given pods that it has.
        clock: Time to wait by between tries.
        counts: Where to count.
    """

    def __init__(
        self,
        bus: FleetBus,
        backend: str,
        ready: Callable[[], Awaitable[None]],
        clock: Clock,
        counts: HostCounts,
    ) -> None:
        """Begin empty."""
        self._bus = bus
        self._backend = backend
        self._ready = ready
        self._clock = clock
        self._counts = counts
        self._waiting: dict[str, Declaration] = {}
        self._filled = asyncio.Event()
        self._listing: set[SetKey] | None = None
        self._listed: set[SetKey] | None = None
        self._in_list: set[str] = (
            set()
        )  # subjects of sets that were named by a complete list: that is the truth
        self._written: dict[str, Declaration] = {}  # by subject: what need not be compared again

    def begin_list(self) -> None:
        """All sets of the backend follow."""
        self._listing = set()
        self._written.clear()  # what others wrote meanwhile is to be looked at

    def end_list(self) -> None:
        """All sets have been named; the others are gone."""
        if self._listing is not None:
            self._listed = self._listing
            self._listing = None
            self._filled.set()

    def interrupted(self) -> None:
        """A list that had begun will not end."""
        self._listing = None

    def put(self, declaration: Declaration) -> None:
        """Take what the adapter says."""
        subject = self._bus.subjects.of(declaration)
        self._in_list.discard(subject)
        if isinstance(declaration, DaemonSetObserved):
            for named in (self._listing, self._listed):
                if named is not None:
                    named.add(declaration.daemonset.key)
            if self._listing is not None:
                self._in_list.add(subject)
        self._waiting.pop(subject, None)  # it comes after everything that waits now
        self._waiting[subject] = declaration
        self._filled.set()

    async def run(self) -> None:
        """Write what comes in, until cancelled."""
        failures = 0
        while True:
            await self._filled.wait()
            await self._ready()
            try:
                await self._write_all()
            except (UnavailableError, OutcomeUnknownError, StaleError) as error:
                failures += 1
                log.warning("sets not written", backend=self._backend, reason=str(error))
                longest_ms: int = min(RETRY_FIRST_MS << min(failures, 16), RETRY_LAST_MS)
                await self._clock.sleep_ms(random.randrange(longest_ms))  # noqa: S311 - no secret
            else:
                failures = 0

    async def _write_all(self) -> None:
        while self._waiting:
            subject, declaration = next(iter(self._waiting.items()))
            if self._written.get(subject) != declaration:
                await self._write_one(subject, declaration)
                self._written[subject] = declaration
            if self._waiting.get(subject) is declaration:
                del self._waiting[subject]
        if self._listed is not None:
            await self._end_unlisted(self._listed)
            self._listed = None
            self._in_list.clear()
        if not self._waiting and self._listed is None:
            self._filled.clear()

    async def _write_one(self, subject: str, declaration: Declaration) -> None:
        """Write one declaration; what cannot be written is reported and passed over (L3)."""
        try:
            wire.decode_from(self._bus.subjects, subject, wire.encode(declaration))
            match declaration:
                case DaemonSetObserved(daemonset=daemonset):
                    await self._write_set(daemonset, is_listed=subject in self._in_list)
                case DaemonSetGone():
                    await self._end_set(declaration)
                case RevisionRecorded():
                    await self._write_revision(subject, declaration)
        except RefusedError as error:
            self._counts.invalid += 1
            log.warning("declaration refused", subject=subject, reason=str(error))

    # --- sets ---------------------------------------------------------------------------------------------------------

    async def _write_set(self, daemonset: DaemonSet, *, is_listed: bool) -> None:
        """Write a set as it is now, unless the log knows it so, or a later generation of it.

        What a complete list says holds even if the log knows a later generation: the backend's store was restored.

        Raises:
            RefusedError: The adapter speaks of another backend's set, or the fleet has one of that name from elsewhere.
        """
        if daemonset.origin != self._backend:
            raise RefusedError(
                f"the adapter of {self._backend} declared a set of {daemonset.origin!r}"
            )
        known = await read_set(self._bus, daemonset.key)
        before = known.daemonset
        if before is not None and before.origin != self._backend:
            came_from = f"backend {before.origin}" if before.origin else "`everynode apply`"
            raise RefusedError(
                f"daemonset {daemonset.key} of backend {self._backend}: the fleet has a set of that name from "
                f"{came_from}; delete that one, or give each backend a fleet of its own"
            )
        if before is not None:
            daemonset = _with_template_of(before, daemonset)
            if before == daemonset or (_is_older(daemonset, before) and not is_listed):
                return
        await self._publish(DaemonSetObserved(daemonset=daemonset), known.sequence)

    async def _end_set(self, gone: DaemonSetGone) -> None:
        known = await read_set(self._bus, gone.key)
        before = known.daemonset
        if before is not None and (before.origin, before.uid) == (self._backend, gone.uid):
            await self._publish(gone, known.sequence, self._bus.tombstone_ttl_seconds)

    async def _end_unlisted(self, listed: set[SetKey]) -> None:
        view = await read_view(self._bus, ("daemonset",))
        for key, daemonset in sorted(view.daemonsets.items()):
            if daemonset.origin == self._backend and key not in listed:
                gone = DaemonSetGone(
                    namespace=key.namespace,
                    name=key.name,
                    uid=daemonset.uid,
                    cascade="backend",
                    why=NOT_LISTED,
                )
                await self._end_set(gone)

    # --- revisions ----------------------------------------------------------------------------------------------------

    async def _write_revision(self, subject: str, declaration: RevisionRecorded) -> None:
        """Write a revision that the log does not have, or has under a lower number.

        One that has fallen out of the set's history is about to be removed from the backend, too.
        """
        last = await self._bus.last(subject)
        known = None if last is None else await self._read(last)
        revision = declaration.revision
        if isinstance(known, RevisionGone) and known.why == HISTORY_LIMIT_EXCEEDED:
            return
        if isinstance(known, RevisionRecorded):
            same_set = known.revision.daemonset_uid == revision.daemonset_uid
            if same_set and known.revision.number >= revision.number:
                return
        await self._publish(declaration, 0 if last is None else last.sequence)

    async def _read(self, received: Received) -> wire.AnyMessage | None:
        try:
            return wire.decode_from(self._bus.subjects, received.subject, received.payload)
        except MalformedMessageError:
            good = await last_good(self._bus, received)
        return (
            None
            if good is None
            else wire.decode_from(self._bus.subjects, good.subject, good.payload)
        )

    async def _publish(
        self, message: Declaration, expected_sequence: int, ttl_seconds: int | None = None
    ) -> None:
        subject = self._bus.subjects.of(message)
        outgoing = Outgoing(subject, wire.encode(message), ttl_seconds)
        self._written.pop(subject, None)
        await self._bus.publish_fenced([outgoing], expected_sequence)
        self._counts.declared += 1
