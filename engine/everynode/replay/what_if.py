"""The recorded past with another spec: what would have been, had people asked for something else at one point.

The past is gone through twice. The first time (``Survey``) says how it was, where the change stands in whose place the
other spec comes, and how long things took. The second time (``Rehearsed``) follows what was recorded up to there; from
there on the same things happen by themselves, and all that is decided is decided anew. What was read is held for the
second time, unless it is too much: then the stream is read again. Used by the command line; no I/O.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import dropwhile, islice, zip_longest
from typing import NamedTuple, final

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
from everynode.errors import MalformedMessageError
from everynode.ports import Received
from everynode.replay.durations import Durations
from everynode.replay.outside import Outside
from everynode.replay.recording import Entry
from everynode.replay.rehearsal import SETTLE_MS_MAX, Rehearsal
from everynode.replay.replaying import renaming
from everynode.replay.streams import Stream
from everynode.replay.what_if_course import Course, Courses, Made
from everynode.runtime.applying import KnownSet, what_apply_writes
from everynode.runtime.byhand import PAUSED_AT, keep_what_was_done_by_hand

DIFFERENT_SHOWN_MAX = 3

HELD_MESSAGES_MAX = 250_000
HELD_BYTES_MAX = 256 * 1024 * 1024
"""So much is held for the second time, decoded about twice as large; if it is more, the stream is read again."""

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


class Place(NamedTuple):
    """A place in a stream, and when that was, in ms since 1970."""

    sequence: int
    time_ms: int


@final  # so `type(x) is` tells a type checker what x is, and what it is not
class Read(Record, frozen=True, gc=False):
    """A message that was read.

    Attributes:
        is_kept: It says what was so where the stream begins.
        is_outside: It tells of something that happened by itself since what was asked for begins.
    """

    is_kept: bool
    is_outside: bool


class _Relevant:
    """Picks the messages of a stream that concern some sets; most of the others need no decoding."""

    def __init__(self, subjects: wire.Subjects, keys: Iterable[SetKey]) -> None:
        """Remember which."""
        self._subjects = subjects
        self._keys = frozenset(keys)
        self._shards = frozenset(str(shard_of(key, subjects.shards)) for key in self._keys)

    def message(self, received: Received) -> wire.AnyMessage | None:
        """Read a message, if it can be used and concerns one of the sets."""
        kind, shard = self._subjects.parts(received.subject)
        is_theirs = shard in self._shards or kind == "node" or shard == wire.ORPHANS
        if not is_theirs or kind in _SKIPPED:
            return None
        try:
            message = wire.decode_from(self._subjects, received.subject, received.payload)
        except MalformedMessageError:
            return None
        return message if self.concerns(message) else None

    def concerns(self, message: object) -> bool:
        """Say whether a message concerns one of the sets."""
        # A class that it is not is told five times as fast as by a case, so the frequent kinds come before those; and a
        # plain tuple finds what a key finds.
        if type(message) is PodObserved:
            pod = message.pod
            return pod.owner is None or (pod.namespace, pod.owner.name) in self._keys
        if type(message) is NodeObserved:
            return True
        if type(message) is PodGone:
            owner = message.owner
            return owner is None or (message.namespace, owner.name) in self._keys
        if isinstance(message, COMMANDS):
            return (message.namespace, message.daemonset) in self._keys
        return self._concerns_other(message)

    def _concerns_other(self, message: object) -> bool:
        match message:
            case NodeGone():
                return True
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
                return False


class Survey:
    """How it was.

    Args:
        keys: The sets that are to be others.

    Attributes:
        changes: For each set, the last change that was recorded of it, or where the stream begins.
        courses: How it went since then.
        durations: How long things took.
        stream: What was read.
        ends_ms: When the last message was taken in, in ms since 1970; 0 if there was none.
    """

    stream: Stream

    def __init__(self, keys: Iterable[SetKey]) -> None:
        """Nothing was read yet."""
        self.changes: dict[SetKey, Change] = {}
        self.courses = Courses(keys)
        self.durations = Durations()
        self.ends_ms = 0
        self._begins = Place(0, 0)  # where what is looked at begins
        self._outside = array("q")  # places of what happened by itself
        self._held: list[Read | Entry] | None = []
        self._held_bytes = 0

    def read(self, stream: Stream) -> None:
        """Read a stream to its end.

        Raises:
            RecordingError: It cannot be read on; all before that was taken in.
        """
        self.stream = stream
        relevant = _Relevant(stream.subjects, self.courses.keys)
        outside = Outside(is_decided=stream.is_decided)
        outcomes = f"{stream.subjects.prefix}.outcome."
        for entry in stream.entries:
            received, is_kept = entry.received, entry.is_kept
            sequence, time_ms = received.sequence, received.time_ms
            if not is_kept:
                if time_ms > self.ends_ms:  # noqa: PLR1730 - for each message, and max() takes three times as long
                    self.ends_ms = time_ms
                if not self.changes and sequence >= stream.from_sequence:
                    self._begin(Place(sequence, time_ms))
            if received.subject.startswith(outcomes):
                self._hold(entry, received)  # it says nothing here that its effect does not
                continue
            message = relevant.message(received)
            if message is None:
                continue
            is_outside = outside.is_outside(message) and bool(self.changes) and not is_kept
            if is_outside:
                self._outside.append(sequence)
            read = Read(sequence, time_ms, message, is_kept, is_outside)
            self._hold(read, received)
            self.durations.learn(time_ms, message)
            if type(message) is DaemonSetObserved and self.changes:
                self._asked_for(read, message.daemonset)
            self.courses.fold(read)

    def _hold(self, item: Read | Entry, received: Received) -> None:
        if self._held is not None:
            self._held.append(item)
            self._held_bytes += len(received.payload)
            if len(self._held) > HELD_MESSAGES_MAX or self._held_bytes > HELD_BYTES_MAX:
                self._held = None

    def begins(self, wanted: Mapping[SetKey, Wanted]) -> Place:
        """Say from where on all is decided anew, if these sets are wanted instead."""
        if not self.stream.is_decided:
            return self._begins
        return min(Place(each.change.sequence, each.change.time_ms) for each in wanted.values())

    def read_again(
        self, wanted: Mapping[SetKey, Wanted], entries: Iterable[Entry]
    ) -> Iterator[Read]:
        """Go through what concerns some of the sets again; from where all is decided anew, what happened by itself.

        Args:
            wanted: These sets.
            entries: The stream, read anew; it is left alone if its messages are held.
        """
        relevant = _Relevant(self.stream.subjects, wanted)
        begins = self.begins(wanted).sequence
        is_all = wanted.keys() == self.courses.keys
        for each in entries if self._held is None else self._held:
            is_kept = each.is_kept
            if type(each) is Read:
                matters = each.sequence < begins or each.is_outside or is_kept
                if matters and (is_all or relevant.concerns(each.message)):
                    yield each
                continue
            received = each.received
            sequence = received.sequence
            is_outside = not is_kept and self._was_outside(sequence)
            if is_outside or is_kept or sequence < begins:
                message = relevant.message(received)
                if message is not None:
                    yield Read(sequence, received.time_ms, message, is_kept, is_outside)

    def _was_outside(self, sequence: int) -> bool:
        place = bisect_left(self._outside, sequence)
        return place < len(self._outside) and self._outside[place] == sequence

    def _begin(self, place: Place) -> None:
        """This is where what is looked at begins."""
        self._begins = place
        for key in self.courses.keys:
            change = Change(*place, self.courses.known(key), None)
            self._changed(key, change)
            self.courses.of[key].goes_on()

    def _changed(self, key: SetKey, change: Change) -> None:
        self.changes[key] = change
        self.courses.begin(key, change.time_ms)

    def _asked_for(self, read: Read, wanted: DaemonSet) -> None:
        """This was asked for; it is a change unless it is said once more."""
        known = self.courses.known(wanted.key)
        before = known.daemonset
        if before is None or (before.uid, before.generation) != (wanted.uid, wanted.generation):
            self._changed(wanted.key, Change(read.sequence, read.time_ms, known, wanted))


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
        survey: How it was.
        wanted: The sets that it is about, as they are wanted instead.
        replaces: They are others; if not, everything is asked for as it was.

    Attributes:
        courses: How it would have gone.
        rehearsal: The fleet.
        ends_ms: Until when, in ms since 1970.
    """

    def __init__(self, survey: Survey, wanted: Mapping[SetKey, Wanted], *, replaces: bool) -> None:
        """Start before the first message."""
        self.courses = Courses(wanted)
        self.ends_ms = survey.ends_ms
        stream = survey.stream
        self.rehearsal = Rehearsal(
            stream.subjects.shards, survey.durations, naming=renaming(stream.renamed)
        )
        self._wanted = wanted if replaces else {}
        self._changes = {key: each.change for key, each in wanted.items()}
        self._begins = survey.begins(wanted)
        self._has_begun = False
        places = {Place(each.sequence, each.time_ms) for each in self._changes.values()}
        self._ahead = deque(sorted(places))  # where sets change

    def take_in(self, read: Read) -> None:
        """Go on to a message, and take it in: what was so before all is decided anew, then what happens by itself."""
        if not read.is_kept:
            self._reach(read.sequence)
        if self._has_begun:
            if read.is_outside and not self._is_replaced(read):
                self._fold(self.rehearsal.happen(read.time_ms, read.message))
            return
        if read.is_kept:
            self.rehearsal.load(read)
        else:
            self.rehearsal.follow(read)
        self.courses.fold(read)

    def finish(self) -> None:
        """Let time pass to the end of the stream, and on until nothing is due any more, at most for an hour."""
        self._reach(max([self._begins, *self._ahead]).sequence)
        fold = self.courses.fold
        for record in self.rehearsal.pass_time(self.ends_ms + SETTLE_MS_MAX):
            fold(record)
            if record.time_ms > self.ends_ms and type(record.message) is not Tick:
                self.ends_ms = record.time_ms

    def _fold(self, records: Iterable[Record]) -> None:
        for record in records:
            self.courses.fold(record)

    def _reach(self, sequence: int) -> None:
        """Do what is to be done up to a place: begin to decide anew, and change sets."""
        if not self._has_begun and sequence >= self._begins.sequence:
            self._has_begun = True
            self.rehearsal.begin(self._begins.time_ms)
        while self._ahead and self._ahead[0].sequence <= sequence:
            self._change(self._ahead.popleft())

    def _change(self, place: Place) -> None:
        """Begin the courses of those sets whose change stands here, and let them change."""
        for key, change in self._changes.items():
            if change.sequence != place.sequence:
                continue
            self._fold(self.rehearsal.pass_time(place.time_ms))
            course = self.courses.begin(key, place.time_ms)
            wanted = self._wanted.get(key)
            if wanted is not None and wanted.daemonset is not None:
                message = DaemonSetObserved(daemonset=wanted.daemonset)
                self._fold(self.rehearsal.happen(place.time_ms, message))
            elif wanted is not None or change.recorded is None:
                course.goes_on()

    def _is_replaced(self, record: Record) -> bool:
        """Say whether something else was asked for in the place of this, or of what this says once more."""
        if not isinstance(record.message, DaemonSetObserved):
            return False
        key = record.message.daemonset.key
        return key in self._wanted and record.sequence >= self._changes[key].sequence


