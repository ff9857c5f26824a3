"""Writes a fleet's log into a recording, once or for as long as somebody wants.

Reads through ``runtime.bus``. What a decision depends on may stand long before it: so a recording begins with what
STATE had at its beginning, and with the messages of the time that workers remember (``Limits.horizon_ms``) before
what was asked for. Nothing is held but the state at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from msgspec import structs

from everynode import __version__
from everynode.core.pacing import Limits
from everynode.errors import RecordingError
from everynode.ports import Received
from everynode.replay.recording import MAGIC, SCHEMA_VERSION, Entry, Footer, Header, Writer
from everynode.replay.redaction import EnvRedaction
from everynode.runtime.bus import FleetBus


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which part of a log is to be recorded; ``None``: from its beginning, or to its end.

    Attributes:
        from_sequence, to_sequence: The first and the last message.
        since_ms, until_ms: Or those of a time, in ms since 1970.
    """

    from_sequence: int | None = None
    to_sequence: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Span(NamedTuple):
    """A part of a log.

    Attributes:
        begins: Where what must be known to repeat decisions begins.
        first, last: What was asked for.
    """

    begins: int
    first: int
    last: int


Progress = Callable[[int, int], None]
"""Told of the sequence that was written, and of the last one there will be."""


async def span_of(bus: FleetBus, wanted: Wanted, horizon_ms: int = Limits().horizon_ms) -> Span:
    """Find a part of the log.

    Raises:
        RecordingError: The log has nothing there.
        UnavailableError: The server did not answer.
    """
    position = await bus.log_position()
    first, last = position.first_sequence, position.last_sequence
    if wanted.from_sequence is not None:
        first = max(first, wanted.from_sequence)
    elif wanted.since_ms is not None:
        first = max(first, await bus.sequence_at(wanted.since_ms))
    if wanted.to_sequence is not None:
        last = min(last, wanted.to_sequence)
    elif wanted.until_ms is not None:
        last = min(last, await bus.sequence_at(wanted.until_ms + 1) - 1)
    if first > last:
        raise RecordingError(
            f"fleet {bus.subjects.fleet}: its log has no messages there: it has those from sequence "
            f"{position.first_sequence} to {position.last_sequence}, and what was asked for is {first} to {last}"
        )
    begins = first
    time_ms = await bus.time_of(first)
    if time_ms is not None:
        remembered = await bus.sequence_at(time_ms - horizon_ms)
        begins = max(position.first_sequence, min(first, remembered))
    return Span(begins, first, last)


class Recorder:
    """Records one fleet.

    Args:
        bus: Its log.
        file: Where to.
        span: What of it.
        backends: The fleet's backends, with their identities.
        recorded_ms: The time now.
        redact_env: The values of environment variables are left out.
    """

    def __init__(
        self,
        bus: FleetBus,
        file: BinaryIO,
        span: Span,
        *,
        backends: dict[str, str],
        recorded_ms: int,
        redact_env: bool = False,
    ) -> None:
        """Write nothing yet."""
        self._bus = bus
        self._file = file
        self._span = span
        self._backends = backends
        self._recorded_ms = recorded_ms
        self._redaction = EnvRedaction() if redact_env else None
        self._writer: Writer | None = None

    @property
    def messages(self) -> int:
        """How many messages have been written."""
        return 0 if self._writer is None else self._writer.messages

    @property
    def bytes_written(self) -> int:
        """How large the file is."""
        return 0 if self._writer is None else self._writer.bytes_written

    async def record(self, progress: Progress) -> None:
        """Write what was asked for, without the last line.

        Raises:
            UnavailableError: The server did not answer.
        """
        subjects, span = self._bus.subjects, self._span
        header = Header(
            what=MAGIC,
            schema=SCHEMA_VERSION,
            fleet=subjects.fleet,
            shards=subjects.shards,
            begins=span.begins,
            from_sequence=span.first,
            from_ms=await self._bus.time_of(span.first) or 0,
            recorded_ms=self._recorded_ms,
            redacted=("env",) if self._redaction else (),
            backends=self._backends,
            program=__version__,
        )
        self._writer = Writer(self._file, header)
        for received in await self._kept():
            self._write(Entry(received, is_kept=True))
        async with aclosing(self._bus.read_log([subjects.everything()], span.begins)) as chunks:
            async for chunk in chunks:
                for received in chunk:
                    if received.sequence > span.last:
                        return
                    self._write(Entry(received, is_kept=False))
                if chunk:
                    progress(min(chunk[-1].sequence, span.last), span.last)

    async def follow(self, progress: Progress) -> None:
        """Go on with what comes, until cancelled; what was written can be read at any time.

        Raises:
            StaleError: The log is not the one any more that was recorded.
        """
        following = self._bus.follow([self._bus.subjects.everything()], self._span.last + 1)
        async with aclosing(following) as chunks:
            async for chunk in chunks:
                for received in chunk:
                    self._write(Entry(received, is_kept=False))
                if chunk:
                    progress(chunk[-1].sequence, chunk[-1].sequence)
                self._written().flush()

    def finish(self) -> Footer:
        """Write the last line."""
        return self._written().finish()

    async def _kept(self) -> list[Received]:
        """Read what STATE had where the recording begins: what it has of before, and what has changed since."""
        subjects, begins = self._bus.subjects, self._span.begins
        found: dict[str, Received] = {}
        async with aclosing(self._bus.read_state(subjects.kept())) as chunks:
            async for chunk in chunks:
                found.update((one.subject, one) for one in chunk if one.sequence < begins)
        position = await self._bus.log_position()
        if position.first_sequence < begins:
            chunks = self._bus.read_log(subjects.kept(), position.first_sequence)
            async with aclosing(chunks):
                async for chunk in chunks:
                    earlier = [one for one in chunk if one.sequence < begins]
                    found.update((one.subject, one) for one in earlier)
                    if len(earlier) < len(chunk):
                        break
        return sorted(found.values())

    def _write(self, entry: Entry) -> None:
        if self._redaction is not None:
            received, renamed = self._redaction.redacted(self._bus.subjects, entry.received)
            if renamed is not None:
                self._written().renamed(renamed)
            entry = structs.replace(entry, received=received)
        self._written().write(entry)

    def _written(self) -> Writer:
        if self._writer is None:
            raise RecordingError("nothing has been recorded yet; call record() first")
        return self._writer
