"""Decides again what a recorded log says was decided, and compares to the byte.

Each decision names the place in the log up to which its worker had read, and the log's time there. So here the log is
read up to that place, the core is asked, and what it proposes is set beside what stands on the log. A worker reads the
nodes and the messages of its shards, and the core's clock moves with what it reads; so each shard has a state of its
own here, which is moved on to the decision's time. No I/O: entries come in, findings come out.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from everynode import wire
from everynode.core.commands import Command, Decision
from everynode.core.decision import Proposal, propose
from everynode.core.events import NodeGone, Tick
from everynode.core.identity import RevisionOf, revision_of, shard_of
from everynode.core.pacing import Limits
from everynode.core.setstate import SetState
from everynode.core.state import FleetState, Record
from everynode.core.values import DaemonSet, SetKey
from everynode.errors import RefusedError
from everynode.ports import Received
from everynode.replay.recording import Entry
from everynode.replay.streams import record_of

AHEAD_MESSAGES_MAX = 50_000
"""How many messages are read ahead of what is folded: a decision that was made longer before it was stored cannot be
repeated."""

AHEAD_BYTES_MAX = 64 * 1024 * 1024
"""How large they may be, subjects and bodies."""

READERS_MAX = 65_536
"""Subjects of which is remembered who reads them."""


class Decided(NamedTuple):
    """A decision of the recording, and what is decided now.

    Attributes:
        received: The decision as the log had it.
        decision: What it says.
        batch: The decision and what was stored with it, as the log had it.
        again: The same, as it is decided now; ``None`` if it was not asked for or cannot be; empty if nothing would be.
        why_not: Why it could not be decided again.
    """

    received: Received
    decision: Decision
    batch: tuple[Received, ...]
    again: tuple[wire.AnyMessage, ...] | None
    why_not: str = ""

    def difference(self) -> Difference | None:
        """Compare; ``None`` if every byte is the same, or nothing could be decided again."""
        if self.again is None:
            return None
        now = [wire.encode(message) for message in self.again]
        for place in range(max(len(self.batch), len(now))):
            was = self.batch[place].payload if place < len(self.batch) else None
            is_now = now[place] if place < len(now) else None
            if was != is_now:
                return Difference(self.decision, self.received.sequence, place, was, is_now)
        return None


class Difference(NamedTuple):
    """The first place at which a decision is another now.

    Attributes:
        decision: The decision.
        sequence: Where it stands on the log.
        place: Which message of its batch differs; 0 is the decision itself.
        was: The message as it was stored; ``None`` if there was none.
        is_now: As it is now; ``None`` if there is none.
    """

    decision: Decision
    sequence: int
    place: int
    was: bytes | None
    is_now: bytes | None


class Known(NamedTuple):
    """What a worker knew of a set when it decided.

    Attributes:
        nodes: How many nodes the fleet had.
        generation: The set's; 0 if it was not there.
        pods: How many pods it had, of which ``ready`` were ready and ``updated`` of the wanted revision.
        orphans: How many pods it could have adopted.
        decided: Where the set's last decision stood; 0 if there was none.
        pending: Commands whose effect had not been observed, in the order of the log.
    """

    nodes: int
    generation: int
    revision: str
    pods: int
    ready: int
    updated: int
    orphans: int
    decided: int
    pending: tuple[Command, ...]


@dataclass
class ReplayCounts:
    """What a replay has come across.

    Attributes:
        messages: Messages of LOG.
        malformed: Of those, what cannot be used.
        decisions: Decisions.
        again: Of those, what was decided again.
        out_of_reach: What was decided too long before it was stored, or before the recording begins.
    """

    messages: int = 0
    malformed: int = 0
    decisions: int = 0
    again: int = 0
    out_of_reach: int = 0


@dataclass
class _Expected:
    """A decision that waits for the log to be folded up to its basis."""

    received: Received
    decision: Decision
    batch: list[Received] = field(default_factory=list)


class Replay:
    """Folds a recorded log.

    Args:
        subjects: The fleet's subjects.
        limits: What its workers allowed themselves.
        renamed: What templates are called in the recording, by the hash of what stands in it (redaction).
        from_sequence: Decisions before it are not decided again.

    Attributes:
        sequence: Place of the last message that was folded.
    """

    def __init__(
        self,
        subjects: wire.Subjects,
        limits: Limits | None = None,
        renamed: Mapping[str, str] | None = None,
        from_sequence: int = 0,
    ) -> None:
        """Start before the first message."""
        self.counts = ReplayCounts()
        self.sequence = 0
        self._subjects = subjects
        self._decisions = f"{subjects.prefix}.decision."
        self._frequent = (f"{subjects.prefix}.node.", f"{subjects.prefix}.pod.")
        self._limits = limits or Limits()
        self._revision_of = renaming(renamed) if renamed is not None else revision_of
        self._from_sequence = from_sequence
        self._nodes = FleetState(self._limits, self._revision_of)
        self._shards: dict[str, FleetState] = {}
        self._shard_names = frozenset(map(str, range(subjects.shards)))
        self._readers_of = functools.lru_cache(maxsize=READERS_MAX)(self._find_readers)
        self._ahead: deque[Received] = deque()  # as bytes: decoded, they take several times as much
        self._open: _Expected | None = None  # its batch is being read
        self._expected: list[tuple[int, int, _Expected]] = []  # a heap by basis and place

    def known_of(self, key: SetKey) -> Known:
        """Say what a set's worker knows of it, where the log is folded to."""
        fleet = self.state_of(key)
        state = fleet.sets.get(key) or SetState(key)
        pods = [known.pod for known in state.pods.values()]
        pending = sorted(state.pending.values(), key=lambda each: each.sequence)
        return Known(
            nodes=len(fleet.index.ids),
            generation=state.generation,
            revision=state.revision,
            pods=len(pods),
            ready=sum(pod.ready for pod in pods),
            updated=sum(pod.revision == state.revision for pod in pods),
            orphans=len(state.orphans),
            decided=state.fence,
            pending=tuple(each.command for each in pending),
        )

    def state_of(self, key: SetKey) -> FleetState:
        """Return the state that a set's worker has."""
        return self._shard(str(shard_of(key, self._subjects.shards)))

    def run(self, entries: Iterable[Entry]) -> Iterator[Decided]:
        """Fold all entries; hands out the decisions as they come to be repeated, in the order of what they knew."""
        ahead, decisions = self._ahead, self._decisions
        ahead_bytes = 0
        for entry in entries:
            received = entry.received
            if entry.is_kept:
                self._load(received)
                continue
            ahead.append(received)
            if self._open is not None or received.subject.startswith(decisions):
                self._gather(received)
            ahead_bytes += len(received.subject) + len(received.payload)
            while len(ahead) > AHEAD_MESSAGES_MAX or ahead_bytes > AHEAD_BYTES_MAX:
                if self._expected and self._is_due:
                    yield from self._due()
                received = ahead.popleft()
                ahead_bytes -= len(received.subject) + len(received.payload)
                self._fold(received)
        while self._ahead:
            yield from self._due()
            self._fold(self._ahead.popleft())
        yield from self._due()

    # --- reading ahead ------------------------------------------------------------------------------------------------

    def _gather(self, received: Received) -> None:
        """Take in a decision, or what was stored with it."""
        if self._open is not None:
            self._open.batch.append(received)
        else:
            record = record_of(self._subjects, received)
            if record is not None and isinstance(record.message, Decision):
                self._open = _Expected(received, record.message, [received])
        if self._open is not None and len(self._open.batch) > self._open.decision.size:
            decision, sequence = self._open.decision, self._open.received.sequence
            # One whose basis comes after it is not waited for.
            basis = min(decision.basis, sequence - 1)
            heapq.heappush(self._expected, (basis, sequence, self._open))
            self._open = None

    # --- folding ------------------------------------------------------------------------------------------------------

    def _load(self, received: Received) -> None:
        record = record_of(self._subjects, received)
        if record is not None:
            for state in self._readers_of(received.subject):
                with contextlib.suppress(RefusedError):
                    state.load(record)

    def _fold(self, received: Received) -> None:
        """Fold the next message."""
        self.counts.messages += 1
        self.sequence = received.sequence
        record = record_of(self._subjects, received)
        if record is None:
            self.counts.malformed += 1
            return
        subject = received.subject
        if subject.startswith(self._frequent):
            # The same read all that begins like this, and there are few such beginnings.
            subject = subject.rpartition(".")[0]
        for state in self._readers_of(subject):
            if state.now_ms < self._nodes.now_ms:
                state.pass_time(self._nodes.now_ms)  # its worker has read of the nodes, too
            try:  # noqa: SIM105 - for each message, and suppress() takes as long as the half of fold()
                state.fold(record)
            except RefusedError:
                pass  # nor could its worker use it
        if type(record.message) is NodeGone:
            for state in self._shards.values():
                state.look_at(record.message.key)

    def _find_readers(self, subject: str) -> tuple[FleetState, ...]:
        """Return the states of those who read a subject; that of the nodes is shared by all."""
        kind, shard = self._subjects.parts(subject)
        if kind == "node":
            return (self._nodes,)
        if shard == wire.ORPHANS:
            return (self._nodes, *self._shards.values())
        if kind == "notice" or shard not in self._shard_names:
            return ()
        return (self._shard(shard),)

    def _shard(self, shard: str) -> FleetState:
        """Return a shard's state; a new one knows the nodes, and the orphans so far."""
        state = self._shards.get(shard)
        if state is None:
            self._readers_of.cache_clear()  # who reads orphans
            nodes = self._nodes.nodes
            state = self._shards[shard] = copy.deepcopy(self._nodes, {id(nodes): nodes})
        return state

    # --- deciding -----------------------------------------------------------------------------------------------------

    @property
    def _is_due(self) -> bool:
        """There is a decision whose worker had not read what is to be folded next."""
        if not self._expected:
            return False
        return not self._ahead or self._expected[0][0] < self._ahead[0].sequence

    def _due(self) -> Iterator[Decided]:
        """Repeat the decisions whose worker had read as much as is folded now."""
        while self._is_due:
            _, _, expected = heapq.heappop(self._expected)
            self.counts.decisions += 1
            decided = self._decide(expected)
            if decided.again is not None:
                self.counts.again += 1
            elif decided.why_not:
                self.counts.out_of_reach += 1
            yield decided

    def _decide(self, expected: _Expected) -> Decided:
        received, decision, batch = expected.received, expected.decision, tuple(expected.batch)
        why_not = ""
        if received.sequence < self._from_sequence:
            why_not = "it stands before what was recorded"
        elif decision.basis >= received.sequence:
            why_not = "it says that it knew of what was stored after it"
        elif decision.basis < self.sequence:
            why_not = "it was decided too long before it was stored"
        if why_not:
            return Decided(received, decision, batch, None, why_not)
        proposal = self._propose(decision)
        again = () if proposal is None else (proposal.decision, *proposal.others)
        return Decided(received, decision, batch, again)

    def _propose(self, decision: Decision) -> Proposal | None:
        state = self.state_of(decision.set_key)
        shard = shard_of(decision.set_key, self._subjects.shards)
        tick = Tick(shard=shard, due_ms=decision.at_ms)  # as far as the worker's clock had come
        state.fold(Record(decision.basis, decision.at_ms, tick))
        if decision.set_key not in state.sets:
            return None
        return propose(state, decision.set_key, decision.worker)


def renaming(renamed: Mapping[str, str]) -> RevisionOf:
    """Call templates what the recording calls them."""

    def named(daemonset: DaemonSet) -> str:
        found = revision_of(daemonset)
        return renamed.get(found, found)

    return named