def rehearse(
    survey: Survey, wanted: Mapping[SetKey, Wanted], again: Iterable[Entry]
) -> tuple[Courses, Rehearsed]:
    """Go through the past the second time.

    Args:
        survey: What the first time said.
        wanted: The sets that are to be others; at least one.
        again: The messages of the stream, read anew; they are left alone if those of the first time are held.

    Returns:
        How it was, and how it would have been. How it was is what was recorded; of a stream without decisions it is
        what would have been decided, had nothing been changed.
    """
    is_decided = survey.stream.is_decided
    runs = [Rehearsed(survey, wanted, replaces=True)]
    if not is_decided:
        runs.append(Rehearsed(survey, wanted, replaces=False))
    for read in survey.read_again(wanted, again):
        for run in runs:
            run.take_in(read)
    for run in runs:
        run.finish()
    return (survey.courses if is_decided else runs[1].courses), runs[0]


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
    same = sum(min(count, is_now.actions.get(each, 0)) for each, count in was.actions.items())
    pairs = zip_longest(was.first_decisions, is_now.first_decisions)
    different = list(islice(dropwhile(_is_same, pairs), DIFFERENT_SHOWN_MAX))
    return Differences(
        same=same,
        only_was=was.actions.total() - same,
        only_is=is_now.actions.total() - same,
        first_was=tuple(one for one, _ in different if one is not None),
        first_is=tuple(other for _, other in different if other is not None),
    )


def _is_same(pair: tuple[Made | None, Made | None]) -> bool:
    one, other = pair
    return one is not None and other is not None and one.actions == other.actions
