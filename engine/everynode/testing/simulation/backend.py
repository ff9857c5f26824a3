"""The simulated backend of a simulation: nodes and pods as they really are, and everything that happens to them.

An adapter (``adapter``) lists, watches and changes it; the nemesis acts on it as outsiders do; the checkers hear of
every change. Calls take effect at once, and what takes time is put on the timers of the virtual clock. Each change has
a version, as in etcd, so that one can look at an older state. It knows nothing of the log, workers or asyncio.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from msgspec.structs import replace

from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, NodeKey, Owner, Phase, Pod, PodKey
from everynode.errors import UnavailableError

OLD_STATES_MAX = 64
"""How many changes back a list can be that is too old."""

Range = tuple[int, int]
Observed = NodeObserved | NodeGone | PodObserved | PodGone


class Timers(Protocol):
    """Time, and what is to happen later."""

    @property
    def now_ms(self) -> int:
        """What time it is."""
        ...

    def after_ms(self, delay_ms: int, callback: Callable[..., object], *args: Any) -> object:
        """Call something later."""
        ...


class Witness(Protocol):
    """Sees every change at the backend when it happens."""

    def pod_changed(self, before: Pod | None, after: Pod | None) -> None:
        """Hear of a pod that came, changed or went."""
        ...

    def node_changed(self, before: Node | None, after: Node | None) -> None:
        """Hear of a node that came, changed or went."""
        ...

    def carried_out(self, command: Command, outcome: Outcome) -> None:
        """Hear of a command before it changes anything, and of what will have become of it."""
        ...


class Snapshot(NamedTuple):
    """Everything as it was at one version."""

    version: int
    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How pods behave; delays are drawn from a range of milliseconds, shares are of all pods.

    Attributes:
        start_ms: From made to running.
        ready_ms: From running to ready.
        stop_ms: From deleted to gone; 0 is at once.
        run_ms: From running to its end, for those that end.
        fails: Share of pods that fail.
        finishes: Share of pods that finish.
        hangs: Share of pods that do not get ready as long as there are faults.
    """

    start_ms: Range = (0, 500)
    ready_ms: Range = (0, 1_000)
    stop_ms: Range = (0, 2_000)
    run_ms: Range = (500, 20_000)
    fails: float = 0.0
    finishes: float = 0.0
    hangs: float = 0.0


