"""The fleet as the log tells it: ``fold`` takes in one message at a time and marks the sets that it concerns.

Owned by ``machine``; nothing else changes it. A message that cannot be true raises and changes nothing. Facts carry
their place in the log: folding a message twice, or an older one after a newer one about the same thing, changes
nothing, and the order in which different things are heard of does not matter.

What STATE does not keep (pending commands, what went lately, failures) is forgotten after ``Limits.horizon_ms`` of log
time. So a worker that starts now and reads STATE and the last few minutes of the log knows the same as one that has run
for weeks.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import msgspec

from everynode.core.budget import check_strategy
from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    ReleasePod,
)
from everynode.core.eligibility import compile_constraints
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    NoticeReported,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
    Tick,
)
from everynode.core.identity import RevisionOf, revision_of
from everynode.core.index import NodeChange, NodeIndex
from everynode.core.nodes import KnownNodes
from everynode.core.orphans import Orphans
from everynode.core.pacing import NEVER_MS, Limits
from everynode.core.selectors import check_selector, selects
from everynode.core.setstate import SetState
from everynode.core.values import Message, NodeKey, Pod, PodKey, SetKey

DELETED_SETS_MAX = 2_000
"""Sets that are known to be deleted; STATE keeps their tombstones for as long as LOG keeps messages."""

DUE_ENTRIES_MIN = 1_024
"""From how many entries on the list of what is due is cleared of what is not due any more."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message of the log.

    Attributes:
        sequence: Its place in the log.
        time_ms: When the log took it in.
    """

    sequence: int
    time_ms: int
    message: Message


NO_NODE = NodeKey("", "")


class Due(NamedTuple):
    """Something that time alone brings about: a node of a set is to be looked at again.

    Attributes:
        node: The node; ``NO_NODE`` if it is the set's rollout.
        command_id: The command that expires; empty if it is something else.
    """

    time_ms: int
    set_key: SetKey
    node: NodeKey
    command_id: str


class _RevisionName(NamedTuple):
    hash: str


class _Remembered(NamedTuple):
    """Something to forget when it is old: a pod or node that went, a command by its id, or only its set."""

    time_ms: int
    sequence: int
    set_key: SetKey | None
    what: PodKey | NodeKey | _RevisionName | str | None


class FleetState:
    """Nodes, sets and pods of a fleet, up to one place in the log.

    Attributes:
        sequence: The last message that was folded.
        now_ms: The core's clock: the time of the latest message.
        dirty: Sets to look at: something has happened that may ask for a decision or change their status.
        nodes: The nodes; other states may share them.
    """

    def __init__(self, limits: Limits, naming: RevisionOf | None = None) -> None:
        """Start before the first message.

        Args:
            limits: What may be pending, and how long anything is remembered.
            naming: Says what a set's template is called; by its content, if nobody says otherwise.

        Raises:
            ConfigurationError: A limit is out of its range.
        """
        limits.check()
        self.limits = limits
        self._revision_of = naming or revision_of
        self.nodes = KnownNodes()
        self.sets: dict[SetKey, SetState] = {}
        self.sequence = 0
        self.now_ms = 0
        self.dirty: set[SetKey] = set()
        self._mentions: dict[str, set[SetKey]] = {}
        self._deleted: dict[SetKey, None] = {}
        self._orphans = Orphans()
        self._due: list[Due] = []
        self._due_max = DUE_ENTRIES_MIN
        self._remembered: list[_Remembered] = []

    @property
    def index(self) -> NodeIndex:
        """The nodes, and who has what."""
        return self.nodes.index

    def fold(self, record: Record) -> None:
        """Take in the next message of the log.

        Raises:
            InvalidObjectError: A set's template cannot be read; nothing has changed but the clock.
        """
        sequence, time_ms = record.sequence, record.time_ms
        if sequence > self.sequence:  # noqa: PLR1730 - for each message, and max() takes three times as long
            self.sequence = sequence
        if time_ms > self.now_ms:
            self.pass_time(time_ms)
        self._take_in(record)
        if self._due and self._due[0].time_ms <= self.now_ms:
            self._come_due()  # what was due before it was heard of

    def pass_time(self, now_ms: int) -> None:
        """Move the clock; it never goes back."""
        if now_ms > self.now_ms:
            self.now_ms = now_ms
            if self._due or self._remembered:
                self._come_due()

    def load(self, record: Record) -> None:
        """Take in a message that STATE kept: as ``fold``, but it says nothing about the time it is now."""
        self._take_in(record)

    def refreshed(self, key: SetKey) -> SetState:
        """Return a set with its bitmaps up to date."""
        state = self.sets[key]
        changes, position = self.nodes.changes_since(state.journal_position)
        state.coverage.refresh(state, self.index, changes, self.now_ms)
        state.journal_position = position
        return state

    def orphan(self, key: PodKey) -> Pod | None:
        """Return the pod of this name, if there is one and nobody controls it."""
        known = self._orphans.get(key)
        return None if known is None else known.pod

    def due(self) -> Due | None:
        """Return what time alone will ask for first, if nothing else happens before."""
        while self._due and not self._still_due(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0] if self._due else None

    # One method for each kind of message

    def _take_in(self, record: Record) -> None:
        sequence, time_ms, message = record.sequence, record.time_ms, record.message
        # A class that it is not is told five times as fast as by a case, so the frequent kinds come before those.
        if type(message) is PodObserved:
            self._pod_observed(message, sequence)
        elif type(message) is NodeObserved:
            self._node_observed(message, sequence)
        elif type(message) is Outcome:
            self._outcome(message, sequence, time_ms)
        elif type(message) is PodGone:
            self._pod_gone(message, sequence, time_ms)
        else:
            self._take_in_other(message, sequence, time_ms)

    def _take_in_other(self, message: Message, sequence: int, time_ms: int) -> None:
        match message:
            case NodeGone():
                self._node_gone(message, sequence, time_ms)
            case DaemonSetObserved():
                self._daemonset_observed(message, sequence)
            case DaemonSetGone():
                self._daemonset_gone(message, sequence, time_ms)
            case RevisionRecorded():
                self._revision_recorded(message, sequence)
            case RevisionGone():
                self._revision_gone(message, sequence, time_ms)
            case CreatePod() | DeletePod() | AdoptPod() | ReleasePod():
                self._commanded(message, sequence, time_ms)
            case Decision():
                self._set(message.set_key).decided(message, sequence, time_ms)
            case StatusReported():
                self._status_reported(message, sequence)
            case StatusGone():
                self._status_gone(message, sequence, time_ms)
            case Tick() | NoticeReported():
                pass  # it has moved the clock

    def _set(self, key: SetKey) -> SetState:
        """Return a set that a message is about, and mark it."""
        state = self.sets.get(key)
        if state is None:
            state = self.sets[key] = SetState(key)
            self._remember(self.now_ms, 0, key, None)
        self.dirty.add(key)
        return state

    def _node_observed(self, message: NodeObserved, sequence: int) -> None:
        change = self.nodes.put(message.node, sequence)
        if change is not None:
            self._node_changed(change)

    def _node_gone(self, message: NodeGone, sequence: int, time_ms: int) -> None:
        key = message.key
        if not self.nodes.is_news(key, sequence):
            return
        self._remember(time_ms, sequence, None, key)
        change = self.nodes.remove(key)
        if change is None:
            self.look_at(key)  # it was never heard of, but pods on it may have been
        else:
            self._node_changed(change)

    def look_at(self, node: NodeKey) -> None:
        """Look again at the pods on a node."""
        for key, state in self.sets.items():
            if node in state.pods_on:
                state.touched.add(node)
                self.dirty.add(key)

    def _node_changed(self, change: NodeChange) -> None:
        if not self.sets:
            return  # it keeps nodes for others
        if change.identity_changed:
            self.dirty.update(self.sets)
            return
        for label in change.labels:
            self.dirty.update(self._mentions.get(label, ()))
        if change.readiness_changed:
            for set_key, state in self.sets.items():
                if change.id in state.coverage.eligible:
                    self.dirty.add(set_key)
        if change.taints:
            for set_key, state in self.sets.items():
                constraints = state.constraints
                if constraints and not all(map(constraints.tolerates, change.taints)):
                    self.dirty.add(set_key)

    def _pod_observed(self, message: PodObserved, sequence: int) -> None:
        pod = message.pod
        owner = pod.owner
        if owner is None:
            if self._orphans.put(pod, sequence):
                self._offer_orphan(pod.key, pod.namespace)
            return
        # A plain tuple finds what a key finds, and to make a key takes longer than that.
        state = self.sets.get((pod.namespace, owner.name))  # type: ignore[call-overload]
        if state is None:
            state = self._set(SetKey(pod.namespace, owner.name))
        else:
            self.dirty.add(state.key)
        state.put_pod(pod, sequence)
        self._await_pod(state, pod)

    def _pod_gone(self, message: PodGone, sequence: int, time_ms: int) -> None:
        set_key = message.set_key
        if set_key is not None:
            self._set(set_key).drop_pod(message, sequence, time_ms)
            self._remember(time_ms, sequence, set_key, message.key)
        elif self._orphans.drop(message.key, sequence):
            self._remember(time_ms, sequence, None, message.key)
            self._offer_orphan(message.key, message.namespace)

    def _offer_orphan(self, key: PodKey, namespace: str) -> None:
        """Tell the sets of a namespace how a pod is that nobody controls, or that there is none of this name."""
        for state in self.sets.values():
            if state.key.namespace == namespace:
                self._match_orphan(state, key)

    def _match_orphan(self, state: SetState, key: PodKey) -> None:
        known, wanted = self._orphans.get(key), state.daemonset
        if known and wanted and selects(wanted.selector, known.pod.labels or {}):
            state.put_orphan(known)
        elif key in state.orphans:
            state.drop_orphan(key)
        else:
            return
        self.dirty.add(state.key)

    def _daemonset_observed(self, message: DaemonSetObserved, sequence: int) -> None:
        daemonset = message.daemonset
        # Before anything is changed: they refuse what cannot be read.
        constraints, revision = compile_constraints(daemonset), self._revision_of(daemonset)
        check_strategy(daemonset)
        check_selector(daemonset)
        state = self._set(daemonset.key)
        if state.sequence >= sequence:
            return
        state.sequence = sequence
        self._mention(state, None)
        state.set_wanted(daemonset, constraints, revision)
        self._deleted.pop(daemonset.key, None)
        selector = state.rollout_selector
        selected_by = frozenset(() if selector is None else (item.key for item in selector.labels))
        self._mention(state, constraints.label_keys() | selected_by)
        for key in {*state.orphans, *self._orphans.of(daemonset.namespace)}:
            self._match_orphan(state, key)
        for known in state.pods.values():
            self._await_pod(state, known.pod)

    def _daemonset_gone(self, message: DaemonSetGone, sequence: int, time_ms: int) -> None:
        state = self._set(message.key)
        if state.sequence >= sequence:
            return
        state.sequence = sequence
        self._mention(state, None)
        state.set_gone(message)
        for key in tuple(state.orphans):
            state.drop_orphan(key)
        self._deleted[message.key] = None
        if len(self._deleted) > DELETED_SETS_MAX:
            oldest = next(iter(self._deleted))
            del self._deleted[oldest]
            self._remember(self.now_ms, 0, oldest, None)
        self._remember(time_ms, sequence, message.key, None)

    def _mention(self, state: SetState, labels: frozenset[str] | None) -> None:
        """Keep which sets depend on which label key."""
        if labels is not None:
            for label in labels:
                self._mentions.setdefault(label, set()).add(state.key)
            state.mentioned = labels
            return
        for label in state.mentioned:
            self._mentions[label].discard(state.key)
            if not self._mentions[label]:
                del self._mentions[label]
        state.mentioned = frozenset()

    def _revision_recorded(self, message: RevisionRecorded, sequence: int) -> None:
        revision = message.revision
        state = self._set(revision.set_key)
        if state.revision_sequences.get(revision.hash, 0) < sequence:
            state.revision_sequences[revision.hash] = sequence
            state.revisions[revision.hash] = revision

    def _revision_gone(self, message: RevisionGone, sequence: int, time_ms: int) -> None:
        state = self._set(message.set_key)
        self._remember(time_ms, sequence, state.key, _RevisionName(message.hash))
        if state.revision_sequences.get(message.hash, 0) < sequence:
            state.revision_sequences[message.hash] = sequence
            state.revisions.pop(message.hash, None)

    def _commanded(self, command: Command, sequence: int, time_ms: int) -> None:
        state = self._set(command.set_key)
        state.issue(command, sequence)
        self._remember(time_ms, sequence, state.key, command.id)
        if command.id in state.pending:
            # If it came too late to be carried out, it has failed: what is asked for next has another id.
            self._await(Due(command.expires_ms, state.key, command.node_key, command.id))

    def _outcome(self, outcome: Outcome, sequence: int, time_ms: int) -> None:
        state = self._set(outcome.set_key)
        pending = state.pending.get(outcome.id)
        state.heard(outcome, sequence, time_ms)
        if pending is None:
            return
        node, waiting = pending.command.node_key, state.pending.get(outcome.id)
        if waiting is None:
            self._await_retry(state, node)
        else:
            self._await(Due(waiting.due_ms, state.key, node, outcome.id))

    def _status_reported(self, message: StatusReported, sequence: int) -> None:
        key = message.status.set_key
        state = self.sets.get(key) or self._set(key)  # a report asks for nothing
        if state.status_sequence < sequence:
            state.status_sequence = sequence
            state.status = message.status
            deadline_ms = state.progress_deadline_ms
            if self.now_ms < deadline_ms < NEVER_MS:
                self._await(Due(deadline_ms, key, NO_NODE, ""))

    def _status_gone(self, message: StatusGone, sequence: int, time_ms: int) -> None:
        state = self._set(message.set_key)
        self._remember(time_ms, sequence, state.key, None)
        if state.status_sequence < sequence:
            state.status_sequence = sequence
            state.status = None

    # Time

    def _remember(
        self,
        time_ms: int,
        sequence: int,
        set_key: SetKey | None,
        what: PodKey | NodeKey | _RevisionName | str | None,
    ) -> None:
        heapq.heappush(self._remembered, _Remembered(time_ms, sequence, set_key, what))
        if set_key is not None:
            self.sets[set_key].memories += 1

    def _await(self, due: Due) -> None:
        heapq.heappush(self._due, due)
        if len(self._due) > self._due_max:
            self._due = sorted({due for due in self._due if self._still_due(due)})
            self._due_max = max(DUE_ENTRIES_MIN, 2 * len(self._due))

    def _await_pod(self, state: SetState, pod: Pod) -> None:
        if not pod.failures and not state.min_ready_ms:
            return  # nothing about it waits for time
        for at_ms in state.turns_ms(pod):
            if self.now_ms < at_ms < NEVER_MS:
                self._await(Due(at_ms, state.key, pod.node_key, ""))

    def _await_retry(self, state: SetState, node: NodeKey) -> None:
        for name in state.failures_on.get(node, ()):
            self._await(Due(state.failures[name].cooling.retry_ms, state.key, node, ""))

    def _come_due(self) -> None:
        """Do what time alone brings about, up to ``now_ms``."""
        while self._due and self._due[0].time_ms <= self.now_ms:
            due = heapq.heappop(self._due)
            if not self._still_due(due):
                continue
            state = self._set(due.set_key)
            if due.command_id:
                state.fail(
                    due.command_id, due.time_ms
                )  # it has expired: others first, then it again
                self._await_retry(state, due.node)
            if due.node != NO_NODE:
                state.touched.add(due.node)
        oldest_ms = self.now_ms - self.limits.horizon_ms
        while self._remembered and self._remembered[0].time_ms < oldest_ms:
            self._forget(heapq.heappop(self._remembered))

    def _still_due(self, due: Due) -> bool:
        state = self.sets.get(due.set_key)
        if state is None:
            return False
        if due.command_id:
            pending = state.pending.get(due.command_id)
            return pending is not None and pending.due_ms == due.time_ms
        if due.node == NO_NODE:
            return state.progress_deadline_ms == due.time_ms
        return state.asks_for(due.node, due.time_ms)

    def _forget(self, old: _Remembered) -> None:
        """Forget something that went long ago, unless it has come back since."""
        if old.set_key is None:
            if isinstance(old.what, NodeKey):
                self.nodes.forget(old.what, old.sequence)
            if isinstance(old.what, PodKey):
                self._orphans.forget(old.what, old.sequence)
            return
        state = self.sets[old.set_key]  # it stays as long as something is remembered of it
        state.memories -= 1
        if isinstance(old.what, PodKey):
            state.forget_gone(old.what, old.sequence)
        elif isinstance(old.what, _RevisionName):
            state.forget_revision(old.what.hash, old.sequence)
        elif isinstance(old.what, str):
            state.forget_command(old.what, old.sequence)
        if state.touched:
            self.dirty.add(state.key)
        if state.empty and not state.memories and state.key not in self._deleted:
            del self.sets[state.key]
            self.dirty.discard(state.key)
