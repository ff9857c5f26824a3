"""The promises, checked from outside: what happens at the backend, and the decisions that the log took.

``BackendWitness`` sees every change of a backend when it happens (S1, S3, S5); ``check_made`` holds decisions to what
was known at their basis (S2, S3, S6). Budgets, availability and what is pending are worked out again here, in the
plainest way; only eligibility is asked of the core, whose rules have properties of their own. What must be so in the
end is in ``rest``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from everynode.core.commands import Command, CreatePod, DeletePod, Outcome
from everynode.core.eligibility import verdict
from everynode.core.identity import revision_hash
from everynode.core.selectors import selects
from everynode.core.values import DaemonSet, Node, NodeKey, Pod, SetKey, UpdateStrategy
from everynode.testing.simulation.backend import SimulatedCluster, Timers
from everynode.testing.simulation.history import History, Made, Wanted
from everynode.testing.simulation.marks import mark, register

BUDGET_LOOKBACK_MS = 600_000
"""How old what a decision knew may be when its deletes are carried out."""

UNSEEN_MS = 30_000
"""How long after a command was said to be done its effect may take to be observed."""

RETRY_MS = 120_000
"""For so long at least everybody remembers which pod was last on a node; less than any horizon."""

OUTDATED = "OutdatedRevision"

register(
    "budget used up",
    "decision after a loss",
    "pod taken down by a rollout",
    "two pods during a surge",
)


class Violation(NamedTuple):
    """A promise that was not kept."""

    promise: str
    text: str


def share(value: int | str, total: int) -> int:
    """Work out a number of nodes: as it is, or the percentage rounded up."""
    if isinstance(value, int):
        return value
    return math.ceil(Fraction(value.rstrip("%")) * total / 100)


def surges(strategy: UpdateStrategy) -> bool:
    """Say whether a node may have two pods; a percentage of one node is rounded up to one."""
    return strategy.type == "RollingUpdate" and strategy.max_surge not in {0, "0%"}


def down_max(strategy: UpdateStrategy, total: int) -> int:
    """Work out maxUnavailable; the rollout must be able to begin."""
    down, beside = share(strategy.max_unavailable, total), share(strategy.max_surge, total)
    return 1 if down == beside == 0 and total > 0 else down


def is_available(daemonset: DaemonSet, pod: Pod, now_ms: int) -> bool:
    """Say whether a pod does its work, for long enough."""
    wait_ms = daemonset.min_ready_seconds * 1_000
    if not pod.live or not pod.ready:
        return False
    return not wait_ms or 0 < pod.ready_since_ms <= now_ms - wait_ms


class _Place(NamedTuple):
    owner_uid: str
    node: str
    node_uid: str


class _Allowed(NamedTuple):
    since_ms: int
    nodes: int


class BackendWitness:
    """Watches one backend.

    Args:
        cluster: The backend.
        history: The log, for what a set is allowed and what was commanded.
        timers: Time.

    Attributes:
        violations: What was found.
        executed: How many commands changed something, by verb.
    """

    def __init__(self, cluster: SimulatedCluster, history: History, timers: Timers) -> None:
        """Watch from now on."""
        self.violations: list[Violation] = []
        self.executed: dict[str, int] = {}
        self._cluster = cluster
        self._history = history
        self._timers = timers
        self._taken_down: dict[str, dict[NodeKey, int]] = {}  # by set uid: since when
        self._allowed: dict[str, list[_Allowed]] = {}
        cluster.witnesses.append(self)

    def _violated(self, promise: str, text: str) -> None:
        self.violations.append(Violation(promise, f"at {self._timers.now_ms} ms: {text}"))

    # --- S1 -----------------------------------------------------------------------------------------------------------

    def pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        """S1: one live pod of a set on a node; two only while it surges: an old and a new one."""
        if before is not None and before.owner is not None:
            self._serve(before)
        if after is None or after.owner is None:
            return
        self._serve(after)
        if after.live:
            self._check_place(_Place(after.owner.uid, after.node, after.node_uid))

    def _check_place(self, place: _Place) -> None:
        self._history.read()
        known = self._history.sets.get(place.owner_uid, [])
        live = [
            pod
            for pod in self._cluster.pods.values()
            if pod.owner is not None
            and _Place(pod.owner.uid, pod.node, pod.node_uid) == place
            and pod.live
            and _is_selected(known, pod)
        ]
        if len(live) == 1:
            return
        may_surge = any(surges(wanted.daemonset.update_strategy) for wanted in known)
        if may_surge and len(live) == 2 and len({pod.revision for pod in live}) == 2:
            mark("two pods during a surge")
            return
        names = ", ".join(f"{pod.name} (uid {pod.uid}, revision {pod.revision})" for pod in live)
        if live:
            self._violated("S1", f"node {place.node} has {len(live)} live pods of a set: {names}")

    # --- S3 at the backend --------------------------------------------------------------------------------------------

    def node_changed(self, before: Node | None, after: Node | None) -> None:
        """Keep what may be unavailable up to date: percentages are of the eligible nodes."""
        if before is not None and (after is None or after.uid != before.uid or not after.ready):
            key = NodeKey(before.backend, before.name)
            for taken in self._taken_down.values():
                taken.pop(key, None)  # what is down now is down anyway
        for uid in self._history.sets:
            self._allow(uid)

    def _allow(self, uid: str) -> int:
        """Note what a set allows now; returns the most that it allowed lately."""
        known = self._history.sets.get(uid)
        entries = self._allowed.setdefault(uid, [])
        now_ms = self._timers.now_ms
        if known:
            eligible = sum(
                verdict(known[-1].constraints, node).should_run
                for node in self._cluster.nodes.values()
            )
            for wanted in known[-3:]:
                nodes = down_max(wanted.daemonset.update_strategy, eligible)
                if not entries or entries[-1].nodes != nodes:
                    entries.append(_Allowed(now_ms, nodes))
        while len(entries) > 1 and entries[1].since_ms < now_ms - BUDGET_LOOKBACK_MS:
            entries.pop(0)
        return max((entry.nodes for entry in entries), default=0)

    def _serve(self, pod: Pod) -> None:
        """A node whose pod is, or was until now, available is no longer down by our choice."""
        uid = "" if pod.owner is None else pod.owner.uid
        known = self._history.sets.get(uid)
        taken = self._taken_down.get(uid)
        if known and taken and is_available(known[-1].daemonset, pod, self._timers.now_ms):
            taken.pop(pod.node_key, None)

    def carried_out(self, command: Command, outcome: Outcome) -> None:
        """S5: what changes something was commanded. S3: no more goes by our own choice than is allowed."""
        self._history.read()
        self.executed[command.verb] = self.executed.get(command.verb, 0) + 1
        known = self._history.commands.get(command.id, [])
        if isinstance(command, CreatePod):
            known = [item for item in known if isinstance(item, CreatePod)]
            same = any(item.pod_key == command.pod_key for item in known)
        else:
            same = any(item.pod_key == command.pod_key for item in known)
        if not same:
            self._violated("S5", f"carried out without being on the log: {command}")
        if isinstance(command, DeletePod) and outcome.result == "done":
            self._count_down(command)

    def _count_down(self, command: DeletePod) -> None:
        pod = self._cluster.pods.get(command.pod_key)
        known = self._history.sets.get(command.daemonset_uid)
        if pod is None or pod.uid != command.pod_uid or not known or command.reason != OUTDATED:
            return
        now_ms, daemonset = self._timers.now_ms, known[-1].daemonset
        serving = [
            item
            for item in self._cluster.pods.values()
            if item.node_key == pod.node_key
            and item.owner == pod.owner
            and is_available(daemonset, item, now_ms)
        ]
        node = self._cluster.nodes.get(pod.node)
        if node is None or serving != [pod] or not verdict(known[-1].constraints, node).should_run:
            return
        taken = self._taken_down.setdefault(command.daemonset_uid, {})
        for item in self._cluster.pods.values():  # those that have become available by waiting
            self._serve(item)
        taken[pod.node_key] = now_ms
        allowed = self._allow(command.daemonset_uid)
        mark("pod taken down by a rollout")
        if len(taken) > allowed and not any(
            surges(wanted.daemonset.update_strategy) for wanted in known
        ):
            self._violated(
                "S3",
                f"{len(taken)} nodes of {daemonset.key} are down by our choice: {sorted(taken)}; {allowed} may be",
            )


def _is_selected(known: list[Wanted], pod: Pod) -> bool:
    """Say whether a pod is one that its set keeps; one that it does not select is about to be released."""
    return pod.labels is None or any(
        selects(wanted.daemonset.selector, pod.labels) for wanted in known[-1:]
    )


# --- decisions ------------------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What was known of a set at a decision's basis.

    Attributes:
        pods: Its own pods by node.
        leaving: uids of pods that are about to be deleted.
        unseen: Those of them whose deletion is said to be done, for so long that it is looked at afresh.
    """

    wanted: Wanted
    nodes: dict[NodeKey, Node]
    eligible: set[NodeKey]
    pods: dict[NodeKey, list[Pod]]
    leaving: set[str]
    unseen: set[str]
    at_ms: int

    def serves(self, key: NodeKey) -> bool:
        """Say whether a node has an available pod, and will have it after what is decided already."""
        daemonset = self.wanted.daemonset
        return any(
            is_available(daemonset, pod, self.at_ms) and pod.uid not in self.leaving
            for pod in self.pods.get(key, ())
        )


