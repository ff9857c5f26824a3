"""The log as one adapter host writes it and reads it back.

Used by ``runtime.host`` and its parts: ``load`` once, then ``follow`` and ``write_out`` side by side. It publishes
facts where they differ from what the log says, and hears what others write about the same backend.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import structlog

from everynode import wire
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import PodKey
from everynode.errors import MalformedMessageError, RefusedError, StaleError
from everynode.ports import Clock, Outgoing, Received
from everynode.runtime.bus import FleetBus
from everynode.runtime.clock import monotonic_ms
from everynode.runtime.counts import HostCounts
from everynode.runtime.ledger import Fact, Ledger
from everynode.runtime.outbox import Outbox
from everynode.runtime.view import last_good

log = structlog.get_logger(__name__)


class Logbook:
    """What the log says of one backend, and the way to say more.

    Args:
        bus: The fleet's log.
        backend: The backend.
        clock: Time to wait by.
        counts: Where to count.
        disputed: Called when someone else wrote something about the backend that this host did not know.
    """

    def __init__(
        self,
        bus: FleetBus,
        backend: str,
        clock: Clock,
        counts: HostCounts,
        disputed: Callable[[], None],
    ) -> None:
        """Begin empty."""
        self.ledger = Ledger(backend, bus.subjects)
        self.outbox = Outbox(bus, clock)
        self.caught_up = asyncio.Event()
        """What was on the log when ``load`` ended has been read: STATE alone is a little behind."""
        self._bus = bus
        self._backend = backend
        self._counts = counts
        self._disputed = disputed
        self._time_ms = 0
        self._time_heard_ms = 0
        self._caught_up_at = 0
        self._read_to = 0
        # Our own that the log took and that were not read back yet: their places, which go up, and subjects.
        self._unread: deque[tuple[int, str]] = deque()
        self._missed_to = (
            0  # those up to here were missing already when there was nothing left to read
        )
        token = wire.token(backend)
        prefix = bus.subjects.prefix
        self._subjects = [f"{prefix}.node.{token}.>", f"{prefix}.pod.*.{token}.>"]

    def time_ms(self) -> int:
        """The log's time: that of the last message heard of, and what has passed since then."""
        return self._time_ms + monotonic_ms() - self._time_heard_ms

    # --- reading ------------------------------------------------------------------------------------------------------

    async def load(self) -> int:
        """Read STATE; returns from where to follow the log."""
        self._hear_time((await self._bus.log_position()).last_time_ms)
        last = 0
        async with aclosing(self._bus.read_state(self._subjects)) as chunks:
            async for chunk in chunks:
                for received in chunk:
                    last = max(last, received.sequence)
                    fact = self._read(received)
                    if fact is not None:
                        self.ledger.fold(fact, received)
                    else:
                        await self._load_last_good(received)
        for subject in self._subjects:
            newest = await self._bus.last(subject)
            self._caught_up_at = max(self._caught_up_at, newest.sequence if newest else 0)
        self._come_to(last)
        return last + 1

    def _come_to(self, sequence: int) -> None:
        if sequence >= self._caught_up_at:
            self.caught_up.set()

    async def _load_last_good(self, spoiled: Received) -> None:
        good = await last_good(self._bus, spoiled)
        fact = None if good is None else self._read(good)
        if good is not None and fact is not None:
            self.ledger.fold(fact, good)
            self.ledger.spoil(spoiled)

    async def follow(self, from_sequence: int) -> None:
        """Read back what is written about this backend, by whomever, until cancelled.

        Raises:
            StaleError: The log is not what it was.
        """
        async with aclosing(self._bus.follow(self._subjects, from_sequence)) as chunks:
            async for chunk in chunks:
                for received in chunk:
                    self._read_back(received)
                    if self.ledger.is_news(received):
                        self._take_news(received)
                if chunk:
                    self._hear_time(chunk[-1].time_ms)
                    self._come_to(chunk[-1].sequence)
                else:  # silence: what was to come has expired
                    self.caught_up.set()
                    self._check_read_back()

    def _read_back(self, received: Received) -> None:
        """Note that a message was read.

        Raises:
            StaleError: The log is not what it was: something of ours that it took stood here, or before.
        """
        self._read_to = received.sequence
        if not self._unread or self._unread[0][0] > received.sequence:
            return
        if self._unread.popleft() != (received.sequence, received.subject):
            raise StaleError("the log has lost something that it took")

    def _check_read_back(self) -> None:
        """Make sure that nothing of ours is missing although there is nothing left to read.

        Raises:
            StaleError: Something has been, for two silences: the log took it, and lost it.
        """
        if self._unread and self._unread[0][0] <= self._missed_to:
            raise StaleError("the log has lost something that it took")
        self._missed_to = self._unread[-1][0] if self._unread else 0

    def _hear_time(self, time_ms: int) -> None:
        if time_ms > self._time_ms:
            self._time_ms = time_ms
            self._time_heard_ms = monotonic_ms()

    def _take_news(self, received: Received) -> None:
        """Take in what someone else wrote; what cannot be read is written anew as it was known."""
        fact = self._read(received)
        if fact is None:
            known = self.ledger.spoil(received)
            if known is not None:
                self._say(known)
        elif self.ledger.fold(fact, received) and self.caught_up.is_set():
            log.info("someone else wrote about this backend", subject=received.subject)
            self._disputed()

    def _read(self, received: Received) -> Fact | None:
        try:
            message = wire.decode_from(self._bus.subjects, received.subject, received.payload)
        except MalformedMessageError as error:
            self._counts.malformed += 1
            log.warning(
                "message refused",
                subject=received.subject,
                sequence=received.sequence,
                reason=str(error),
            )
            return None
        # Nothing else has these subjects.
        return (
            message
            if isinstance(message, NodeObserved | NodeGone | PodObserved | PodGone)
            else None
        )

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write_out(self) -> None:
        """Store what was published, until cancelled."""
        await self.outbox.run()

    def publish(self, fact: Fact) -> None:
        """Put what the adapter said on its way to the log, if it says something new."""
        if isinstance(fact, PodGone):
            fact = self.ledger.completed(fact)
        self._say(fact)
        self.ledger.witnessed(fact)

    def end_unheard_of(self, gone: NodeGone) -> None:
        """Say that a node is gone that the log knows nothing of (see ``Ledger.never_heard_of``)."""
        self._put(gone)

    def _say(self, fact: Fact) -> None:
        """Put a fact on its way if it is new; of a pod, end what the log still has of it on other subjects.

        A pod is written where it stands now before it is ended where it stood, so that whoever reads the log never
        misses it. Whatever was not ended there, because a host did not come to it, is when the pod is next heard of.
        """
        if isinstance(fact, PodGone):
            self._end_left_behind(fact.key)
        if self.ledger.differs(fact):
            self._put(fact)
        else:
            self._counts.suppressed += 1
        if isinstance(fact, PodObserved):
            self._end_left_behind(fact.pod.key)

    def _end_left_behind(self, key: PodKey) -> None:
        for end in self.ledger.left_behind(key):
            self._put(end, last=True)

    def _put(self, fact: Fact, *, last: bool = False) -> None:
        try:
            self._check_backend(fact)
            payload = wire.encode(fact)
            subject = self._bus.subjects.of(fact)
            wire.decode_from(
                self._bus.subjects, subject, payload
            )  # whoever reads it will do the same
        except (RefusedError, UnicodeError) as error:
            self._counts.invalid += 1
            log.warning("observation refused", kind=type(fact).__name__, reason=str(error))
            return
        is_tombstone = isinstance(fact, NodeGone | PodGone)
        ttl_seconds = self._bus.tombstone_ttl_seconds if is_tombstone else None
        version = self.ledger.said(fact, subject)
        self._counts.published += 1
        stored = partial(self._stored, fact, subject, version)
        self.outbox.put(Outgoing(subject, payload, ttl_seconds), stored, last=last)

    def _check_backend(self, fact: Fact) -> None:
        match fact:
            case NodeObserved(node=node):
                backend = node.backend
            case PodObserved(pod=pod):
                backend = pod.backend
            case NodeGone() | PodGone():
                backend = fact.backend
        if backend != self._backend:
            raise RefusedError(f"the adapter of {self._backend} observed something of {backend!r}")

    def _stored(self, fact: Fact, subject: str, version: int, sequence: int) -> None:
        # What was put in twice and stored once is told twice.
        if sequence > max(self._read_to, self._unread[-1][0] if self._unread else 0):
            self._unread.append((sequence, subject))
        later = self.ledger.stored(fact, subject, version, sequence)
        if later is not None:
            self._take_news(later)
