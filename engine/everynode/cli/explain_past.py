"""Where `explain` reads a fleet's past: from its log, or from a recording of it.

Used by `explain` and `explain_pod`, which ask for subjects and are handed the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import typer

from everynode.cli.options import Target
from everynode.cli.quantities import parse_moment_ms
from everynode.cli.terminal import note_line
from everynode.core.identity import RevisionOf, revision_of
from everynode.errors import RecordingError, RefusedError
from everynode.replay.explaining_history import History
from everynode.replay.history import read_history
from everynode.replay.recording import Entry
from everynode.replay.replaying import renaming
from everynode.replay.streams import Stream, subject_filter
from everynode.runtime.bus import FleetBus
from everynode.runtime.clock import timestamp
from everynode.wire import Subjects

OUTCOMES_ASKED_MAX = 200
"""For so many commands of a node the log is asked one by one what became of them; for more, all outcomes are read."""

ENTRIES_AT_ONCE = 5_000
ENTRIES_HELD_MAX = 200_000
HELD_BYTES_MAX = 256 * 1024 * 1024
"""So much of a recording is held from one reading to the next; a longer one is read again."""

Take = Callable[[Entry], None]


class When(NamedTuple):
    """Up to when the past is looked at.

    Attributes:
        at_ms: In ms since 1970; ``None``: up to its end.
        now_ms: The time now.
    """

    at_ms: int | None
    now_ms: int


class Past(Protocol):
    """A fleet's log up to some time, that can be read again and again.

    Attributes:
        subjects: The fleet's subjects.
        naming: Says what a set's template is called there.
        now_ms: When it ends, as far as it was read.
        begins_ms: When its first message was taken in; ``None`` if it has none, or was not read yet.
    """

    subjects: Subjects
    naming: RevisionOf
    now_ms: int
    begins_ms: int | None

    async def read(self, patterns: Iterable[str], take: Take) -> None:
        """Hand over the messages on these subjects, in order: first what was kept, then the log's."""
        ...

    async def read_history(self, history: History) -> None:
        """Hand over all that a history takes."""
        ...


def not_found(past: Past, what: str, where: str = "") -> RefusedError:
    """Say that something was not there when the past ends, and how far back it goes."""
    begins_ms = past.begins_ms
    since = "has no messages" if begins_ms is None else f"begins at {timestamp(begins_ms)}"
    return RefusedError(f"{what} not found{where} at {timestamp(past.now_ms)}; the log {since}")


def _before(at_ms: int, begins_ms: int) -> RefusedError:
    """Say that a time is earlier than what is known."""
    return RefusedError(
        f"nothing is known of {timestamp(at_ms)}; the log begins at {timestamp(begins_ms)}"
    )


@contextlib.asynccontextmanager
async def opened_past(target: Target, recording: Path | None, at: str) -> AsyncIterator[Past]:
    """Open a fleet's log, or a recording.

    Args:
        target: The fleet; not looked at if there is a recording.
        recording: The recording.
        at: Up to when, as it was typed; empty: to the end.

    Raises:
        typer.BadParameter: It is no time, or a recording that cannot be read twice.
        RecordingError: The recording cannot be read, or only in part: then in the end.
        RefusedError: The time is to come, or before the log begins.
        UnavailableError: The server did not answer.
    """
    now_ms = time.time_ns() // 1_000_000
    when = When(parse_moment_ms(at, now_ms, "--at") if at else None, now_ms)
    if when.at_ms is not None and when.at_ms > now_ms:
        raise RefusedError(f"--at {at}: that is to come; it is {timestamp(now_ms)}")
    if recording is not None:
        if str(recording) == "-":
            raise typer.BadParameter(
                "a recording is read twice, and stdin can be read once: name a file",
                param_hint="--recording",
            )
        past = _RecordedPast(recording, when)
        try:
            yield past
        except RefusedError as error:
            if past.damage is None:
                raise
            raise RefusedError(f"{error}; {past.damage}") from error
        if past.damage is not None:
            raise past.damage
        if past.now_ms > past.ends_ms:
            note_line(f"{recording}: its last message is of {timestamp(past.ends_ms)}")
        return
    from everynode.runtime.jetstream import connect  # noqa: PLC0415 - takes long; a recording needs no server

    async with await connect(target.connection, target.fleet) as bus:
        begins_ms = await bus.time_of((await bus.log_position()).first_sequence)
        if when.at_ms is not None and begins_ms is not None and when.at_ms < begins_ms:
            raise _before(when.at_ms, begins_ms)
        yield _LivePast(bus, when, begins_ms)