def known_at(history: History, made: Made) -> Known | None:
    """Work out what was known at a decision's basis; ``None`` if the set was not wanted then."""
    decision = made.decision
    wanted = history.wanted(decision.set_key, decision.basis)
    if wanted is None or wanted.daemonset.uid != decision.daemonset_uid:
        return None
    nodes = history.nodes(decision.basis)
    every_pod = history.pods(decision.set_key, decision.basis)
    pods: dict[NodeKey, list[Pod]] = {}
    for pod in every_pod:
        node = nodes.get(pod.node_key)
        if node is not None and _is_own(wanted.daemonset, pod, node):
            pods.setdefault(pod.node_key, []).append(pod)
    eligible = {key for key, node in nodes.items() if verdict(wanted.constraints, node).should_run}
    found = dict(_leaving(history, decision.set_key, decision.basis, decision.at_ms))
    unseen = {uid for uid, done_ms in found.items() if done_ms <= decision.at_ms - UNSEEN_MS}
    return Known(wanted, nodes, eligible, pods, set(found), unseen, decision.at_ms)


def _is_own(daemonset: DaemonSet, pod: Pod, node: Node) -> bool:
    return (
        pod.owner is not None
        and pod.owner.uid == daemonset.uid
        and pod.node_uid in {"", node.uid}
        and (pod.labels is None or selects(daemonset.selector, pod.labels))
    )


