"""The part of a fleet that a plan is about: nodes, the planned sets and their pods, as the log or a recording has them.

Used by ``planning``; whoever reads for it asks what it wants first, because most of a fleet is not for it. It holds a
``core.state``, and lets what is on its way arrive. Of a node and of a pod only the last that was told is folded, and
of what is forgotten in time nothing: in what order different things are heard of does not matter to ``core.state``.
No I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter

from everynode import wire
from everynode.core.commands import COMMANDS
from everynode.core.effects import has_taken_effect
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.identity import RevisionOf, shard_of
from everynode.core.pacing import Limits
from everynode.core.setstate import SetState
from everynode.core.state import FleetState, Record
from everynode.core.values import Message, SetKey
from everynode.errors import RefusedError
from everynode.ports import Received
from everynode.replay.durations import Durations
from everynode.replay.pods import RehearsedPods

ARRIVAL_MS_MAX = 1_000
"""How long what is on its way is waited for; what takes longer waits for something else."""

TOLD_MESSAGES_MIN = 100_000
"""How much of nodes and pods is held at least before it is read; else twice as much as is known of them."""

TOLD_BYTES_MAX = 64 * 1024 * 1024
"""How large that may be, subjects and bodies."""

_OF_A_SET = ("daemonset", "status", "decision")
_FREQUENT = ("pod", "node")
_PASSING = ("command", "outcome", "decision")
"""What is forgotten in time, and not kept by STATE."""

_GONE = PodGone.__name__.encode()

_sequence_of = attrgetter("sequence")


class PlannedFleet:
    """What is known of a fleet before something is applied to it.

    Args:
        subjects: The fleet's subjects.
        keys: The sets that are planned; of others nothing is kept.
        naming: Says what a template is called; by its content, if nobody says otherwise.

    Attributes:
        state: What is known, after ``settle``.
        refused: How many messages could not be used, of those that were looked at: not all that was overtaken is.
        shards: Those of the sets.
    """

    def __init__(
        self,
        subjects: wire.Subjects,
        keys: Iterable[SetKey],
        naming: RevisionOf | None = None,
    ) -> None:
        """Know nothing yet."""
        self.state = FleetState(Limits(), naming)
        self.refused = 0
        self._sequence = 0
        self._subjects = subjects
        self._keys = frozenset(keys)
        self.shards = frozenset(shard_of(key, subjects.shards) for key in self._keys)
        self._shards = frozenset(map(str, self.shards))
        self._namespaces = frozenset(wire.token(key.namespace) for key in self._keys)
        self._sets = frozenset(
            subjects.of_set(kind, key) for kind in _OF_A_SET for key in self._keys
        )
        self._revisions = frozenset(subjects.of_set("revision", key) for key in self._keys)
        self._frequent = tuple(f"{subjects.prefix}.{kind}." for kind in _FREQUENT)
        self._forgotten = tuple(f"{subjects.prefix}.{kind}." for kind in _PASSING)
        self._commands = f"{subjects.prefix}.command."
        self._outcomes = f"{subjects.prefix}.outcome."
        places = (*self._shards, wire.ORPHANS)
        self._pods = tuple(f"{subjects.prefix}.pod.{place}." for place in places)
        outcomes = (f"{self._outcomes}{shard}." for shard in self._shards)
        self._all_wanted = (*outcomes, f"{subjects.prefix}.node.")
        self._told: list[Received] = []  # of nodes and pods; most of it is overtaken unread
        self._told_bytes = 0
        self._last: dict[str, Record] = {}  # of nodes and pods, by subject
        self._gone: list[Record] = []  # tombstones of pods of which something was told later
        self._passing: deque[Received] = deque()
        self._newest_ms = 0
        self._told_max = TOLD_MESSAGES_MIN

    def wants(self, subject: str) -> bool:
        """Say whether a message may concern the plan, by its subject."""
        if subject.startswith(self._all_wanted):
            return True
        if subject.startswith(self._pods):
            return not self._namespaces.isdisjoint(subject.split(".", 6)[5:6])
        if subject.startswith(self._commands):
            return not self._shards.isdisjoint(subject.split(".", 6)[5:6])
        return subject in self._sets or subject.rpartition(".")[0] in self._revisions

    def take_kept(self, received: Received) -> bool:
        """Take in a message that is wanted and that STATE kept: there is one of each subject.

        Returns:
            Whether it could be used; if not, nothing has changed.
        """
        self._sequence = max(self._sequence, received.sequence)
        if not received.subject.startswith(self._frequent):
            return self._use(received, self.state.load)
        return self._use(received, lambda record: self._keep(received.subject, record))

    def take(self, received: Received) -> None:
        """Take in a message of the log that is wanted: after what STATE kept, and in their order."""
        if received.time_ms > self._newest_ms:  # noqa: PLR1730 - for each message, and max() takes three times as long
            self._newest_ms = received.time_ms
        if received.sequence > self._sequence:  # noqa: PLR1730 - as above
            self._sequence = received.sequence
        subject = received.subject
        if subject.startswith(self._frequent):
            self._told.append(received)
            self._told_bytes += len(subject) + len(received.payload)
            if len(self._told) > self._told_max or self._told_bytes > TOLD_BYTES_MAX:
                self._sort_out()
        elif subject.startswith(self._forgotten):
            self._passing.append(received)
            if self._passing[0].time_ms < self._newest_ms - self.state.limits.horizon_ms:
                self._forget_passing(self._newest_ms)
        else:
            self._use(received, self.state.load)

    def _read(self, received: Received) -> Record | None:
        """Decode a message; ``None`` if it cannot be used."""
        try:
            message = wire.decode_from(self._subjects, received.subject, received.payload)
        except RefusedError:
            return None
        return Record(received.sequence, received.time_ms, message)

    def _use(self, received: Received, use: Callable[[Record], None]) -> bool:
        """Take in a message, if it is not about another set of the same shard; say whether it could be used."""
        record = self._read(received)
        try:
            if record is not None and not self._is_about_others(record.message):
                use(record)
        except RefusedError:
            record = None
        self.refused += record is None
        return record is not None

    def _sort_out(self) -> None:
        """Read what was told of nodes and pods: of each the last message that can be used, and that pods were gone."""
        told, self._told, self._told_bytes = self._told, [], 0
        told.sort(key=_sequence_of)
        read: set[str] = set()
        for received in reversed(told):
            subject = received.subject
            is_overtaken = subject in read
            if is_overtaken and not _may_be_gone(received.payload):
                continue
            record = self._read(received)
            if record is None:
                self.refused += not is_overtaken
            elif not self._is_about_others(record.message):
                read.add(subject)
                self._keep(subject, record)
        self._forget_gone(self._newest_ms - 2 * self.state.limits.horizon_ms)
        self._told_max = max(TOLD_MESSAGES_MIN, 2 * (len(self._last) + len(self._gone)))

    def _keep(self, subject: str, record: Record) -> None:
        last, other = record, self._last.get(subject)
        if other is not None and other.sequence > record.sequence:
            last, other = other, record
        self._last[subject] = last
        if other is not None and type(other.message) is PodGone:
            self._gone.append(other)

    def _forget_gone(self, oldest_ms: int) -> None:
        """Forget pods that went long ago: what was asked for while they were there is forgotten, too."""
        for subject, record in list(self._last.items()):
            if record.time_ms < oldest_ms and isinstance(record.message, PodGone):
                del self._last[subject]
        self._gone = [record for record in self._gone if record.time_ms >= oldest_ms]

    def _forget_passing(self, now_ms: int) -> None:
        oldest_ms = now_ms - self.state.limits.horizon_ms
        while self._passing and self._passing[0].time_ms < oldest_ms:
            self._passing.popleft()

    def _is_about_others(self, message: Message) -> bool:
        """Say whether a message is about another set of the same shard."""
        match message:
            case NodeObserved() | NodeGone():
                return False
            case PodObserved(pod=pod):
                key = pod.set_key
            case PodGone():
                key = message.set_key
            case _:
                key = getattr(message, "set_key", None)
        return key is not None and key not in self._keys

    def outcome_subjects(self) -> list[str]:
        """Name the subjects of the outcomes that matter: those of commands that have not taken effect by now."""
        if not self._passing:
            return []
        self._forget_passing(self._newest_ms)
        self._load(self._newest_ms)
        return [
            f"{self._outcomes}{self._subjects.parts(each.subject)[1]}.{_last_token(each.subject)}"
            for each in self._passing
            if each.subject.startswith(self._commands)
        ]

    def settle(self, now_ms: int) -> None:
        """Let time pass up to now, and take over what was held back: how things are, and then what was asked for."""
        self._forget_passing(now_ms)
        self._load(now_ms)
        for received in sorted(self._passing, key=_sequence_of):
            self._use(received, self.state.fold)
        self._passing.clear()
        self.state.pass_time(now_ms)

    def _load(self, now_ms: int) -> None:
        """Take over how things are, and let go of commands that have taken effect and of what became of them."""
        self._sort_out()
        begins_ms = self._passing[0].time_ms if self._passing else now_ms
        oldest_ms = begins_ms - self.state.limits.horizon_ms
        for record in (*self._last.values(), *self._gone):
            if record.time_ms >= oldest_ms or not isinstance(record.message, PodGone):
                self.state.load(record)
        self._last.clear()
        self._gone.clear()
        awaited: set[str] = set()
        matter: deque[Received] = deque()
        for received in self._passing:
            subject = received.subject
            if subject.startswith(self._outcomes):
                matters = bool(awaited) and _last_token(subject) in awaited
            elif subject.startswith(self._commands):
                matters = not self._has_taken_effect(received)
                if matters:
                    awaited.add(_last_token(subject))
            else:
                matters = True
            if matters:
                matter.append(received)
        self._passing = matter

    def _has_taken_effect(self, received: Received) -> bool:
        try:
            command = wire.decode(received.payload)
        except RefusedError:
            return False
        if not isinstance(command, COMMANDS):
            return False
        state = self.state.sets.get((command.namespace, command.daemonset))  # type: ignore[call-overload]
        return state is not None and has_taken_effect(state, command, received.sequence)

    def known(self, key: SetKey) -> SetState | None:
        """Return what is known of a set."""
        return self.state.sets.get(key)

    def arrive(self, now_ms: int) -> int:
        """Let the commands arrive that are on their way now.

        Returns:
            How many they were.
        """
        self.settle(now_ms)
        pending = sorted(
            (each for state in self.state.sets.values() for each in state.pending.values()),
            key=lambda each: each.sequence,
        )
        if not pending:
            return 0
        pods = RehearsedPods(Durations())
        for node_id in self.state.index.everything:
            pods.mirror(NodeObserved(node=self.state.index.node(node_id)))
        for state in self.state.sets.values():
            for known in (*state.pods.values(), *state.orphans.values()):
                pods.mirror(PodObserved(pod=known.pod))
        pods.send(tuple(each.command for each in pending), now_ms)
        until_ms = now_ms + ARRIVAL_MS_MAX
        while (due_ms := pods.next_due_ms) is not None and due_ms <= until_ms:
            for message in pods.advance(due_ms):
                self.write(message)
        return len(pending)

    def write(self, message: wire.AnyMessage) -> None:
        """Take in a message that is not on the log, as if it came next.

        Raises:
            RefusedError: It cannot be used.
        """
        self._sequence += 1
        self.state.fold(Record(self._sequence, self.state.now_ms, message))


def _may_be_gone(payload: bytes) -> bool:
    """Say whether a message may be the tombstone of a pod: by its name as it is, or escaped."""
    return _GONE in payload or b"\\" in payload


def _last_token(subject: str) -> str:
    return subject.rpartition(".")[2]
