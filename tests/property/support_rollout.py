"""What one decision about a set may do and must do, worked out from the backend alone.

For the properties of rollouts. Nothing here asks the modules that are tested: budgets, availability, holds and what is
pending are worked out again, in the plainest way, from the nodes, the pods and the queue of commands as they were when
the decision was made. Only eligibility is asked of ``core.eligibility``, whose rules have properties of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from everynode.core.commands import AdoptPod, Command, CreatePod, DeletePod
from everynode.core.decision import Proposal
from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.events import PodGone, PodObserved, RevisionGone, RevisionRecorded
from everynode.core.identity import revision_hash
from everynode.core.selectors import selects
from everynode.core.values import DaemonSet, Node, NodeKey, Pod, Selector, UpdateStrategy
from everynode.testing.world import World

FAILURE_FELT_MS = 130_000
"""For how long a command that did not work may keep a node from being touched."""


def share(value: int | str, total: int) -> int:
    """Work out a number of nodes: as it is, or the percentage rounded up."""
    if isinstance(value, int):
        return value
    return math.ceil(Fraction(value.rstrip("%")) * total / 100)


def budgets(strategy: UpdateStrategy, total: int) -> tuple[int, int, int]:
    """Work out maxUnavailable, maxSurge and partition; the rollout must be able to begin."""
    down, beside = share(strategy.max_unavailable, total), share(strategy.max_surge, total)
    if down == beside == 0 and total > 0:
        down = 1
    return down, beside, share(strategy.partition, total)


def surges(strategy: UpdateStrategy) -> bool:
    """Say whether a node may have two pods; a percentage of one node is rounded up to one."""
    return strategy.type == "RollingUpdate" and strategy.max_surge not in {0, "0%"}


def is_chosen(strategy: UpdateStrategy, node: Node) -> bool:
    """Say whether a node is one of those that are updated for now."""
    return strategy.selector is None or selects(strategy.selector, node.labels)


class Basis:
    """How everything was when a decision was made; the set is wanted.

    Args:
        world: The world, as the worker that decides has read it.
        daemonset: The set.
        lost: Commands that nobody will carry out, though nobody has said so.

    Attributes:
        at_ms: Log time.
        eligible: The nodes that should have a pod.
        pods: The set's own pods on each of its nodes, those included that have ended or are on their way out.
        pending: Commands of the set on each node that may still be carried out, as far as the log says.
        recorded: The revisions on record.
        before: Which revision the pod had that last went from a node.
    """

    def __init__(self, world: World, daemonset: DaemonSet, lost: Iterable[Command] = ()) -> None:
        """Take everything down, as it is now."""
        self.daemonset = daemonset
        self.strategy = daemonset.update_strategy
        self.at_ms = world.log[-1].time_ms
        self.nodes = dict(world.nodes)
        self.every_pod = dict(world.pods)
        self.wanted = revision_hash(daemonset.template)
        constraints = compile_constraints(daemonset)
        verdicts = {key: verdict(constraints, node) for key, node in self.nodes.items()}
        self.eligible = {key for key, found in verdicts.items() if found.should_run}
        self.tolerated = {key for key, found in verdicts.items() if found.may_stay}
        self.pods = {
            key: [pod for pod in world.pods.values() if self._is_own(pod, node)]
            for key, node in self.nodes.items()
        }
        self.recorded = {
            record.message.revision.hash
            for record in world.kept.values()
            if isinstance(record.message, RevisionRecorded)
            and record.message.revision.set_key == daemonset.key
        }
        self.before = self._before(world)
        self.disowned_on = {
            pod.node_key
            for pod in world.pods.values()
            if pod.set_key == daemonset.key and not self._is_own(pod, self.nodes.get(pod.node_key))
        }
        pending = [command for command in (*world.queue, *lost) if self._is_pending(command)]
        self.pending = {
            key: [command for command in pending if command.node_key == key] for key in self.nodes
        }
        self.down, self.beside, self.partition = budgets(self.strategy, len(self.eligible))

    def _before(self, world: World) -> dict[NodeKey, str]:
        """Find out which revision each node had last: of a pod that is leaving, or else of one that has gone."""
        gone: dict[NodeKey, str] = {}
        leaving: dict[NodeKey, str] = {}
        for record in world.log:
            message = record.message
            if isinstance(message, PodGone) and message.set_key == self.daemonset.key:
                if record.time_ms >= self.at_ms - world.limits.horizon_ms:
                    gone[message.node_key] = message.revision
            elif isinstance(message, PodObserved) and message.pod.set_key == self.daemonset.key:
                pod = message.pod
                if pod == self.every_pod.get(pod.key) and not pod.live:
                    leaving[pod.node_key] = pod.revision
        return gone | leaving

    def _is_own(self, pod: Pod, node: Node | None) -> bool:
        daemonset = self.daemonset
        return (
            node is not None
            and pod.set_key == daemonset.key
            and pod.owner is not None
            and pod.owner.uid == daemonset.uid
            and pod.node_key == node.key
            and pod.node_uid in {"", node.uid}
            and (pod.labels is None or selects(daemonset.selector, pod.labels))
        )

    def _is_pending(self, command: Command) -> bool:
        if command.set_key != self.daemonset.key or command.expires_ms <= self.at_ms:
            return False
        pod = self.every_pod.get(command.pod_key)
        if isinstance(command, CreatePod):
            return pod is None
        owned = pod is not None and pod.uid == command.pod_uid and pod.owner is not None
        if isinstance(command, AdoptPod):
            return not owned and command.daemonset_uid == self.daemonset.uid
        return owned and pod is not None and not pod.deleting

    def is_available(self, pod: Pod) -> bool:
        """Say whether a pod does its work, for long enough."""
        wait_ms = self.daemonset.min_ready_seconds * 1_000
        if not pod.live or not pod.ready:
            return False
        return not wait_ms or 0 < pod.ready_since_ms <= self.at_ms - wait_ms

    def live(self, key: NodeKey) -> list[Pod]:
        """Return the pods of a node that count."""
        return [pod for pod in self.pods[key] if pod.live]

    def new(self, key: NodeKey) -> list[Pod]:
        """Return those of the wanted revision."""
        return [pod for pod in self.live(key) if pod.revision == self.wanted]

    def old(self, key: NodeKey) -> list[Pod]:
        """Return those of another."""
        return [pod for pod in self.live(key) if pod.revision != self.wanted]

    def leaving(self, key: NodeKey) -> set[str]:
        """Return the uids of the pods of a node that are about to be deleted."""
        return {item.pod_uid for item in self.pending[key] if isinstance(item, DeletePod)}

    def coming(self, key: NodeKey) -> set[str]:
        """Return the revisions of the pods that are about to be made on a node."""
        return {item.revision for item in self.pending[key] if isinstance(item, CreatePod)}

    @property
    def skipped(self) -> set[NodeKey]:
        """Nodes that do not count: not ready since before the set began to change something there."""
        if self.strategy.unreachable_nodes != "Skip":
            return set()
        return {key for key in self.eligible if self._was_lost_before(self.nodes[key])}

    def _was_lost_before(self, node: Node) -> bool:
        if node.ready:
            return False
        since_ms = node.unready_since_ms
        stopping = [pod.deleting_since_ms for pod in self.pods[node.key] if pod.deleting]
        made = [
            pod.created_ms
            for pod in self.pods[node.key]
            if pod.revision == self.wanted and not pod.deleting
        ]
        return all(began_ms > since_ms for began_ms in (*stopping, *made))

    @property
    def unavailable(self) -> set[NodeKey]:
        """Nodes that count and have no available pod, or none that will be left."""
        return {
            key
            for key in self.eligible - self.skipped
            if not any(
                self.is_available(pod) and pod.uid not in self.leaving(key)
                for pod in self.live(key)
            )
        }

    @property
    def open(self) -> set[NodeKey]:
        """Nodes that strategy, pause and selector leave to the rollout: nothing live there but old pods."""
        strategy = self.strategy
        if strategy.type != "RollingUpdate" or strategy.paused:
            return set()
        return {
            key
            for key in self.eligible - self.skipped
            if self.old(key) and not self.new(key) and is_chosen(strategy, self.nodes[key])
        }

    @property
    def staying(self) -> set[NodeKey]:
        """Nodes that are on an old revision, and that nothing is being done about yet."""
        return {
            key
            for key in self.eligible
            if self.old(key)
            and not self.new(key)
            and not self.leaving(key)
            and self.wanted not in self.coming(key)
        }

    @property
    def doubled(self) -> set[NodeKey]:
        """Nodes with an old pod, and a new one that is not available yet or on its way."""
        return {
            key
            for key in self.eligible
            if self.old(key)
            and (
                self.wanted in self.coming(key)
                or (self.new(key) and not any(map(self.is_available, self.new(key))))
            )
        }


class Done(NamedTuple):
    """What a decision does, by node.

    Attributes:
        replaced: Pods that are deleted for their revision, from nodes without a new one.
        finished: Likewise, from nodes that have both.
        beside: Nodes that get a new pod beside a live one.
        anew: Creates on nodes that have no live pod.
    """

    replaced: dict[NodeKey, Pod]
    finished: dict[NodeKey, Pod]
    beside: set[NodeKey]
    anew: list[CreatePod]


def done_by(basis: Basis, proposal: Proposal) -> Done:
    """Sort what a decision does."""
    creates = [item for item in proposal.others if isinstance(item, CreatePod)]
    outdated = {
        item.node_key: basis.every_pod[item.pod_key]
        for item in proposal.others
        if isinstance(item, DeletePod) and item.reason == "OutdatedRevision"
    }
    return Done(
        replaced={key: pod for key, pod in outdated.items() if not basis.new(key)},
        finished={key: pod for key, pod in outdated.items() if basis.new(key)},
        beside={item.node_key for item in creates if basis.live(item.node_key)},
        anew=[item for item in creates if not basis.live(item.node_key)],
    )


def check_decision(basis: Basis, proposal: Proposal) -> None:
    """Hold a decision to S1, S2 and S3, and to what holds a rollout."""
    done = done_by(basis, proposal)
    check_creates(basis, proposal)
    check_replaced(basis, done)
    check_nothing_else_goes(basis, proposal, done)
    check_holds(basis, done)
    check_anew(basis, done)
    check_history(basis, proposal)
    check_adopted(basis, proposal)


def check_creates(basis: Basis, proposal: Proposal) -> None:
    """S1, S2: pods are made on eligible nodes only, and where nothing of the set is in the way."""
    seen: set[NodeKey] = set()
    for command in proposal.others:
        if not isinstance(command, CreatePod):
            continue
        key = command.node_key
        assert key in basis.eligible, f"S2: {command} for a node that is not eligible"
        assert basis.nodes[key].uid == command.node_uid, f"S2: {command} is for another node"
        assert key not in seen, f"S1: two creates for {key}"
        seen.add(key)
        assert not basis.pending[key], f"S1: {command} while {basis.pending[key]}"
        in_the_way = [pod for pod in basis.pods[key] if not (pod.finished and pod.deleting)]
        if surges(basis.strategy):
            in_the_way = [pod for pod in in_the_way if not pod.deleting]
            assert all(pod.live for pod in in_the_way), f"S1: {command} beside {in_the_way}"
            assert len(in_the_way) <= 1, f"S1: {command} would be the third"
            revisions = {pod.revision for pod in in_the_way}
            assert command.revision not in revisions, f"S1: two of {command.revision} on {key}"
        else:
            assert not in_the_way, f"S1: {command} beside {in_the_way}"


def check_replaced(basis: Basis, done: Done) -> None:
    """S3: what the rollout takes down, with what is down already, stays within the budget."""
    available = {key for key, pod in done.replaced.items() if basis.is_available(pod)}
    for key, pod in (*done.replaced.items(), *done.finished.items()):
        assert pod.live, f"{pod} had ended"
        assert pod.revision != basis.wanted, f"{pod} is of the wanted revision"
        assert pod in basis.pods[key], f"{pod} is not the set's own"
    assert not done.replaced.keys() - basis.eligible, "S3: a pod that could not be replaced"
    if surges(basis.strategy):
        assert not done.replaced, "S3: with surge nothing goes before a new one is there"
    down = basis.unavailable | available
    assert not available or len(down) <= basis.down, f"S3: {len(down)} down, budget {basis.down}"
    for key, pod in done.finished.items():
        works = any(map(basis.is_available, basis.new(key)))
        assert works or not pod.ready, f"S3: {pod} works, and its successor does not yet"
    beside = {key for key in done.beside if any(map(basis.is_available, basis.live(key)))}
    assert surges(basis.strategy) or not done.beside, "S1: there is no surge"
    doubled = basis.doubled | beside
    assert not beside or len(doubled) <= basis.beside, f"S3: {len(doubled)} beside {basis.beside}"


def check_nothing_else_goes(basis: Basis, proposal: Proposal, done: Done) -> None:
    """S3: nothing but the rollout takes from an eligible node what it has available."""
    doomed = {item.pod_uid for item in proposal.others if isinstance(item, DeletePod)}
    for key in basis.eligible - done.replaced.keys():
        available = {pod.uid for pod in basis.live(key) if basis.is_available(pod)}
        assert not available or available - doomed, f"S3: {key} loses {available}"


def check_holds(basis: Basis, done: Done) -> None:
    """A rollout touches only the nodes that strategy, pause, selector and partition leave to it."""
    touched = done.replaced.keys() | done.beside
    assert touched <= basis.open, f"held, and yet replaced: {touched - basis.open}"
    busy = {key for key in touched if basis.pending[key]}
    assert not busy, f"being worked on, and yet touched: {busy}"
    left = basis.staying - touched
    assert not touched or len(left) >= basis.partition, f"{len(left)} left of {basis.partition}"


def check_anew(basis: Basis, done: Done) -> None:
    """What has to be made anew does not spread a revision that is held back, and is not held back for nothing."""
    strategy = basis.strategy
    pods = (pod for pod in basis.every_pod.values() if pod.set_key == basis.daemonset.key)
    old = basis.recorded - {basis.wanted}
    held = {pod.revision for pod in pods} & old
    taken = {key for key in basis.eligible if basis.new(key) or basis.wanted in basis.coming(key)}
    # A node that had the wanted revision gets it again, and keeps its place for it.
    taken |= {
        key
        for key in basis.eligible
        if not basis.live(key) and basis.before.get(key) == basis.wanted
    }
    fresh = {item.node_key for item in done.anew if item.revision == basis.wanted}
    limit = len(basis.eligible) - basis.partition if basis.partition else len(basis.eligible)
    full = len(taken | fresh) >= limit
    chosen: set[NodeKey] = set()
    for command in done.anew:
        key, before = command.node_key, basis.before.get(command.node_key, "")
        spared = strategy.paused or not is_chosen(strategy, basis.nodes[key])
        expected = {before} & old or held
        if strategy.type != "RollingUpdate" or not expected or before == basis.wanted:
            assert command.revision == basis.wanted, f"{command}: there is nothing to hold"
        elif command.revision == basis.wanted:
            assert not spared, f"{command} spreads what is held"
            chosen.add(key)
        else:
            assert full or spared, f"{command}: nothing is held"
            assert command.revision in expected, f"{command} has no revision of {expected}"
    assert not chosen or len(taken | chosen) <= limit, f"{chosen}, {taken}: {limit} allowed"


def check_history(basis: Basis, proposal: Proposal) -> None:
    """A revision that is wanted, that a pod has or that a pod is about to be made from stays on record."""
    gone = {item.hash for item in proposal.others if isinstance(item, RevisionGone)}
    pods = (pod for pod in basis.every_pod.values() if pod.set_key == basis.daemonset.key)
    pending = (item for items in basis.pending.values() for item in items)
    made = (*pending, *proposal.others)
    used = {pod.revision for pod in pods} | {basis.wanted}
    used |= {item.revision for item in made if isinstance(item, CreatePod)}
    assert not gone & used, f"in use and yet let go of: {gone & used}"


def check_adopted(basis: Basis, proposal: Proposal) -> None:
    """S1: an orphan is adopted only if it is selected, and to be its node's only pod."""
    for command in proposal.others:
        if not isinstance(command, AdoptPod):
            continue
        orphan, key = basis.every_pod[command.pod_key], command.node_key
        assert orphan.owner is None
        assert not orphan.deleting
        assert selects(basis.daemonset.selector, orphan.labels or {}), f"{orphan} is not selected"
        assert key in basis.tolerated, f"{orphan} would have to go at once"
        assert not basis.pods[key], f"S1: {orphan} beside {basis.pods[key]}"
        assert not basis.pending[key], f"S1: {command} while {basis.pending[key]}"


