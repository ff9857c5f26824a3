"""How it went with sets since a change: what was decided and done, how long it took, what was unavailable.

Used by ``what_if`` twice, for the past as it was and as it would have been, so that both are measured with one rule. No
I/O, and it decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from everynode.core.claims import OUTDATED
from everynode.core.commands import COMMANDS, Command, Decision, DeletePod, Outcome
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    StatusGone,
    StatusReported,
)
from everynode.core.state import Record
from everynode.core.values import NodeKey, Pod, SetKey, Status
from everynode.replay.timeline import SeenNode, Timeline, seen
from everynode.runtime.applying import KnownSet

DECISIONS_COMPARED_MAX = 1_000
"""Of so many decisions after a change it is kept what they were about."""


class Action(NamedTuple):
    """What is done with the set's pod on a node: ``create``, ``delete``, ``adopt``, ``release``."""

    verb: str
    node: NodeKey


class Made(NamedTuple):
    """A decision as it was made."""

    sequence: int
    time_ms: int
    actions: frozenset[Action]


class Course:
    """How it went with one set.

    Attributes:
        key: The set.
        changed_ms: When the change was, in ms since 1970.
        timeline: The curves and marks from then on.
        status: The last one; ``None`` if there was none.
        decisions: How many there were.
        pods_made, pods_removed: How many pods came and went.
        pods_replaced: How many were deleted to make room for the wanted revision.
        rolled_out_ms: When every node that should have a pod had an available one of the wanted revision, the first
            time since the change; ``None``: not by the end.
        actions: What was decided to do, and how often.
    """

    def __init__(
        self,
        key: SetKey,
        changed_ms: int,
        before: Iterable[Record],
        nodes: Mapping[NodeKey, SeenNode] = MappingProxyType({}),
    ) -> None:
        """Begin at a change; ``before``: what was so of the set, ``nodes``: which ones there were."""
        self.key = key
        self.changed_ms = changed_ms
        self.timeline = Timeline(key, changed_ms)
        self.status: Status | None = None
        self.decisions = 0
        self.pods_made = 0
        self.pods_removed = 0
        self.pods_replaced = 0
        self.rolled_out_ms: int | None = None
        self.actions: Counter[Action] = Counter()
        self._made: list[tuple[Record, list[Action]]] = []
        self._generation = 0
        self.timeline.load_nodes(nodes)
        for record in before:
            self.timeline.load(record)
            self._look_at(record)
        self.rolled_out_ms = None

    @property
    def first_decisions(self) -> Iterator[Made]:
        """The first decisions after the change, at most 1,000."""
        for record, actions in self._made:
            yield Made(record.sequence, record.time_ms, frozenset(actions))

    def goes_on(self) -> None:
        """There is no change: it may be rolled out already."""
        if self.status is not None:
            self._judge(self.status, self.changed_ms)

    def fold(self, record: Record) -> None:
        """Take in the next message, of all but pods and commands; one that is about something else changes nothing."""
        message = record.message
        if type(message) is Decision and message.set_key == self.key:
            self.decisions += 1
            if self.decisions <= DECISIONS_COMPARED_MAX:
                self._made.append((record, []))
        self.timeline.fold(record)
        self._look_at(record)

    def commanded(self, command: Command) -> None:
        """Take in the next command about the set."""
        # For each command: a call of the class takes twice as long, and Counter's own way much longer.
        action = tuple.__new__(Action, (command.verb, command.node_key))
        self.actions[action] = self.actions.get(action, 0) + 1
        if self._made and self.decisions <= DECISIONS_COMPARED_MAX:
            self._made[-1][1].append(action)
        self.pods_replaced += command.reason == OUTDATED and type(command) is DeletePod

    def _look_at(self, record: Record) -> None:
        match record.message:
            case DaemonSetObserved(daemonset=daemonset) if daemonset.key == self.key:
                self._generation = daemonset.generation
            case StatusReported(status=status) if status.set_key == self.key:
                self.status = status
                self._judge(status, record.time_ms)
            case _:
                pass

    def _judge(self, status: Status, time_ms: int) -> None:
        desired = status.desired_number_scheduled
        is_done = desired == status.updated_number_scheduled == status.number_available
        if is_done and status.observed_generation >= self._generation:
            self.rolled_out_ms = time_ms if self.rolled_out_ms is None else self.rolled_out_ms


class Courses:
    """Those of several sets, each from its own change on.

    Args:
        keys: The sets.
    """

    def __init__(self, keys: Iterable[SetKey]) -> None:
        """Know nothing yet."""
        self.keys = frozenset(keys)
        self.of: dict[SetKey, Course] = {}
        self._nodes: dict[NodeKey, SeenNode] = {}
        self._sets: dict[SetKey, Record] = {}
        self._statuses: dict[SetKey, Record] = {}
        self._pods: dict[tuple[str, str, str], str] = {}

    def begin(self, key: SetKey, time_ms: int) -> Course:
        """Begin the course of a set here, whether or not it had begun."""
        before = [each[key] for each in (self._sets, self._statuses) if key in each]
        self.of[key] = Course(key, time_ms, before, self._nodes)
        return self.of[key]

    def fold(self, record: Record) -> None:
        """Take in the next message."""
        message = record.message
        # The most frequent kinds first, most of which are no course's business but that of their set; a class that it
        # is not is told five times as fast as by a case.
        if type(message) is PodObserved:
            self._pod_observed(message.pod)
        elif type(message) is Outcome:
            pass  # it says nothing that its effect does not
        elif type(message) is PodGone:
            self._pod_gone(message)
        elif isinstance(message, COMMANDS):
            course = self.of.get(message.set_key)
            if course is not None:
                course.commanded(message)
        elif type(message) is NodeObserved:
            self._nodes[message.node.key] = seen(message.node)
            for course in self.of.values():
                course.timeline.fold(record)
        else:
            self._take_in(record)
            for course in self.of.values():
                course.fold(record)

    def _pod_observed(self, pod: Pod) -> None:
        # A plain tuple finds what a key finds, and to make a key takes several times as long.
        key, uid = (pod.backend, pod.namespace, pod.name), pod.uid
        if self._pods.get(key) == uid:
            return
        self._pods[key] = uid
        course = None if pod.owner is None else self.of.get(SetKey(pod.namespace, pod.owner.name))
        if course is not None:
            course.pods_made += 1

    def _pod_gone(self, gone: PodGone) -> None:
        key = (gone.backend, gone.namespace, gone.name)
        if self._pods.get(key) != gone.uid:
            return
        del self._pods[key]
        course = (
            None if gone.owner is None else self.of.get(SetKey(gone.namespace, gone.owner.name))
        )
        if course is not None:
            course.pods_removed += 1

    def known(self, key: SetKey) -> KnownSet:
        """Say what the log knows of a set here."""
        record = self._sets.get(key)
        match record and record.message:
            case DaemonSetObserved(daemonset=daemonset):
                return KnownSet(daemonset, None, 0)
            case DaemonSetGone() as gone:
                return KnownSet(None, gone, 0)
            case _:
                return KnownSet(None, None, 0)

    def _take_in(self, record: Record) -> None:
        """Remember what is so with nodes and sets."""
        message = record.message
        match message:
            case NodeGone():
                self._nodes.pop(message.key, None)
            case DaemonSetObserved(daemonset=daemonset):
                self._sets[daemonset.key] = record
            case DaemonSetGone():
                self._sets[message.key] = record
            case StatusReported(status=status):
                self._statuses[status.set_key] = record
            case StatusGone():
                self._statuses.pop(message.set_key, None)
            case _:
                pass
