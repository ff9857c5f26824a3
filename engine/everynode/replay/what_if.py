"""The recorded past with another spec: what would have been, had people asked for something else at one point.

The stream is read twice. The first time (``Survey``) says how it was, where the change stands in whose place the other
spec comes, and how long things took. The second time (``Rehearsed``) follows what was recorded up to there; from there
on the same things happen by themselves, and all that is decided is decided anew. Used by the command line; no I/O.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from everynode import wire
from everynode.core.commands import COMMANDS, Decision, Outcome
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
    Tick,
)
from everynode.core.identity import derived_uid, shard_of
from everynode.core.state import Record
from everynode.core.values import DaemonSet, SetKey
from everynode.replay.durations import Durations
from everynode.replay.outside import Outside
from everynode.replay.recording import Entry
from everynode.replay.rehearsal import SETTLE_MS_MAX, Rehearsal
from everynode.replay.replaying import renaming
from everynode.replay.streams import Stream, record_of
from everynode.replay.what_if_course import Course, Courses, Made
from everynode.runtime.applying import KnownSet, what_apply_writes
from everynode.runtime.byhand import PAUSED_AT, keep_what_was_done_by_hand

DIFFERENT_SHOWN_MAX = 3

_SKIPPED = frozenset({"notice", "tick"})
"""Kinds of messages that say nothing here."""


class Change(NamedTuple):
    """In the place of what another spec comes.

    Attributes:
        sequence: Where it stands.
        time_ms: When that was, in ms since 1970.
        known: What was known of the set just before.
        recorded: What was asked for there; ``None``: the set did not change, and the other spec comes in addition.
    """

    sequence: int
    time_ms: int
    known: KnownSet
    recorded: DaemonSet | None


class Wanted(NamedTuple):
    """A set as it is wanted instead.

    Attributes:
        change: In the place of what.
        daemonset: As it stands on the log then; ``None``: nothing is written, as nothing would have changed.
    """

    change: Change
    daemonset: DaemonSet | None


class _Relevant:
    """Picks the messages of a stream that concern some sets; the others need no decoding."""

    def __init__(self, subjects: wire.Subjects, keys: Iterable[SetKey]) -> None:
        """Remember which."""
        self._subjects = subjects
        self._keys = frozenset(keys)
        self._shards = frozenset(str(shard_of(key, subjects.shards)) for key in self._keys)

    def record(self, entry: Entry) -> Record | None:
        """Read a message, if it concerns one of the sets."""
        kind, shard = self._subjects.parts(entry.received.subject)
        if kind in _SKIPPED or not (
            kind == "node" or shard in self._shards or shard == wire.ORPHANS
        ):
            return None
        record = record_of(self._subjects, entry.received)
        return None if record is None or not self._concerns(record.message) else record

    def _concerns(self, message: object) -> bool:
        match message:
            case NodeObserved() | NodeGone():
                return True
            case PodObserved(pod=pod):
                return pod.set_key is None or pod.set_key in self._keys
            case PodGone():
                return message.set_key is None or message.set_key in self._keys
            case DaemonSetObserved(daemonset=daemonset):
                return daemonset.key in self._keys
            case DaemonSetGone():
                return message.key in self._keys
            case StatusReported(status=status):
                return status.set_key in self._keys
            case RevisionRecorded(revision=revision):
                return revision.set_key in self._keys
            case RevisionGone() | StatusGone() | Decision() | Outcome():
                return message.set_key in self._keys
            case _:
                return isinstance(message, COMMANDS) and message.set_key in self._keys


class Survey:
    """How it was.

    Args:
        keys: The sets that are to be others.

    Attributes:
        changes: For each set, the last change that was recorded of it, or where the stream begins.
        courses: How it went since then.
        durations: How long things took.
        outside: Places of the messages that tell of what happened by itself.
        ends_ms: When the last message was taken in, in ms since 1970; 0 if there was none.
    """

    def __init__(self, keys: Iterable[SetKey]) -> None:
        """Nothing was read yet."""
        self.outside = array("q")
        self.changes: dict[SetKey, Change] = {}
        self.courses = Courses(keys)
        self.durations = Durations()
        self.ends_ms = 0

    def read(self, stream: Stream) -> None:
        """Read a stream to its end.

        Raises:
            RecordingError: It cannot be read on; all before that was taken in.
        """
        relevant = _Relevant(stream.subjects, self.courses.keys)
        outside = Outside(is_decided=stream.is_decided)
        outcomes = (
            f"{stream.subjects.prefix}.outcome."  # they say nothing that their effects do not
        )
        for entry in stream.entries:
            received = entry.received
            if not entry.is_kept:
                self.ends_ms = max(self.ends_ms, received.time_ms)
                if not self.changes and received.sequence >= stream.from_sequence:
                    self._begin(received.sequence, received.time_ms)
            if received.subject.startswith(outcomes):
                continue
            record = relevant.record(entry)
            if record is None:
                continue
            if outside.is_outside(record.message) and self.changes and not entry.is_kept:
                self.outside.append(record.sequence)
            self._take_in(record)

    def _begin(self, sequence: int, time_ms: int) -> None:
        """This is where what is looked at begins."""
        for key in self.courses.keys:
            change = Change(sequence, time_ms, self.courses.known(key), None)
            self._changed(key, change)
            self.courses.of[key].goes_on()

    def _changed(self, key: SetKey, change: Change) -> None:
        self.changes[key] = change
        self.courses.begin(key, change.time_ms)

    def _take_in(self, record: Record) -> None:
        message = record.message
        self.durations.learn(record.time_ms, message)
        if self.changes and isinstance(message, DaemonSetObserved):
            wanted = message.daemonset
            known = self.courses.known(wanted.key)
            before = known.daemonset
            if before is None or (before.uid, before.generation) != (wanted.uid, wanted.generation):
                self._changed(wanted.key, Change(record.sequence, record.time_ms, known, wanted))
        self.courses.fold(record)


def wanted_instead(daemonset: DaemonSet, change: Change) -> Wanted:
    """Say what would have stood on the log, had this been applied in the place of a change.

    What was done by hand up to then, and in this very change, is done all the same.

    Raises:
        InvalidObjectError: It changes what cannot be changed.
        RefusedError: It could not have been applied.
    """
    before, recorded = change.known.daemonset, change.recorded
    if before is None:
        return Wanted(change, _made(daemonset, change))
    known = replace(before, origin="")  # it would have been changed where it is kept
    if before.origin:
        daemonset = replace(daemonset, backend=daemonset.backend or before.backend)
    if recorded is not None:
        daemonset = keep_what_was_done_by_hand(daemonset, recorded)
        if PAUSED_AT not in recorded.annotations:  # it was resumed, if it was paused
            others = {key: text for key, text in known.annotations.items() if key != PAUSED_AT}
            known = replace(known, annotations=others)
    applied = what_apply_writes(daemonset, KnownSet(known, None, 0), before.uid, change.time_ms)
    if applied.action == "unchanged":
        return Wanted(change, None)
    found = replace(applied.daemonset, origin=before.origin)
    if recorded is not None and found.generation != before.generation:
        found = replace(found, generation=recorded.generation)
    return Wanted(change, found)


def _made(daemonset: DaemonSet, change: Change) -> DaemonSet:
    """Say what a set would have been like that was not there before."""
    recorded = change.recorded
    uid = derived_uid("what-if", *daemonset.key) if recorded is None else recorded.uid
    found = what_apply_writes(daemonset, change.known, uid, change.time_ms).daemonset
    if recorded is None:
        return found
    return replace(
        found,
        origin=recorded.origin,
        backend=found.backend or recorded.backend,
        generation=recorded.generation,
        created_ms=recorded.created_ms,
    )


class Rehearsed:
    """How it would have been.

    Args:
        stream: The same stream, to be read anew.
        survey: How it was.
        wanted: The sets that it is about, as they are wanted instead.
        replaces: They are others; if not, everything is asked for as it was.

    Attributes:
        courses: How it would have gone.
        rehearsal: The fleet.
        ends_ms: Until when, in ms since 1970.
    """

    def __init__(
        self, stream: Stream, survey: Survey, wanted: Mapping[SetKey, Wanted], *, replaces: bool
    ) -> None:
        """Start before the first message."""
        self.courses = Courses(wanted)
        self.ends_ms = survey.ends_ms
        self._wanted = wanted if replaces else {}
        self._changes = {key: each.change for key, each in wanted.items()}
        self.rehearsal = Rehearsal(
            stream.subjects.shards, survey.durations, naming=renaming(stream.renamed)
        )

    def follow(self, record: Record, *, is_kept: bool) -> None:
        """Take in a message from before the change."""
        if is_kept:
            self.rehearsal.load(record)
        else:
            self.rehearsal.follow(record)
        self.courses.fold(record)

    def begin(self, now_ms: int) -> None:
        """Decide anew from here on."""
        self.rehearsal.begin(now_ms)

    def happen(self, record: Record) -> None:
        """Let happen what happened by itself, unless it is what people are to have asked for otherwise."""
        if not self._is_replaced(record):
            self._fold(self.rehearsal.happen(record.time_ms, record.message))

    def finish(self) -> None:
        """Let time pass to the end of the stream, and on until nothing is due any more, at most for an hour."""
        for record in self.rehearsal.pass_time(self.ends_ms + SETTLE_MS_MAX):
            self.courses.fold(record)
            if not isinstance(record.message, Tick):
                self.ends_ms = max(self.ends_ms, record.time_ms)

    def _fold(self, records: Iterable[Record]) -> None:
        for record in records:
            self.courses.fold(record)

    def change(self, sequence: int, time_ms: int) -> None:
        """Begin the courses of those sets whose change stands here, and let them change."""
        for key, change in self._changes.items():
            if change.sequence != sequence:
                continue
            self._fold(self.rehearsal.pass_time(time_ms))
            course = self.courses.begin(key, time_ms)
            wanted = self._wanted.get(key)
            if wanted is not None and wanted.daemonset is not None:
                message = DaemonSetObserved(daemonset=wanted.daemonset)
                self._fold(self.rehearsal.happen(time_ms, message))
            elif wanted is not None or change.recorded is None:
                course.goes_on()

    def _is_replaced(self, record: Record) -> bool:
        """Say whether something else was asked for in the place of this, or of what this says once more."""
        if not isinstance(record.message, DaemonSetObserved):
            return False
        key = record.message.daemonset.key
        return key in self._wanted and record.sequence >= self._changes[key].sequence


def rehearse(
    stream: Stream, survey: Survey, wanted: Mapping[SetKey, Wanted]
) -> tuple[Courses, Rehearsed]:
    """Read a stream the second time.

    Args:
        stream: The stream, read anew.
        survey: What the first time said.
        wanted: The sets that are to be others; at least one.

    Returns:
        How it was, and how it would have been. How it was is what was recorded; of a stream without decisions it is
        what would have been decided, had nothing been changed.
    """
    relevant = _Relevant(stream.subjects, wanted)
    runs = [Rehearsed(stream, survey, wanted, replaces=True)]
    if not stream.is_decided:
        runs.append(Rehearsed(stream, survey, wanted, replaces=False))
    places = {each.change.sequence for each in wanted.values()}
    begins = min(places) if stream.is_decided else stream.from_sequence
    outside = iter(survey.outside)
    following, has_begun = next(outside, 0), False
    for entry in stream.entries:
        sequence, time_ms, _, _ = entry.received
        if not has_begun:
            has_begun = not entry.is_kept and sequence >= begins
            for run in runs if has_begun else ():
                run.begin(time_ms)
        if sequence in places and not entry.is_kept:
            for run in runs:
                run.change(sequence, time_ms)
        is_outside = sequence == following and not entry.is_kept
        if is_outside:
            following = next(outside, 0)
        record = relevant.record(entry) if is_outside or not has_begun else None
        if record is None:
            continue
        for run in runs:
            if has_begun:
                run.happen(record)
            else:
                run.follow(record, is_kept=entry.is_kept)
    for run in runs:
        run.finish()
    return (survey.courses if stream.is_decided else runs[1].courses), runs[0]


class Differences(NamedTuple):
    """In what two courses differ.

    Attributes:
        same: How many commands are the same: what is done, and on which node.
        only_was, only_is: Those that only one of them has.
        first_was, first_is: The first decisions that differ, at most 3 of each; empty if none of those compared does.
    """

    same: int
    only_was: int
    only_is: int
    first_was: tuple[Made, ...]
    first_is: tuple[Made, ...]


def compared(was: Course, is_now: Course) -> Differences:
    """Compare what was decided and what would have been."""
    both = was.actions & is_now.actions
    ours, theirs = list(was.first_decisions), list(is_now.first_decisions)
    place = 0
    while place < min(len(ours), len(theirs)) and ours[place].actions == theirs[place].actions:
        place += 1
    until = place + DIFFERENT_SHOWN_MAX
    return Differences(
        same=both.total(),
        only_was=(was.actions - both).total(),
        only_is=(is_now.actions - both).total(),
        first_was=tuple(ours[place:until]),
        first_is=tuple(theirs[place:until]),
    )
