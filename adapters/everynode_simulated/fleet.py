"""The simulated fleet itself: its nodes, its pods, and what happens to them as time passes.

The adapter lists and changes it, the command line and tests act on it as outsiders do (drain a node, kill a pod).
Nothing here waits: each method takes effect at once, and whatever is due later happens in ``advance``. It knows
nothing of commands, the log or asyncio.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.identity import derived_uid
from everynode.core.values import NO_EXECUTE, NO_SCHEDULE, Node, Owner, Pod, PodKey, Taint
from everynode.errors import RefusedError
from everynode.ports import Clock
from everynode_simulated.behaviour import Behaviour, Fate, NodeFate
from everynode_simulated.feed import Change, Feed
from everynode_simulated.generator import UNSCHEDULABLE_TAINT
from everynode_simulated.wallclock import WallClock

NOT_READY_TAINTS = tuple(
    Taint(key="node.kubernetes.io/not-ready", effect=effect) for effect in (NO_SCHEDULE, NO_EXECUTE)
)


class _NodeRecord:
    """A node and what runs on it; a node that left keeps its record while pods are bound to it."""

    __slots__ = ("node", "pods", "present")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.present = True
        self.pods: dict[PodKey, _PodRecord] = {}


class _PodRecord:
    """A pod and what will become of it."""

    __slots__ = ("fate", "home", "pod")

    def __init__(self, pod: Pod, fate: Fate, home: _NodeRecord) -> None:
        self.pod = pod
        self.fate = fate
        self.home = home

    @property
    def can_run(self) -> bool:
        return self.home.present and self.home.node.ready


@dataclass(order=True, slots=True)
class _Due:
    """Something that happens later; ``ticket`` keeps things that are due together in order."""

    at_ms: int
    ticket: int
    action: Callable[[], object] = field(compare=False)


class SimulatedFleet:
    """Nodes and pods that behave like real ones.

    Args:
        nodes: The nodes to begin with.
        behaviour: Delays and shares of what goes wrong.
        clock: Time; this machine's if not given.
    """

    def __init__(
        self,
        nodes: Iterable[Node] = (),
        *,
        behaviour: Behaviour | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Let the nodes join."""
        self.behaviour = behaviour or Behaviour()
        self.clock = clock or WallClock()
        self._born_ms = self.clock.now_ms()
        self._tickets = itertools.count()
        self._due: list[_Due] = []
        self._feeds: list[Feed] = []
        self._nodes: dict[str, _NodeRecord] = {}
        self._pods: dict[PodKey, _PodRecord] = {}
        self._foreign: dict[PodKey, Pod] = {}
        self._node_indexes = -1
        for node in nodes:
            self.add_node(node)

    # --- what is ------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by name, in the order in which they joined."""
        return {name: record.node for name, record in self._nodes.items()}

    @property
    def pods(self) -> Mapping[PodKey, Pod]:
        """The pods that belong to DaemonSets, in the order in which they were created."""
        return {key: record.pod for key, record in self._pods.items()}

    @property
    def foreign_pods(self) -> Mapping[PodKey, Pod]:
        """The pods of someone else: they take up names, and nothing else."""
        return dict(self._foreign)

    def node(self, name: str) -> Node | None:
        """Look up a node."""
        record = self._nodes.get(name)
        return record.node if record else None

    def pod(self, key: PodKey) -> Pod | None:
        """Look up a pod that belongs to a DaemonSet."""
        record = self._pods.get(key)
        return record.pod if record else None

    def next_node_index(self) -> int:
        """Count the nodes that were ever added; the generator makes the next one from it."""
        self._node_indexes = max(self._node_indexes + 1, len(self._nodes))
        return self._node_indexes

    def is_foreign(self, key: PodKey) -> bool:
        """Say whether a name is taken by someone else."""
        return key in self._foreign

    def subscribe(self, wake: Callable[[], None]) -> Feed:
        """Hear of every change from now on.

        Args:
            wake: Called when there is something to take, or something new is due.
        """
        feed = Feed(wake, self._feeds.remove)
        self._feeds.append(feed)
        return feed

    # --- time ---------------------------------------------------------------------------------------------------------

    @property
    def next_due_ms(self) -> int | None:
        """When ``advance`` will next have something to do; ``None`` if nothing is due ever."""
        return self._due[0].at_ms if self._due else None

    def advance(self) -> None:
        """Let everything happen that is due by now."""
        now_ms = self.clock.now_ms()
        while self._due and self._due[0].at_ms <= now_ms:
            heapq.heappop(self._due).action()

    def _later(self, delay_ms: int, action: Callable[[], object]) -> None:
        due = _Due(self.clock.now_ms() + delay_ms, next(self._tickets), action)
        is_next = not self._due or due.at_ms < self._due[0].at_ms
        heapq.heappush(self._due, due)
        if is_next:
            for feed in self._feeds:
                feed.wake()

    def _say(self, change: Change) -> None:
        for feed in self._feeds:
            feed.put(change)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def add_node(self, node: Node) -> None:
        """Let a node join.

        Raises:
            RefusedError: A node of that name is there.
        """
        if node.name in self._nodes:
            raise RefusedError(f"node {node.name}: it is there already; delete it first")
        record = _NodeRecord(node)
        self._nodes[node.name] = record
        self._say(NodeObserved(node=node))
        self._plan_fate_of(record)

    def remove_node(self, name: str, why: str = "removed") -> None:
        """Let a node leave, and its pods with it (see ``Behaviour.pods_outlive_nodes``).

        Raises:
            RefusedError: There is no node of that name.
        """
        record = self._record(name)
        record.present = False
        del self._nodes[name]
        node = record.node
        self._say(NodeGone(backend=node.backend, name=name, uid=node.uid, why=why))
        for pod in list(record.pods.values()):
            if self.behaviour.pods_outlive_nodes and not pod.pod.deleting:
                self._update(pod, replace(pod.pod, ready=False, ready_since_ms=0))
            else:
                self._remove(pod, "node gone")

    def update_labels(self, name: str, put: Mapping[str, str], remove: Iterable[str] = ()) -> Node:
        """Set and remove labels of a node; a label that is not there need not be removed.

        Raises:
            RefusedError: There is no node of that name.
        """
        record = self._record(name)
        labels = {**record.node.labels, **put}
        for key in remove:
            labels.pop(key, None)
        return self._update_node(record, replace(record.node, labels=labels))

    def update_taints(self, name: str, put: Iterable[Taint], remove: Iterable[Taint] = ()) -> Node:
        """Set and remove taints of a node; a taint is named by its key and effect, its value does not matter.

        Args:
            name: The node.
            put: Taints to set, in place of those of the same key and effect.
            remove: Taints to remove; an empty effect means every effect.

        Raises:
            RefusedError: There is no node of that name.
        """
        record = self._record(name)
        put = tuple(put)
        leaving = {(taint.key, taint.effect) for taint in (*put, *remove)}
        staying = tuple(
            taint
            for taint in record.node.taints
            if not leaving & {(taint.key, taint.effect), (taint.key, "")}
        )
        return self._update_node(record, replace(record.node, taints=(*staying, *put)))

    def cordon(self, name: str, *, unschedulable: bool = True) -> Node:
        """Mark a node as unschedulable, with the taint that Kubernetes adds for it, or take that back.

        Raises:
            RefusedError: There is no node of that name.
        """
        record = self._record(name)
        others = tuple(taint for taint in record.node.taints if taint != UNSCHEDULABLE_TAINT)
        taints = (*others, UNSCHEDULABLE_TAINT) if unschedulable else others
        return self._update_node(
            record, replace(record.node, taints=taints, unschedulable=unschedulable)
        )

    def set_node_ready(self, name: str, *, ready: bool) -> Node:
        """Change a node's Ready condition, with the taints that Kubernetes adds for it; its pods follow.

        Raises:
            RefusedError: There is no node of that name.
        """
        record = self._record(name)
        others = tuple(taint for taint in record.node.taints if taint not in NOT_READY_TAINTS)
        taints = others if ready else (*others, *NOT_READY_TAINTS)
        node = self._update_node(record, replace(record.node, taints=taints, ready=ready))
        for pod in list(record.pods.values()):
            if not ready:
                self._update(pod, replace(pod.pod, ready=False, ready_since_ms=0))
            elif pod.pod.phase == "Pending":
                self._plan_start_of(pod)
            elif pod.pod.phase == "Running":
                self._become_ready(pod)
        return node

    def _record(self, name: str) -> _NodeRecord:
        record = self._nodes.get(name)
        if record is None:
            raise RefusedError(f"node {name}: there is no such node")
        return record

    def _update_node(self, record: _NodeRecord, node: Node) -> Node:
        if node != record.node:
            record.node = node
            self._say(NodeObserved(node=node))
        return node

    def _plan_fate_of(self, record: _NodeRecord, visit: int = 0) -> None:
        uid = record.node.uid
        fate = self.behaviour.fate_of_node(uid)
        if fate is NodeFate.STAYS:
            return
        up_ms = self.behaviour.delay_ms(self.behaviour.node_up_ms, "up", uid, visit)
        down_ms = self.behaviour.delay_ms(self.behaviour.node_down_ms, "down", uid, visit)
        name = record.node.name

        def recover() -> None:
            if record.present:
                self.set_node_ready(name, ready=True)
                self._plan_fate_of(record, visit + 1)

        def come_back() -> None:
            if name not in self._nodes:
                uid_of_next = derived_uid("node", record.node.backend, uid)
                self.add_node(replace(record.node, uid=uid_of_next))

        def meet_fate() -> None:
            if not record.present:
                return
            if fate is NodeFate.FLAPS:
                self.set_node_ready(name, ready=False)
                self._later(down_ms, recover)
                return
            self.remove_node(name, why=fate.value)
            if fate is NodeFate.IS_REPLACED:
                self._later(down_ms, come_back)

        self._later(up_ms, meet_fate)

    # --- pods ---------------------------------------------------------------------------------------------------------

    def create_pod(
        self, key: PodKey, *, node: str, owner: Owner, revision: str, template: bytes = b""
    ) -> Pod:
        """Make a pod on a node; it starts by itself.

        Raises:
            RefusedError: The name is taken, or there is no node of that name.
        """
        if key in self._pods or key in self._foreign:
            raise RefusedError(f"pod {key.namespace}/{key.name}: the name is taken")
        home = self._record(node)
        now_ms = self.clock.now_ms()
        ticket = next(self._tickets)
        pod = Pod(
            backend=key.backend,
            namespace=key.namespace,
            name=key.name,
            uid=derived_uid("pod", *key, str(self._born_ms), str(ticket)),
            node=node,
            node_uid=home.node.uid,
            owner=owner,
            revision=revision,
            created_ms=now_ms,
        )
        record = _PodRecord(pod, self.behaviour.fate_of_pod(pod.uid, template), home)
        self._pods[key] = record
        home.pods[key] = record
        self._say(PodObserved(pod=pod))
        self._plan_start_of(record)
        return pod

    def delete_pod(self, key: PodKey, why: str = "deleted") -> None:
        """Delete a pod: at once, or after the time that it takes to stop.

        Raises:
            RefusedError: There is no pod of that name.
        """
        record = self._pod_record(key)
        if record.pod.deleting:
            return
        stop_ms = self.behaviour.delay_ms(self.behaviour.stop_ms, "stop", record.pod.uid)
        if stop_ms == 0 or not record.home.present:
            self._remove(record, why)
            return
        self._update(record, replace(record.pod, deleting=True, ready=False, ready_since_ms=0))
        self._later(stop_ms, lambda: self._remove(record, why))

    def fail_pod(self, key: PodKey) -> Pod:
        """Let a pod fail, for good.

        Raises:
            RefusedError: There is no pod of that name.
        """
        return self._end(self._pod_record(key), Fate.FAILS)

    def finish_pod(self, key: PodKey) -> Pod:
        """Let a pod end well, for good.

        Raises:
            RefusedError: There is no pod of that name.
        """
        return self._end(self._pod_record(key), Fate.FINISHES)

    def add_foreign_pod(self, pod: Pod) -> None:
        """Let someone else create a pod: nobody hears of it, but its name is taken.

        Raises:
            RefusedError: The name is taken.
        """
        if pod.key in self._pods or pod.key in self._foreign:
            raise RefusedError(f"pod {pod.namespace}/{pod.name}: the name is taken")
        self._foreign[pod.key] = pod

    def _pod_record(self, key: PodKey) -> _PodRecord:
        record = self._pods.get(key)
        if record is None:
            raise RefusedError(f"pod {key.namespace}/{key.name}: there is no such pod")
        return record

    def _is_current(self, record: _PodRecord) -> bool:
        return self._pods.get(record.pod.key) is record

    def _update(self, record: _PodRecord, pod: Pod) -> None:
        if pod != record.pod:
            record.pod = pod
            self._say(PodObserved(pod=pod))

    def _remove(self, record: _PodRecord, why: str) -> None:
        if not self._is_current(record):
            return
        pod = record.pod
        del self._pods[pod.key]
        del record.home.pods[pod.key]
        self._say(
            PodGone(
                backend=pod.backend,
                namespace=pod.namespace,
                name=pod.name,
                uid=pod.uid,
                node=pod.node,
                owner=pod.owner,
                node_uid=pod.node_uid,
                why=why,
            )
        )

    def _plan_start_of(self, record: _PodRecord) -> None:
        delay_ms = self.behaviour.delay_ms(self.behaviour.start_ms, "start", record.pod.uid)
        self._later(delay_ms, lambda: self._start(record))

    def _start(self, record: _PodRecord) -> None:
        pod = record.pod
        if not self._is_current(record) or not record.can_run or pod.phase != "Pending":
            return
        if pod.deleting:
            return
        ready_ms = self.behaviour.delay_ms(self.behaviour.ready_ms, "ready", pod.uid)
        if ready_ms == 0 and record.fate is not Fate.HANGS:
            now_ms = self.clock.now_ms()
            running = replace(pod, phase="Running", ready=True, ready_since_ms=now_ms)
            self._update(record, running)
        else:
            self._update(record, replace(pod, phase="Running"))
            self._later(ready_ms, lambda: self._become_ready(record))
        if record.fate in {Fate.FAILS, Fate.FINISHES}:
            run_ms = self.behaviour.delay_ms(self.behaviour.run_ms, "run", pod.uid)
            self._later(run_ms, lambda: self._end(record, record.fate))

    def _become_ready(self, record: _PodRecord) -> None:
        pod = record.pod
        waits = pod.phase == "Running" and not pod.ready and not pod.deleting
        if waits and self._is_current(record) and record.can_run and record.fate is not Fate.HANGS:
            now_ms = self.clock.now_ms()
            self._update(record, replace(pod, ready=True, ready_since_ms=now_ms))

    def _end(self, record: _PodRecord, fate: Fate) -> Pod:
        if self._is_current(record) and not record.pod.finished:
            phase = "Failed" if fate is Fate.FAILS else "Succeeded"
            self._update(record, replace(record.pod, phase=phase, ready=False, ready_since_ms=0))
        return record.pod
