"""What is known of one set: what is wanted, its pods, its commands, and what became of them.

Owned and changed by ``state``; ``coverage`` turns it into bitmaps. Facts come in as they were observed. Nothing here
depends on the order in which facts about different objects came in: each fact carries its place in the log, and an
older one never replaces a newer one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple, TypeVar

from everynode.core.budget import allows_surge
from everynode.core.claims import rests_until_ms
from everynode.core.commands import Command, CreatePod, Decision, Outcome
from everynode.core.coverage import Coverage
from everynode.core.effects import has_taken_effect
from everynode.core.eligibility import Constraints, Term
from everynode.core.events import DaemonSetGone, PodGone
from everynode.core.orphans import KnownPod
from everynode.core.pacing import (
    NEVER_MS,
    REST_FORGOTTEN_MS,
    UNSEEN_MS_MAX,
    SlowStart,
    retry_delay_ms,
)
from everynode.core.selectors import compile_selector
from everynode.core.values import (
    DaemonSet,
    NodeKey,
    Pod,
    PodKey,
    Revision,
    SetKey,
    Status,
    UpdateStrategy,
)

PROGRESSING = "Progressing"
ROLLOUT_PROGRESSING = "RolloutProgressing"

_Key = TypeVar("_Key")
_Item = TypeVar("_Item")


class GonePod(NamedTuple):
    """A pod that has gone lately.

    Attributes:
        owner_uid: The set that controlled it; empty if none did.
        revision: Which it had; empty if nobody knows.
        failures: How many pods of ``generation`` in a row had ended on its node, this one included.
    """

    uid: str
    owner_uid: str
    node: NodeKey
    sequence: int
    time_ms: int
    revision: str
    generation: int
    failures: int


class Pending(NamedTuple):
    """A command whose effect has not been observed yet.

    Attributes:
        due_ms: Log time from which on it is not waited for any longer.
        done: It is said to be done.
    """

    command: Command
    sequence: int
    due_ms: int
    done: bool = False


class Cooling(NamedTuple):
    """A node that is left alone for a while because a command for it did not work.

    Attributes:
        made_for: The set (by uid) that a pod was to be made for; empty if the command was about a pod that is there.
        sequence: The command's place in the log: of several failures on a node, the latest command's counts.
    """

    attempt: int
    made_for: str
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
        surges: A node may have an old and a new pod at the same time.
        min_ready_ms: For how long a pod must be ready before it counts as available; 0 if nothing is wanted.
        rollout_selector: The only nodes that are updated for now; ``None`` for all.
        revisions: All recorded templates by hash.
        revision_counts: How many pods there are of each.
        status: What was last reported.
        last_looked_at: Of which set (by uid) the last generation was decided about, or found to need no decision.
        fence: Sequence of the last decision about this set that was folded.
        slow_starts: How many creates may be pending on each backend.
        blocked_until: Nothing is proposed before the log was folded up to here (a batch is on its way in).
        orphans: Pods that nobody controls and that the selector selects.
        mentioned: The keys of the labels of nodes that placement and rollout depend on.
        coverage: Bitmaps of the nodes that all this concerns.
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
        self.surges = False
        self.min_ready_ms = 0
        self.rollout_selector: Term | None = None
        self.revisions: dict[str, Revision] = {}
        self.revision_sequences: dict[str, int] = {}
        self.revision_counts: Counter[str] = Counter()
        self.status: Status | None = None
        self.status_sequence = 0
        self.last_looked_at = ("", 0)
        self.fence = 0
        self.blocked_until = 0
        self.slow_starts: defaultdict[str, SlowStart] = defaultdict(SlowStart)
        self.pods: dict[PodKey, KnownPod] = {}
        self.pods_on: dict[NodeKey, tuple[PodKey, ...]] = {}
        self.orphans: dict[PodKey, KnownPod] = {}
        self.orphans_on: dict[NodeKey, tuple[PodKey, ...]] = {}
        self.gone_pods: dict[PodKey, GonePod] = {}
        self.last_gone_on: dict[NodeKey, GonePod] = {}
        self.pending: dict[str, Pending] = {}
        self.pending_on: dict[NodeKey, tuple[str, ...]] = {}
        self.creates_pending: Counter[tuple[str, str]] = Counter()  # by backend and set made for
        self.changes_pending: Counter[str] = Counter()
        self.cooling_nodes: dict[NodeKey, Cooling] = {}
        self.failures: dict[str, Failure] = {}
        self.failures_on: dict[NodeKey, tuple[str, ...]] = {}
        self.memories = 0
        self.touched: set[NodeKey] = set()
        self.journal_position = -1
        self.mentioned: frozenset[str] = frozenset()
        self.coverage = Coverage()

    # What is known

    @property
    def uid(self) -> str:
        """The identity of the set that is wanted, or was; empty while it is unknown."""
        wanted = self.daemonset or self.gone
        return "" if wanted is None else wanted.uid

    @property
    def strategy(self) -> UpdateStrategy:
        """How a new template reaches pods that already run; as if not set, for a set that is not wanted."""
        return UpdateStrategy() if self.daemonset is None else self.daemonset.update_strategy

    @property
    def generation(self) -> int:
        """The generation that is wanted now; 0 for a set that was deleted."""
        return 0 if self.daemonset is None else self.daemonset.generation

    def cooling_on(self, node: NodeKey) -> Cooling | None:
        """Return the last failure on a node; a new generation or a set made anew is a new try and does not know it."""
        cooling = self.cooling_nodes.get(node)
        if cooling is None or cooling.generation != self.generation:
            return None
        return cooling if cooling.made_for in {"", self.uid} else None

    def failing_on(self, node: NodeKey, now_ms: int) -> bool:
        """Say whether pods of this generation end on a node, one after the other.

        A pod after one that ended counts as sound once it is available and has lasted as long as it would have to rest.
        """
        generation = self.generation
        is_there = is_failing = False
        for key in self.pods_on.get(node, ()):
            pod = self.pods[key].pod
            if pod.generation != generation:
                continue
            is_there = True
            if pod.finished:
                return True
            sound_ms = pod.failures and max(self.available_ms(pod), rests_until_ms(self, pod))
            is_failing |= sound_ms > now_ms
        if is_there:
            return is_failing
        last = self.last_gone_on.get(node)
        if last is None or (last.owner_uid, last.generation) != (self.uid, self.generation):
            return False
        return bool(last.failures)

    def set_wanted(self, daemonset: DaemonSet, constraints: Constraints, revision: str) -> None:
        """Take over what is wanted now; every node is looked at afresh."""
        self.daemonset, self.constraints, self.revision = daemonset, constraints, revision
        strategy = daemonset.update_strategy
        self.surges = allows_surge(strategy)
        selector = strategy.selector
        self.rollout_selector = None if selector is None else compile_selector(selector)
        self.min_ready_ms = daemonset.min_ready_seconds * 1_000
        self.gone = None
        self._start_over()

    def set_gone(self, gone: DaemonSetGone) -> None:
        """Take over that nothing is wanted any more."""
        self.daemonset, self.constraints, self.revision, self.gone = None, None, "", gone
        self.surges, self.rollout_selector, self.min_ready_ms = False, None, 0
        self._start_over()

    def _start_over(self) -> None:
        """Look at every node afresh, and at commands that another set of this name may have left."""
        self.journal_position = -1
        for node in {*self.pending_on, *self.failures_on}:
            self._settle_on(node)

    def put_pod(self, pod: Pod, sequence: int) -> None:
        """Take in a pod as observed, unless something newer is known of it."""
        # Plain tuples find what keys find, and to make a key takes longer than that. What is kept are keys.
        key: PodKey = (pod.backend, pod.namespace, pod.name)  # type: ignore[assignment]
        node: NodeKey = (pod.backend, pod.node)  # type: ignore[assignment]
        known, gone = self.pods.get(key), self.gone_pods.get(key) if self.gone_pods else None
        if known is not None and known.sequence >= sequence:
            return
        if gone is not None and gone.sequence >= sequence:
            return
        before = None if known is None else known.pod
        # Of its place only the node can change: the backend is part of the key.
        if before is None or before.node != pod.node:
            key, node = pod.key, pod.node_key
            if before is not None:
                self._forget_place(before.node_key, key)
            self.pods_on[node] = (*self.pods_on.get(node, ()), key)
        if before is None or before.revision != pod.revision:
            self._count_revision(pod, 1)
            if before is not None:
                self._count_revision(before, -1)
        self.pods[key] = KnownPod(pod, sequence)
        if node not in self.touched:
            self.touched.add(pod.node_key)
        if self.pending or self.failures:
            self._settle_on(node)

    def drop_pod(self, gone: PodGone, sequence: int, time_ms: int) -> None:
        """Take in that a pod is gone, unless it was observed later."""
        key = gone.key
        known, before = self.pods.get(key), self.gone_pods.get(key)
        node = gone.node_key
        if before is None or before.sequence < sequence:
            if before is not None and self.last_gone_on.get(before.node) == before:
                del self.last_gone_on[before.node]
            lasted = gone.created_ms and time_ms - gone.created_ms >= REST_FORGOTTEN_MS
            failures = min(gone.failures, 1) if lasted else gone.failures
            owner = "" if gone.owner is None else gone.owner.uid
            entry = self.gone_pods[key] = GonePod(
                gone.uid, owner, node, sequence, time_ms, gone.revision, gone.generation, failures
            )
            last = self.last_gone_on.get(node)
            if last is None or last.sequence < sequence:
                self.last_gone_on[node] = entry
        if known is not None and known.sequence < sequence:
            del self.pods[key]
            self._count_revision(known.pod, -1)
            self._forget_place(known.pod.node_key, key)
        self.touched.add(node)
        self._settle_on(node)

    def _forget_place(self, node: NodeKey, key: PodKey) -> None:
        _remove_from(self.pods_on, node, key)
        self.touched.add(node)

    def _count_revision(self, pod: Pod, step: int) -> None:
        self.revision_counts[pod.revision] += step
        if not self.revision_counts[pod.revision]:
            del self.revision_counts[pod.revision]

    def put_orphan(self, known: KnownPod) -> None:
        """Take in a pod that nobody controls and that the selector selects, as it is now."""
        pod = known.pod
        self.drop_orphan(pod.key)
        self.orphans[pod.key] = known
        self.orphans_on[pod.node_key] = (*self.orphans_on.get(pod.node_key, ()), pod.key)
        self.touched.add(pod.node_key)

    def drop_orphan(self, key: PodKey) -> None:
        """Take in that there is no such pod, or that it is somebody's, or that the selector does not select it."""
        known = self.orphans.pop(key, None)
        if known is not None:
            node = known.pod.node_key
            _remove_from(self.orphans_on, node, key)
            self.touched.add(node)

    def forget_gone(self, key: PodKey, sequence: int) -> None:
        """Forget a pod that went long ago."""
        gone = self.gone_pods.get(key)
        if gone is not None and gone.sequence == sequence:
            del self.gone_pods[key]
            if self.last_gone_on.get(gone.node) == gone:
                del self.last_gone_on[gone.node]
                if gone.failures:
                    self.touched.add(gone.node)  # pods have not failed there lately any more

    def forget_revision(self, name: str, sequence: int) -> None:
        """Forget a revision that went long ago."""
        if self.revision_sequences.get(name) == sequence:
            del self.revision_sequences[name]

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
            pending = self.pending[command_id]
            if has_taken_effect(self, pending.command, pending.sequence):
                self.settle(command_id)
        for command_id in self.failures_on.get(node, ()):
            pending = self.failures[command_id].pending
            if has_taken_effect(self, pending.command, pending.sequence):
                self._drop_failure(command_id)  # it has worked after all

    def issue(self, command: Command, sequence: int) -> None:
        """Take in a command from the log: it is pending until its effect is observed, it fails or expires."""
        node = command.node_key
        failure = self.failures.get(command.id)
        if failure is not None and failure.pending.sequence >= sequence:
            return
        if command.id not in self.pending and not has_taken_effect(self, command, sequence):
            self.pending[command.id] = Pending(command, sequence, command.expires_ms)
            self.pending_on[node] = (*self.pending_on.get(node, ()), command.id)
            self._count_pending(command, 1)
        self.touched.add(node)

    def settle(self, command_id: str) -> None:
        """Stop waiting for a command."""
        pending = self.pending.pop(command_id)
        node = pending.command.node_key
        _remove_from(self.pending_on, node, command_id)
        self._count_pending(pending.command, -1)
        self.touched.add(node)

    def _count_pending(self, command: Command, step: int) -> None:
        if not isinstance(command, CreatePod):
            self.changes_pending[command.backend] += step
            return
        made_for = (command.backend, command.daemonset_uid)
        self.creates_pending[made_for] += step
        if not self.creates_pending[made_for]:
            del self.creates_pending[made_for]

    def decided(self, decision: Decision, sequence: int, time_ms: int) -> None:
        """Take in a decision from the log, ours or another worker's: it is the fence for the next one."""
        if sequence <= self.fence:
            return
        self.fence = sequence
        self.looked_at(decision.daemonset_uid, decision.generation)
        self.blocked_until = max(self.blocked_until, sequence + decision.size)
        for backend, window in decision.windows.items():
            self.slow_starts[backend].decided(window, decision.basis, time_ms)

    def looked_at(self, uid: str, generation: int) -> None:
        """Take in that a generation was decided about, or needs no decision; a set made anew begins anew."""
        earlier = self.last_looked_at[1] if self.last_looked_at[0] == uid else 0
        self.last_looked_at = (uid, max(earlier, generation))

    @property
    def decided_generation(self) -> int:
        """The last generation of the set that is wanted that was decided about; 0 if none was."""
        uid, generation = self.last_looked_at
        return generation if uid == self.uid else 0

    def heard(self, outcome: Outcome, sequence: int, time_ms: int) -> None:
        """Take in what became of a command; if it did not work, its node is left alone for a while."""
        good = outcome.result == "done"
        if outcome.verb == "create" and outcome.result != "superseded":
            self.slow_starts[outcome.backend].heard(sequence, time_ms, good=good)
        if not good:
            self.fail(outcome.id, time_ms)
        elif (pending := self.pending.get(outcome.id)) is not None:
            due_ms = min(pending.due_ms, time_ms + UNSEEN_MS_MAX)
            self.pending[outcome.id] = pending._replace(due_ms=due_ms, done=True)

    def fail(self, command_id: str, time_ms: int) -> None:
        """Stop waiting for a command that did not work by now, or was not heard of in time."""
        pending = self.pending.get(command_id)
        if pending is None:
            return
        self.settle(command_id)
        command, node = pending.command, pending.command.node_key
        attempt = command.attempt + 1
        retry_ms = time_ms + retry_delay_ms(attempt)
        made_for = command.daemonset_uid if isinstance(command, CreatePod) else ""
        cooling = Cooling(attempt, made_for, command.generation, pending.sequence, retry_ms)
        if command_id not in self.failures:
            self.failures_on[node] = (*self.failures_on.get(node, ()), command_id)
        self.failures[command_id] = Failure(pending, cooling)
        self._cool(node)

    def _drop_failure(self, command_id: str) -> None:
        node = self.failures.pop(command_id).pending.command.node_key
        _remove_from(self.failures_on, node, command_id)
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

    # Time

    def available_ms(self, pod: Pod) -> int:
        """Return from when on a pod counts as available (pkg/api/v1/pod, IsPodAvailable)."""
        if not pod.ready or self.daemonset is None:
            return NEVER_MS
        if not self.min_ready_ms:
            return 0  # whatever its clock says
        return pod.ready_since_ms + self.min_ready_ms if pod.ready_since_ms else NEVER_MS

    @property
    def progress_deadline_ms(self) -> int:
        """Return when, by the last report, the rollout will have made no progress for too long."""
        seconds = self.strategy.progress_deadline_seconds
        progressing = None if self.status is None else self.status.condition(PROGRESSING)
        if self.daemonset is None or not seconds or progressing is None:
            return NEVER_MS
        if progressing.reason != ROLLOUT_PROGRESSING:
            return NEVER_MS
        return progressing.last_update_ms + seconds * 1_000

    def asks_for(self, node: NodeKey, time_ms: int) -> bool:
        """Say whether a node is to be looked at again at this very time, if nothing else happens."""
        failures = (self.failures[name] for name in self.failures_on.get(node, ()))
        if any(failure.cooling.retry_ms == time_ms for failure in failures):
            return True
        pods = (self.pods[key].pod for key in self.pods_on.get(node, ()))
        return any(time_ms in self.turns_ms(pod) for pod in pods)

    def turns_ms(self, pod: Pod) -> tuple[int, int]:
        """Return when time alone changes something about a pod: it is available, and it has rested or lasted enough."""
        return self.available_ms(pod), rests_until_ms(self, pod)


def _remove_from(table: dict[_Key, tuple[_Item, ...]], key: _Key, item: _Item) -> None:
    left = tuple(other for other in table[key] if other != item)
    if left:
        table[key] = left
    else:
        del table[key]