class _LivePast:
    def __init__(self, bus: FleetBus, when: When, begins_ms: int | None) -> None:
        self.subjects = bus.subjects
        self.naming: RevisionOf = revision_of
        self.now_ms = when.now_ms if when.at_ms is None else when.at_ms
        self.begins_ms = begins_ms
        self._bus = bus
        self._until_ms = when.at_ms

    async def read(self, patterns: Iterable[str], take: Take) -> None:
        for entry in await read_history(self._bus, list(patterns), self._until_ms):
            take(entry)

    async def read_history(self, history: History) -> None:
        """Outcomes are asked for one by one if they are few: a shard has one for each pod of its sets."""
        await self.read(history.scope.patterns(self.subjects), history.take)
        subjects = history.outcome_subjects()
        if len(subjects) > OUTCOMES_ASKED_MAX:
            await self.read(history.scope.outcome_patterns(self.subjects), history.take)
            return
        for received in await asyncio.gather(*map(self._bus.last, subjects)):
            if received is not None and (
                self._until_ms is None or received.time_ms <= self._until_ms
            ):
                history.take(Entry(received, is_kept=False))


class _RecordedPast:
    def __init__(self, path: Path, when: When) -> None:
        self._path = path
        self._until_ms = when.at_ms
        with self._opened() as stream:
            self.subjects = stream.subjects
            self.naming: RevisionOf = renaming(stream.renamed)
            self._from_ms = stream.from_ms
        self.ends_ms = self._from_ms
        self.now_ms = self.ends_ms if when.at_ms is None else when.at_ms
        self.begins_ms: int | None = None
        self.damage: RecordingError | None = None
        self._held: list[Entry] | None = None

    def _opened(self) -> AbstractContextManager[Stream]:
        from everynode.cli.recordings import opened_recording  # noqa: PLC0415 - takes long

        return opened_recording(self._path)

    async def read(self, patterns: Iterable[str], take: Take) -> None:
        """Read as far as the recording can be read; what is wrong with it is said in the end."""
        is_wanted = subject_filter(patterns)
        if self._held is not None:
            for entry in self._held:
                if is_wanted(entry.received.subject):
                    take(entry)
            return
        held: list[Entry] | None = []
        held_bytes = 0
        with self._opened() as stream:
            self.naming = renaming(stream.renamed)
            try:
                for number, entry in enumerate(stream.entries):
                    if number % ENTRIES_AT_ONCE == 0:
                        await asyncio.sleep(0)  # somebody may have asked us to stop
                    if not entry.is_kept and not self._note(entry.received.time_ms):
                        break
                    if held is not None:
                        held.append(entry)
                        held_bytes += len(entry.received.payload)
                        if number >= ENTRIES_HELD_MAX or held_bytes > HELD_BYTES_MAX:
                            held = None
                    if is_wanted(entry.received.subject):
                        take(entry)
            except RecordingError as error:
                self.damage = error
        self._held = held
        if self._until_ms is not None and self.begins_ms is None and self._until_ms < self._from_ms:
            raise _before(self._until_ms, self._from_ms)

    def _note(self, time_ms: int) -> bool:
        """Note when a message was taken in; say whether it is one of those that are looked at."""
        self.ends_ms = max(self.ends_ms, time_ms)
        if self._until_ms is None:
            self.now_ms = self.ends_ms
        elif time_ms > self._until_ms:
            return False
        if self.begins_ms is None:
            self.begins_ms = time_ms
        return True

    async def read_history(self, history: History) -> None:
        scope = history.scope
        outcomes = scope.outcome_patterns(self.subjects)
        await self.read([*scope.patterns(self.subjects), *outcomes], history.take)