def _leaving(history: History, key: SetKey, basis: int, at_ms: int) -> Iterable[tuple[str, int]]:
    """Return the uids that deletes are pending for, and when each was said to be done."""
    for place in history.issued:
        command = place.message
        if not isinstance(command, DeletePod) or command.set_key != key:
            continue
        if place.sequence > basis or command.expires_ms <= at_ms:
            continue
        ends = history.gone.get(command.pod_uid, ())
        if any(place.sequence < end.sequence <= basis for end in ends):
            continue  # it was carried out; should the pod be heard of again, nobody is deleting it
        outcomes = history.outcomes.get(command.id, ())
        after = [item for item in outcomes if place.sequence < item.sequence <= basis]
        if all(
            isinstance(item.message, Outcome) and item.message.result == "done" for item in after
        ):
            yield command.pod_uid, after[-1].time_ms if after else at_ms


def check_made(history: History, made: Made, *, complete: bool = True) -> list[Violation]:
    """Hold one decision that the log took to S2, S3 and S6.

    Args:
        history: The log.
        made: The decision.
        complete: Whether the log had everything that the worker knew of; if it lost its end lately, or let go of what
            was young, only S6 can be checked.
    """
    found = list(_check_fence(history, made))
    if not complete:
        mark("decision after a loss")
        return found
    found += _check_names(history, made)
    known = known_at(history, made)
    if known is not None:
        found += _check_creates(made, known)
        found += _check_replaced(made, known)
    return found


