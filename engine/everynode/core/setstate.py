"""How far one set covers the fleet: its pods, its pending commands, and bitmaps of the nodes they are on.

Owned and changed by ``state``, read by ``decision`` and ``status``. Facts come in as dictionaries of what was observed;
``refresh`` then brings the bitmaps up to date, looking only at nodes that something has happened to. Nothing here
depends on the order in which facts about different objects came in: each fact carries its place in the log, and an
older one never replaces a newer one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

from pyroaring import BitMap

from everynode.core.commands import Command, CreatePod, Decision, Outcome
from everynode.core.eligibility import Constraints
from everynode.core.events import DaemonSetGone, PodGone
from everynode.core.index import NodeIndex
from everynode.core.pacing import UNSEEN_MS_MAX, Limits, SlowStart, retry_delay_ms
from everynode.core.placement import Backlog, place
from everynode.core.values import DaemonSet, NodeKey, Pod, PodKey, Revision, SetKey, Status


class KnownPod(NamedTuple):
    """A pod and the place in the log where it was last observed."""

    pod: Pod
    sequence: int


class GonePod(NamedTuple):
    """A pod that has gone lately."""

    uid: str
    node: NodeKey
    sequence: int
    time_ms: int


class Pending(NamedTuple):
    """A command whose effect has not been observed yet.

    Attributes:
        due_ms: Log time from which on it is not waited for any longer.
    """

    command: Command
    sequence: int
    due_ms: int


class Cooling(NamedTuple):
    """A node that is left alone for a while because a command for it did not work.

    Attributes:
        sequence: The command's place in the log: of several failures on a node, the latest command's counts.
    """

    attempt: int
    generation: int
    sequence: int
    retry_ms: int


class Failure(NamedTuple):
    """A command that did not work, or was not heard of in time, lately; and the rest that its node takes for it."""

    pending: Pending
    cooling: Cooling


class SetState:
    """Everything that the engine knows of one set.

    Attributes:
        daemonset: What is wanted; ``None`` while unknown or after it was deleted.
        gone: The tombstone, once it was deleted.
        sequence: Where in the log the set was last applied or deleted.
        constraints: The compiled constraints of ``daemonset``.
        revision: Content hash of the wanted template.
        revisions: All recorded templates by hash.
        status: What was last reported.
        fence: Sequence of the last decision about this set that was folded.
        slow_starts: How many creates may be pending on each backend.
        blocked_until: Nothing is proposed before the log was folded up to here (a batch is on its way in).
        eligible, tolerated: As ``placement`` says.
        held: Nodes with a pod that stands in the way of a new one: live, finished, or running but on its way out.
        occupied: Nodes with a live pod.
        excess: Nodes with pods that must go whether or not the node is tolerated.
        busy: Nodes with a pending command.
        cooling: Nodes that are left alone after a failure.
        ready, available, updated: Nodes whose pod is so.
        missing: Nodes that should have a pod, have none, and are not being worked on.
        surplus: Nodes with pods that must go, and that are not being worked on.
        stranded: Nodes that are not in the fleet but have pods that must go.
        memories: How many messages about this set the fleet's state will forget when they are old enough.
    """

    def __init__(self, key: SetKey) -> None:
        """Start with nothing known."""
        self.key = key
        self.daemonset: DaemonSet | None = None
        self.gone: DaemonSetGone | None = None
        self.sequence = 0
        self.constraints: Constraints | None = None
        self.revision = ""
        self.revisions: dict[str, Revision] = {}
        self.revision_sequences: dict[str, int] = {}
        self.status: Status | None = None
        self.status_sequence = 0
        self.fence = 0
        self.blocked_until = 0
        self.slow_starts: defaultdict[str, SlowStart] = defaultdict(SlowStart)
        self.pods: dict[PodKey, KnownPod] = {}
        self.pods_on: dict[NodeKey, tuple[PodKey, ...]] = {}
        self.gone_pods: dict[PodKey, GonePod] = {}
        self.last_gone_on: dict[NodeKey, GonePod] = {}
        self.pending: dict[str, Pending] = {}
        self.pending_on: dict[NodeKey, tuple[str, ...]] = {}
        self.creates_pending: Counter[str] = Counter()
        self.deletes_pending: Counter[str] = Counter()
        self.cooling_nodes: dict[NodeKey, Cooling] = {}
        self.failures: dict[str, Failure] = {}
        self.failures_on: dict[NodeKey, tuple[str, ...]] = {}
        self.memories = 0
        self.touched: set[NodeKey] = set()
        self.journal_position = -1
        self.stranded: set[NodeKey] = set()
        self.creates_backlogs: defaultdict[str, Backlog] = defaultdict(Backlog)
        self.deletes_backlogs: defaultdict[str, Backlog] = defaultdict(Backlog)
        self.eligible, self.tolerated = BitMap(), BitMap()
        self.held, self.occupied, self.excess = BitMap(), BitMap(), BitMap()
        self.busy, self.cooling = BitMap(), BitMap()
        self.ready, self.available, self.updated = BitMap(), BitMap(), BitMap()
        self.missing, self.surplus = BitMap(), BitMap()

    # What is known

    def ours(self, pod: Pod) -> bool:
        """Say whether a pod belongs to the set as it is now, not to an earlier one of the same name."""
        return self.daemonset is not None and pod.owner.uid == self.daemonset.uid

    @property
    def generation(self) -> int:
        """The generation that is wanted now; 0 for a set that was deleted."""
        return 0 if self.daemonset is None else self.daemonset.generation

    def failure_on(self, node: NodeKey) -> Cooling | None:
        """Return the last failure on a node; a new generation is a new try and does not know it."""
        cooling = self.cooling_nodes.get(node)
        return cooling if cooling is not None and cooling.generation == self.generation else None

    def set_wanted(self, daemonset: DaemonSet, constraints: Constraints, revision: str) -> None:
        """Take over what is wanted now; every node is looked at afresh."""
        self.daemonset, self.constraints, self.revision = daemonset, constraints, revision
        self.gone = None
        self.journal_position = -1

    def set_gone(self, gone: DaemonSetGone) -> None:
        """Take over that nothing is wanted any more."""
        self.daemonset, self.constraints, self.revision, self.gone = None, None, "", gone
        self.journal_position = -1

    def put_pod(self, pod: Pod, sequence: int) -> None:
        """Take in a pod as observed, unless something newer is known of it."""
        key = pod.key
        known, gone = self.pods.get(key), self.gone_pods.get(key)
        if known is not None and known.sequence >= sequence:
            return
        if gone is not None and gone.sequence >= sequence:
            return
        node = pod.node_key
        if known is not None and known.pod.node_key != node:
            self._forget_place(known.pod.node_key, key)
        if known is None or known.pod.node_key != node:
            self.pods_on[node] = (*self.pods_on.get(node, ()), key)
        self.pods[key] = KnownPod(pod, sequence)
        self.touched.add(node)
        self._settle_on(node)

    def drop_pod(self, gone: PodGone, sequence: int, time_ms: int) -> None:
        """Take in that a pod is gone, unless it was observed later."""
        key = gone.key
        known, before = self.pods.get(key), self.gone_pods.get(key)
        node = gone.node_key
        if before is None or before.sequence < sequence:
            if before is not None and self.last_gone_on.get(before.node) == before:
                del self.last_gone_on[before.node]
            entry = self.gone_pods[key] = GonePod(gone.uid, node, sequence, time_ms)
            last = self.last_gone_on.get(node)
            if last is None or last.sequence < sequence:
                self.last_gone_on[node] = entry
        if known is not None and known.sequence < sequence:
            del self.pods[key]
            self._forget_place(known.pod.node_key, key)
        self.touched.add(node)
        self._settle_on(node)

    def _forget_place(self, node: NodeKey, key: PodKey) -> None:
        left = tuple(other for other in self.pods_on[node] if other != key)
        if left:
            self.pods_on[node] = left
        else:
            del self.pods_on[node]
        self.touched.add(node)

    def forget_gone(self, key: PodKey, sequence: int) -> None:
        """Forget a pod that went long ago."""
        gone = self.gone_pods.get(key)
        if gone is not None and gone.sequence == sequence:
            del self.gone_pods[key]
            if self.last_gone_on.get(gone.node) == gone:
                del self.last_gone_on[gone.node]

    def forget_command(self, command_id: str, sequence: int) -> None:
        """Forget what became of a command of long ago."""
        failure = self.failures.get(command_id)
        if failure is not None and failure.pending.sequence == sequence:
            self._drop_failure(command_id)

    @property
    def empty(self) -> bool:
        """Nothing is wanted, nothing is there, on its way or on record."""
        wanted = self.daemonset is not None
        return not (wanted or self.pods or self.pending or self.revisions or self.status)

    # Commands

    def _settle_on(self, node: NodeKey) -> None:
        for command_id in self.pending_on.get(node, ()):
            if self.has_taken_effect(self.pending[command_id]):
                self.settle(command_id)
        for command_id in self.failures_on.get(node, ()):
            if self.has_taken_effect(self.failures[command_id].pending):
                self._drop_failure(command_id)  # it has worked after all

    def has_taken_effect(self, pending: Pending) -> bool:
        """Say whether what was observed shows that a command was carried out."""
        command = pending.command
        known, gone = self.pods.get(command.pod_key), self.gone_pods.get(command.pod_key)
        if isinstance(command, CreatePod):
            return known is not None or (gone is not None and gone.sequence > pending.sequence)
        if known is not None and known.pod.uid == command.pod_uid:
            return known.pod.deleting
        return known is not None or (gone is not None and gone.uid == command.pod_uid)

    def issue(self, command: Command, sequence: int) -> None:
        """Take in a command from the log: it is pending until its effect is observed, it fails or expires."""
        pending = Pending(command, sequence, command.expires_ms)
        node = command.node_key
        failure = self.failures.get(command.id)
        if failure is not None and failure.pending.sequence >= sequence:
            return
        if command.id not in self.pending and not self.has_taken_effect(pending):
            self.pending[command.id] = pending
            self.pending_on[node] = (*self.pending_on.get(node, ()), command.id)
            self._count_pending(command, 1)
        self.touched.add(node)

    def settle(self, command_id: str) -> None:
        """Stop waiting for a command."""
        pending = self.pending.pop(command_id)
        node = pending.command.node_key
        left = tuple(other for other in self.pending_on[node] if other != command_id)
        if left:
            self.pending_on[node] = left
        else:
            del self.pending_on[node]
        self._count_pending(pending.command, -1)
        self.touched.add(node)

    def _count_pending(self, command: Command, step: int) -> None:
        counter = self.creates_pending if isinstance(command, CreatePod) else self.deletes_pending
        counter[command.backend] += step

    def decided(self, decision: Decision, sequence: int, time_ms: int) -> None:
        """Take in a decision from the log, ours or another worker's: it is the fence for the next one."""
        if sequence <= self.fence:
            return
        self.fence = sequence
        self.blocked_until = max(self.blocked_until, sequence + decision.size)
        for backend, window in decision.windows.items():
            self.slow_starts[backend].decided(window, decision.basis, time_ms)

    def heard(self, outcome: Outcome, sequence: int, time_ms: int) -> None:
        """Take in what became of a command; if it did not work, its node is left alone for a while."""
        good = outcome.result == "done"
        if outcome.verb == "create" and outcome.result != "superseded":
            self.slow_starts[outcome.backend].heard(sequence, time_ms, good=good)
        if not good:
            self.fail(outcome.id, time_ms)
        elif (pending := self.pending.get(outcome.id)) is not None:
            due_ms = min(pending.due_ms, time_ms + UNSEEN_MS_MAX)
            self.pending[outcome.id] = pending._replace(due_ms=due_ms)

    def fail(self, command_id: str, time_ms: int) -> None:
        """Stop waiting for a command that did not work by now, or was not heard of in time."""
        pending = self.pending.get(command_id)
        if pending is None:
            return
        self.settle(command_id)
        command, node = pending.command, pending.command.node_key
        attempt = command.attempt + 1
        retry_ms = time_ms + retry_delay_ms(attempt)
        cooling = Cooling(attempt, command.generation, pending.sequence, retry_ms)
        if command_id not in self.failures:
            self.failures_on[node] = (*self.failures_on.get(node, ()), command_id)
        self.failures[command_id] = Failure(pending, cooling)
        self._cool(node)

    def _drop_failure(self, command_id: str) -> None:
        node = self.failures.pop(command_id).pending.command.node_key
        left = tuple(other for other in self.failures_on[node] if other != command_id)
        if left:
            self.failures_on[node] = left
        else:
            del self.failures_on[node]
        self._cool(node)

    def _cool(self, node: NodeKey) -> None:
        """Let a node rest for the failure of the latest command."""
        failures = [self.failures[command_id] for command_id in self.failures_on.get(node, ())]
        if failures:
            latest = max(failures, key=lambda failure: failure.pending.sequence)
            self.cooling_nodes[node] = latest.cooling
        else:
            self.cooling_nodes.pop(node, None)
        self.touched.add(node)

    def replaced_uid(self, node: NodeKey, now_ms: int, limits: Limits) -> str:
        """Return the uids of the pods that a new one on this node replaces; empty if there was none lately."""
        leaving = [self.pods[key].pod.uid for key in self.pods_on.get(node, ())]
        if leaving:  # finished and on their way out: their names are still taken
            return ",".join(sorted(leaving))
        last = self.last_gone_on.get(node)
        return "" if last is None or last.time_ms < now_ms - limits.horizon_ms else last.uid

    # Bitmaps

    def refresh(
        self,
        index: NodeIndex,
        changes: list[tuple[NodeKey, int]] | None,
        position: int,
        now_ms: int,
    ) -> None:
        """Bring the bitmaps up to date.

        Args:
            index: The fleet's nodes.
            changes: Key and id of each node that changed since the last time; ``None``: look at all.
            position: Where in the fleet's journal this brings the set.
            now_ms: Log time.
        """
        if changes is None:
            self._reset(index)
            keys = self.touched.union(self.pods_on, self.pending_on, self.cooling_nodes)
        else:
            self._replace(index, changes)
            keys = self.touched
        self.touched = set()
        self.journal_position = position
        for key in keys:
            self._review(key, index, now_ms)
        if changes is None:
            self._conclude(index.everything)
        elif changes or keys:
            ids = [node_id for _, node_id in changes]
            ids.extend(index.ids[key] for key in keys if key in index.ids)
            self._conclude(BitMap(ids))

    def _reset(self, index: NodeIndex) -> None:
        everything = BitMap(index.everything)
        self.eligible, self.tolerated = BitMap(), BitMap()
        if self.constraints is not None:
            self.eligible, self.tolerated = place(self.constraints, index)
        self.held, self.occupied, self.excess = BitMap(), BitMap(), BitMap()
        self.busy, self.cooling = BitMap(), BitMap()
        self.ready, self.available, self.updated = BitMap(), BitMap(), BitMap()
        self.missing, self.surplus = BitMap(), BitMap()
        self.stranded = set()
        self._forget_backlogs(everything)

    def _replace(self, index: NodeIndex, changes: list[tuple[NodeKey, int]]) -> None:
        if not changes:
            return
        ids = BitMap([node_id for _, node_id in changes])
        for bitmap in self._about_pods():
            bitmap.difference_update(ids)
        self.eligible -= ids
        self.tolerated -= ids
        if self.constraints is not None:
            placed = place(self.constraints, index, ids)
            self.eligible |= placed.eligible
            self.tolerated |= placed.tolerated
        self._forget_backlogs(ids)
        for key, _ in changes:
            if key in self.pods_on or key in self.pending_on or key in self.cooling_nodes:
                self.touched.add(key)

    def _forget_backlogs(self, ids: BitMap) -> None:
        for backlog in (*self.creates_backlogs.values(), *self.deletes_backlogs.values()):
            backlog.forget(ids)

    def _about_pods(self) -> tuple[BitMap, ...]:
        about_work = (self.held, self.occupied, self.excess, self.busy, self.cooling)
        return (*about_work, self.ready, self.available, self.updated)

    def _review(self, key: NodeKey, index: NodeIndex, now_ms: int) -> None:
        node = index.get(key)
        pods = [self.pods[pod].pod for pod in self.pods_on.get(key, ())]
        if node is None:
            # What is pending for it settles or expires. A node that was never heard of is not one that has left:
            # its message may have been unreadable or be on its way, and its pods may be running.
            stranded = any(
                not pod.deleting and (key in index.departed or not self.ours(pod)) for pod in pods
            )
            (self.stranded.add if stranded else self.stranded.discard)(key)
            return
        self.stranded.discard(key)
        here = [pod for pod in pods if self.ours(pod) and pod.node_uid in {"", node.uid}]
        counted = [pod for pod in here if not (pod.finished and pod.deleting)]
        live = [pod for pod in counted if pod.live]
        finished = any(pod.finished and not pod.deleting for pod in here)
        strangers = any(not pod.deleting for pod in pods if pod not in here)
        cooling = self.failure_on(key)
        pod = min(counted, key=seniority, default=None)
        node_id = index.ids[key]
        for bitmap, belongs in (
            (self.held, bool(counted)),
            (self.occupied, bool(live)),
            (self.excess, len(live) > 1 or finished or strangers),
            (self.busy, key in self.pending_on),
            (self.cooling, cooling is not None and cooling.retry_ms > now_ms),
            (self.ready, pod is not None and pod.ready),
            (self.available, pod is not None and self.available_ms(pod) <= now_ms),
            (self.updated, pod is not None and pod.revision == self.revision),
        ):
            (bitmap.add if belongs else bitmap.discard)(node_id)

    def _conclude(self, ids: BitMap) -> None:
        """Say what is missing and what must go among these nodes; what it costs goes with their number."""
        idle = ids - self.busy - self.cooling
        self.missing -= ids
        self.missing |= (idle & self.eligible) - self.held
        self.surplus -= ids
        self.surplus |= ((idle & self.occupied) - self.tolerated) | (idle & self.excess)

    def available_ms(self, pod: Pod) -> int:
        """Return from when on a pod counts as available (pkg/api/v1/pod, IsPodAvailable)."""
        if not pod.ready or self.daemonset is None:
            return NEVER_MS
        wait_ms = self.daemonset.min_ready_seconds * 1_000
        if not wait_ms:
            return 0  # whatever its clock says
        return pod.ready_since_ms + wait_ms if pod.ready_since_ms else NEVER_MS

    def asks_for(self, node: NodeKey, time_ms: int) -> bool:
        """Say whether a node is to be looked at again at this very time, if nothing else happens."""
        cooling = self.cooling_nodes.get(node)
        if cooling is not None and cooling.retry_ms == time_ms:
            return True
        pods = (self.pods[key].pod for key in self.pods_on.get(node, ()))
        return any(self.available_ms(pod) == time_ms for pod in pods)


NEVER_MS = 2**63


def seniority(pod: Pod) -> tuple[int, str]:
    """Order the pods of one node: the first is the one that stays and that counts (podByCreationTimestampAndPhase)."""
    return (pod.created_ms, pod.name)