def check_thrift(
    basis: Basis, proposal: Proposal | None, troubled_ms: Mapping[NodeKey, int]
) -> None:
    """L1: a rollout without surge uses the budget that it has, and does not wait for more.

    Args:
        basis: How everything was.
        proposal: What was decided; ``None`` if nothing was.
        troubled_ms: When a command for a node last did not work, or got lost.
    """
    if surges(basis.strategy):
        return
    replaced = {} if proposal is None else done_by(basis, proposal).replaced
    free = {
        key
        for key in basis.open
        if len(basis.pods[key]) == 1
        and not basis.pending[key]
        and key not in basis.disowned_on
        and troubled_ms.get(key, -FAILURE_FELT_MS) <= basis.at_ms - FAILURE_FELT_MS
    }
    ready = {key for key in free if basis.live(key)[0].ready}
    certainly_down = basis.unavailable | {key for key in basis.eligible if basis.leaving(key)}
    budget = max(0, basis.down - len(certainly_down))
    room = max(0, len(basis.staying) - basis.partition)
    least = min(room, len(free - ready) + min(budget, len(ready)))
    assert len(replaced) >= least, f"{len(replaced)} replaced, there was room for {least}"


def pods_by_place(world: World, selector: Selector) -> dict[tuple[str, NodeKey, str], list[Pod]]:
    """Collect the pods of each set (by uid) on each node (by name and uid).

    One that the selector does not select any more is about to be released, and not the set's.
    """
    found: dict[tuple[str, NodeKey, str], list[Pod]] = {}
    for pod in world.pods.values():
        if pod.owner is not None and (pod.labels is None or selects(selector, pod.labels)):
            found.setdefault((pod.owner.uid, pod.node_key, pod.node_uid), []).append(pod)
    return found