class SimulatedCluster:
    """One backend.

    Args:
        backend: Its name in the fleet.
        timers: Time.
        random_: Where chance comes from.
        behaviour: How pods behave.
    """

    def __init__(
        self, backend: str, timers: Timers, random_: random.Random, behaviour: Behaviour
    ) -> None:
        """Begin empty."""
        self.backend = backend
        self.behaviour = behaviour
        self.nodes: dict[str, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.foreign: set[PodKey] = set()
        self.changes: list[Observed] = []
        self.witnesses: list[Witness] = []
        self.waiting: list[Callable[[], None]] = []
        """Called once at the next change."""
        self._template_labels: dict[str, dict[str, str]] = {}  # by pod uid
        self._hanging: set[str] = set()
        self._timers = timers
        self._random = random_
        self._uids = 0
        self._old: deque[Snapshot] = deque(maxlen=OLD_STATES_MAX)

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """How many changes there were."""
        return len(self.changes)

    def snapshot(self, changes_ago: int = 0) -> Snapshot:
        """Return everything as it is, or as it was some changes ago (as far back as is kept)."""
        if changes_ago and self._old:
            return self._old[-min(changes_ago, len(self._old))]
        return Snapshot(self.version, tuple(self.nodes.values()), tuple(self.pods.values()))

    def new_uid(self, kind: str) -> str:
        """Make an identity."""
        self._uids += 1
        return f"{self.backend}-{kind}-{self._uids}"

    def _change(self, observed: Observed) -> None:
        self.changes.append(observed)
        waiting, self.waiting = self.waiting, []
        for wake in waiting:
            wake()

    def _remember(self) -> None:
        self._old.append(self.snapshot())

    # --- nodes --------------------------------------------------------------------------------------------------------

    def put_node(self, node: Node) -> None:
        """Let a node join, or change it."""
        before = self.nodes.get(node.name)
        if before == node:
            return
        self._remember()
        self.nodes[node.name] = node
        self._change(NodeObserved(node=node))
        for witness in self.witnesses:
            witness.node_changed(before, node)

    def remove_node(self, name: str) -> None:
        """Let a node leave; its pods stay on record until they are deleted, and do no work."""
        self._remember()
        node = self.nodes.pop(name)
        self._change(NodeGone(backend=self.backend, name=name, uid=node.uid))
        for witness in self.witnesses:
            witness.node_changed(node, None)
        for pod in self.pods_on(node):
            if pod.deleting:
                self.remove_pod(pod.key)
            else:
                self._put_pod(replace(pod, ready=False, ready_since_ms=0))

    def set_node_ready(self, name: str, *, ready: bool) -> None:
        """Change a node's Ready condition; no pod is ready, or stops, on a node that is not."""
        node = self.nodes[name]
        if node.ready == ready:
            return
        since_ms = 0 if ready else self._timers.now_ms
        self.put_node(replace(node, ready=ready, unready_since_ms=since_ms))
        for pod in self.pods_on(node):
            if pod.deleting:
                self._plan_end(pod)
            elif not ready and pod.ready:
                self._put_pod(replace(pod, ready=False, ready_since_ms=0))
            elif ready and pod.phase == "Pending":
                self._plan_start(pod)
            elif ready:
                self._become_ready(pod.key, pod.uid)

    def pods_on(self, node: Node) -> list[Pod]:
        """Return the pods on this very node."""
        return [
            pod for pod in self.pods.values() if pod.node == node.name and pod.node_uid == node.uid
        ]

    def _home_of(self, pod: Pod) -> Node | None:
        node = self.nodes.get(pod.node)
        return node if node is not None and node.uid == pod.node_uid else None

    # --- pods by themselves -------------------------------------------------------------------------------------------

    def _put_pod(self, pod: Pod) -> None:
        before = self.pods.get(pod.key)
        if before == pod:
            return
        self._remember()
        self.pods[pod.key] = pod
        self._change(PodObserved(pod=pod))
        for witness in self.witnesses:
            witness.pod_changed(before, pod)

    def remove_pod(self, key: PodKey) -> None:
        """Take a pod off the record."""
        self._remember()
        pod = self.pods.pop(key)
        self._hanging.discard(pod.uid)
        gone = PodGone(
            backend=pod.backend,
            namespace=pod.namespace,
            name=pod.name,
            uid=pod.uid,
            node=pod.node,
            owner=pod.owner,
            node_uid=pod.node_uid,
        )
        self._change(gone)
        for witness in self.witnesses:
            witness.pod_changed(pod, None)

    def _later(self, delay: Range, callback: Callable[[], None]) -> None:
        self._timers.after_ms(self._random.randint(*delay), callback)

    def _current(self, key: PodKey, uid: str) -> Pod | None:
        pod = self.pods.get(key)
        return pod if pod is not None and pod.uid == uid else None

    def _plan_start(self, pod: Pod) -> None:
        self._later(self.behaviour.start_ms, lambda: self._start(pod.key, pod.uid))

    def _start(self, key: PodKey, uid: str) -> None:
        pod = self._current(key, uid)
        if pod is None or pod.deleting or pod.phase != "Pending":
            return
        home = self._home_of(pod)
        if home is None or not home.ready:
            return
        self._put_pod(replace(pod, phase="Running"))
        fate, behaviour = self._random.random(), self.behaviour
        if fate < behaviour.fails:
            self._later(behaviour.run_ms, lambda: self._end(key, uid, "Failed"))
        elif fate < behaviour.fails + behaviour.finishes:
            self._later(behaviour.run_ms, lambda: self._end(key, uid, "Succeeded"))
        elif fate < behaviour.fails + behaviour.finishes + behaviour.hangs:
            self._hanging.add(uid)
        self._later(behaviour.ready_ms, lambda: self._become_ready(key, uid))

    def _become_ready(self, key: PodKey, uid: str) -> None:
        pod = self._current(key, uid)
        if pod is None or pod.deleting or pod.ready or pod.phase != "Running":
            return
        home = self._home_of(pod)
        if home is not None and home.ready and uid not in self._hanging:
            self._put_pod(replace(pod, ready=True, ready_since_ms=self._timers.now_ms))

    def _end(self, key: PodKey, uid: str, phase: Phase) -> None:
        pod = self._current(key, uid)
        if pod is not None and not pod.finished:
            self._put_pod(replace(pod, phase=phase, ready=False, ready_since_ms=0))

    def _stop(self, pod: Pod) -> None:
        """Delete a pod: it is gone, or on its way out for as long as its node takes."""
        if pod.deleting:
            return
        if self._home_of(pod) is None:
            self.remove_pod(pod.key)
            return
        leaving = replace(pod, deleting=True, deleting_since_ms=self._timers.now_ms)
        leaving = replace(leaving, ready=False, ready_since_ms=0)
        self._put_pod(leaving)
        self._plan_end(leaving)

    def _plan_end(self, pod: Pod) -> None:
        home = self._home_of(pod)
        if home is None or home.ready:
            self._later(self.behaviour.stop_ms, lambda: self._stopped(pod.key, pod.uid))

    def _stopped(self, key: PodKey, uid: str) -> None:
        pod = self._current(key, uid)
        if pod is None:
            return
        home = self._home_of(pod)
        if home is None or home.ready:
            self.remove_pod(key)

    def heal(self, behaviour: Behaviour) -> None:
        """Let everything work from now on: nodes are ready, pods get ready, what took up names is gone."""
        self.behaviour = behaviour
        hanging, self._hanging = self._hanging, set()
        for pod in list(self.pods.values()):
            if pod.uid in hanging:
                self._become_ready(pod.key, pod.uid)
        for name in list(self.nodes):
            self.set_node_ready(name, ready=True)
        self.foreign.clear()

    # --- outsiders ----------------------------------------------------------------------------------------------------

    def kill_pod(self, key: PodKey, *, at_once: bool) -> None:
        """Let somebody delete a pod, with or without waiting for its node."""
        self.remove_pod(key) if at_once else self._stop(self.pods[key])

    def end_pod(self, key: PodKey, phase: Phase) -> None:
        """Let a pod end by itself."""
        self._end(key, self.pods[key].uid, phase)

    def label_pod(self, key: PodKey, labels: dict[str, str]) -> None:
        """Let somebody change a pod's labels."""
        self._put_pod(replace(self.pods[key], labels=labels))

    def orphan_pod(self, key: PodKey) -> None:
        """Let somebody take a pod from its set; what it had for labels is shown then."""
        pod = self.pods[key]
        labels = self._template_labels.get(pod.uid, {}) if pod.labels is None else pod.labels
        self._put_pod(replace(pod, owner=None, labels=labels))

    def restart_kubelet(self, node: Node) -> None:
        """Set the clocks of a node's pods back, as a kubelet does that starts anew."""
        for pod in self.pods_on(node):
            if pod.ready:
                self._put_pod(replace(pod, ready_since_ms=self._timers.now_ms))

    def make_orphan(self, key: PodKey, node: Node, labels: dict[str, str], revision: str) -> None:
        """Let somebody make a pod by hand."""
        if key in self.pods or key in self.foreign:
            return
        pod = Pod(
            backend=self.backend,
            namespace=key.namespace,
            name=key.name,
            uid=self.new_uid("byhand"),
            node=node.name,
            node_uid=node.uid,
            revision=revision,
            labels=labels,
            created_ms=self._timers.now_ms,
        )
        self._put_pod(pod)
        self._plan_start(pod)

    # --- commands -----------------------------------------------------------------------------------------------------

    def carry_out(self, command: Command, labels: dict[str, str] | None = None) -> Outcome:
        """Carry out a command in one step, as an API server does.

        Args:
            command: What to do.
            labels: Those that the template of a create gives its pod.

        Raises:
            UnavailableError: The pod of that name is still on its way out.
        """
        match command:
            case CreatePod():
                outcome, act = self._create(command, labels or {})
            case DeletePod():
                outcome, act = self._delete(command)
            case AdoptPod():
                outcome, act = self._adopt(command)
            case ReleasePod():
                outcome, act = self._release(command)
        for witness in self.witnesses:
            witness.carried_out(command, outcome)
        act()
        return outcome

    def _create(
        self, command: CreatePod, labels: dict[str, str]
    ) -> tuple[Outcome, Callable[[], None]]:
        key = command.pod_key
        node, existing = self.nodes.get(command.node), self.pods.get(key)
        if key in self.foreign:
            return outcome_of(command, "refused", "the name is someone else's"), _nothing
        if existing is not None:
            owner = existing.owner
            if owner is None or owner.uid != command.daemonset_uid or existing.node != command.node:
                return outcome_of(command, "refused", "the name is someone else's"), _nothing
            if existing.deleting:
                raise UnavailableError(f"pod {command.pod} is on its way out", 500)
            return outcome_of(command, "done", pod_uid=existing.uid), _nothing
        if node is None or node.uid != command.node_uid:
            return outcome_of(command, "refused", "there is no such node"), _nothing
        pod = Pod(
            backend=self.backend,
            namespace=command.namespace,
            name=command.pod,
            uid=self.new_uid("pod"),
            node=command.node,
            node_uid=command.node_uid,
            owner=Owner(name=command.daemonset, uid=command.daemonset_uid),
            revision=command.revision,
            generation=command.generation,
            failures=command.failures,
            created_ms=self._timers.now_ms,
        )

        def make() -> None:
            self._template_labels[pod.uid] = labels
            self._put_pod(pod)
            self._plan_start(pod)

        return outcome_of(command, "done", pod_uid=pod.uid), make

    def _delete(self, command: DeletePod) -> tuple[Outcome, Callable[[], None]]:
        pod = self._current(command.pod_key, command.pod_uid)
        if pod is None or pod.deleting:
            return outcome_of(command, "done"), _nothing
        return outcome_of(command, "done"), lambda: self._stop(pod)

    def _adopt(self, command: AdoptPod) -> tuple[Outcome, Callable[[], None]]:
        pod = self._current(command.pod_key, command.pod_uid)
        if pod is None or pod.deleting:
            return outcome_of(command, "superseded", "the pod is gone, or going"), _nothing
        if pod.owner is None:
            owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
            done = outcome_of(command, "done", pod_uid=pod.uid)
            return done, lambda: self._put_pod(replace(pod, owner=owner))
        if pod.owner.uid != command.daemonset_uid:
            return outcome_of(command, "superseded", "somebody else controls it"), _nothing
        return outcome_of(command, "done", pod_uid=pod.uid), _nothing

    def _release(self, command: ReleasePod) -> tuple[Outcome, Callable[[], None]]:
        pod = self._current(command.pod_key, command.pod_uid)
        if pod is None or pod.owner is None or pod.owner.uid != command.daemonset_uid:
            return outcome_of(command, "done"), _nothing
        return outcome_of(command, "done"), lambda: self.orphan_pod(pod.key)

    def key_of(self, node: Node) -> NodeKey:
        """Say which node of the fleet this is."""
        return NodeKey(self.backend, node.name)


def _nothing() -> None:
    """Change nothing."""