def _text(made: Made) -> str:
    decision = made.decision
    return (
        f"the decision about {decision.set_key} at {made.place.sequence} "
        f"by {decision.worker} on basis {decision.basis}"
    )


def _check_fence(history: History, made: Made) -> Iterable[Violation]:
    """S6: it knew the decision before it."""
    subject = history.subjects.of(made.decision)
    before = history.at(subject, made.place.sequence - 1)
    if before is not None and before.sequence > made.decision.basis:
        yield Violation("S6", f"{_text(made)} did not know the one at {before.sequence}")


def _check_names(history: History, made: Made) -> Iterable[Violation]:
    """S1: what is asked for once more has the name that it had, as long as no pod was there or gone meanwhile."""
    basis = made.decision.basis
    for command in made.commands:
        if not isinstance(command, CreatePod):
            continue
        place = (command.daemonset_uid, command.node_uid, command.revision, command.slot)
        before = history.created.get(place)
        history.created[place] = (basis, made.place.time_ms, command.pod)
        if before is None or before[2] == command.pod:
            continue
        heard = history.last_of_pods(command.node_key, basis)
        since_ms = before[1] if heard is None else min(before[1], heard.time_ms)
        is_same = before[0] <= basis and (heard is None or heard.sequence <= before[0])
        if is_same and made.place.time_ms - since_ms < RETRY_MS:
            text = f"{_text(made)} names a pod {command.pod} that was {before[2]}"
            yield Violation("S1", text)


def _check_creates(made: Made, known: Known) -> Iterable[Violation]:
    """S2: pods are made on eligible nodes only, one on each."""
    seen: set[NodeKey] = set()
    for command in made.commands:
        if not isinstance(command, CreatePod):
            continue
        key = command.node_key
        node = known.nodes.get(key)
        if key not in known.eligible or node is None or node.uid != command.node_uid:
            yield Violation("S2", f"{_text(made)} makes a pod on {key}, which was not eligible")
        if key in seen:
            yield Violation("S1", f"{_text(made)} makes two pods on {key}")
        seen.add(key)


def _check_replaced(made: Made, known: Known) -> Iterable[Violation]:
    """S3: what it takes down, with what is down already, stays within maxUnavailable."""
    strategy = known.wanted.daemonset.update_strategy
    doomed = {
        command.pod_uid
        for command in made.commands
        if isinstance(command, DeletePod) and command.reason == OUTDATED
    }
    others = {
        command.pod_uid
        for command in made.commands
        if isinstance(command, DeletePod) and command.reason != OUTDATED
    }
    afresh = known._replace(leaving=known.leaving - known.unseen)
    after = afresh._replace(leaving=afresh.leaving | others)
    lost = {key for key in known.eligible if afresh.serves(key) and not after.serves(key)}
    if lost:
        yield Violation("S3", f"{_text(made)} takes from {sorted(lost)} what they have")
    before = known._replace(leaving=known.leaving | others)
    after = known._replace(leaving=known.leaving | others | doomed)
    taken = {key for key in known.eligible if before.serves(key) and not after.serves(key)}
    if not taken:
        return
    if surges(strategy):
        yield Violation("S3", f"{_text(made)} takes {sorted(taken)} down before a new pod is there")
        return
    counting = {key for key in known.eligible if key in taken or not _is_skipped(known, key)}
    down = {key for key in counting if not after.serves(key)}
    allowed = down_max(strategy, len(known.eligible))
    if len(down) > allowed:
        yield Violation("S3", f"{_text(made)} leaves {sorted(down)} down; {allowed} may be")
    if len(down) == allowed:
        mark("budget used up")


def _is_skipped(known: Known, key: NodeKey) -> bool:
    """Say whether a node does not count: not ready since before the set began to change something there."""
    daemonset, node = known.wanted.daemonset, known.nodes[key]
    if daemonset.update_strategy.unreachable_nodes != "Skip" or node.ready:
        return False
    wanted = revision_hash(daemonset.template)
    pods = known.pods.get(key, ())
    began = [pod.deleting_since_ms for pod in pods if pod.deleting]
    began += [pod.created_ms for pod in pods if pod.revision == wanted and not pod.deleting]
    return all(began_ms > node.unready_since_ms for began_ms in began)
