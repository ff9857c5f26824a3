"""The simulated fleet itself: its nodes, its pods, and what happens to them as time passes.

The adapter lists and changes it, the command line and tests act on it as outsiders do (drain a node, kill a pod).
Nothing here waits: each method takes effect at once, and whatever is due later happens in ``advance``. It knows
nothing of commands, the log or asyncio.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.identity import derived_uid
from everynode.core.values import NO_EXECUTE, NO_SCHEDULE, Node, Owner, Pod, PodKey, Taint
from everynode.errors import RefusedError
from everynode.ports import Clock
from everynode_simulated.agenda import Agenda
from everynode_simulated.behaviour import Behaviour, Fate, NodeFate, labels_in_template
from everynode_simulated.feed import Change, Feed
from everynode_simulated.generator import UNSCHEDULABLE_TAINT
from everynode_simulated.records import NodeRecord, PodRecord
from everynode_simulated.wallclock import WallClock

NOT_READY_TAINTS = tuple(
    Taint(key="node.kubernetes.io/not-ready", effect=effect) for effect in (NO_SCHEDULE, NO_EXECUTE)
)


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
        self._pods_made = itertools.count()
        self._agenda = Agenda(self.clock, self._wake_feeds)
        self._feeds: list[Feed] = []
        self._nodes: dict[str, NodeRecord] = {}
        self._pods: dict[PodKey, PodRecord] = {}
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
        """The pods that belong to DaemonSets, and orphans, in the order in which they were created."""
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
        """Look up a pod that belongs to a DaemonSet, or an orphan."""
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
        return self._agenda.next_due_ms

    def advance(self) -> None:
        """Let everything happen that is due by now."""
        self._agenda.advance()

    def _wake_feeds(self) -> None:
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
        record = NodeRecord(node)
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
        since_ms = 0 if ready else record.node.unready_since_ms or self.clock.now_ms()
        node = replace(record.node, taints=taints, ready=ready, unready_since_ms=since_ms)
        self._update_node(record, node)
        for pod in list(record.pods.values()):
            if pod.pod.deleting:
                self._plan_end_of(pod, "deleted while its node was not ready")
            elif not ready:
                self._update(pod, replace(pod.pod, ready=False, ready_since_ms=0))
            elif pod.pod.phase == "Pending":
                self._plan_start_of(pod)
            elif pod.pod.phase == "Running":
                self._become_ready(pod)
        return node

    def _record(self, name: str) -> NodeRecord:
        record = self._nodes.get(name)
        if record is None:
            raise RefusedError(f"node {name}: there is no such node")
        return record

    def _update_node(self, record: NodeRecord, node: Node) -> Node:
        if node != record.node:
            record.node = node
            self._say(NodeObserved(node=node))
        return node

    def _plan_fate_of(self, record: NodeRecord, visit: int = 0) -> None:
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
                self._agenda.later(down_ms, recover)
                return
            self.remove_node(name, why=fate.value)
            if fate is NodeFate.IS_REPLACED:
                self._agenda.later(down_ms, come_back)

        self._agenda.later(up_ms, meet_fate)

    # --- pods ---------------------------------------------------------------------------------------------------------

    def create_pod(
        self,
        key: PodKey,
        *,
        node: str,
        owner: Owner | None,
        revision: str,
        template: bytes = b"",
        generation: int = 0,
        failures: int = 0,
    ) -> Pod:
        """Make a pod on a node; it starts by itself.

        Args:
            key: Its name.
            node: Name of the node.
            owner: Who controls it; ``None`` makes an orphan.
            revision: Content hash of the template.
            template: What it is made from, as JSON; its labels and its fate are read from it.
            generation: Kept with it, and so is ``failures``.
            failures: See ``Pod``.

        Raises:
            RefusedError: The name is taken, or there is no node of that name.
        """
        self._check_name(key)
        home = self._record(node)
        pod = Pod(
            backend=key.backend,
            namespace=key.namespace,
            name=key.name,
            uid=derived_uid("pod", *key, str(self._born_ms), str(next(self._pods_made))),
            node=node,
            node_uid=home.node.uid,
            owner=owner,
            revision=revision,
            generation=generation,
            failures=failures,
            created_ms=self.clock.now_ms(),
        )
        fate = self.behaviour.fate_of_pod(pod.uid, template)
        record = PodRecord(pod, fate, home, labels_in_template(template))
        record.pod = replace(pod, labels=record.labels_shown(owner))
        self._pods[key] = home.pods[key] = record
        self._say(PodObserved(pod=record.pod))
        self._plan_start_of(record)
        return record.pod

    def delete_pod(self, key: PodKey, why: str = "deleted") -> None:
        """Delete a pod: it is gone at once, or after the time that it takes to stop, once its node is ready.

        Raises:
            RefusedError: There is no pod of that name.
        """
        record = self._pod_record(key)
        pod = record.pod
        if pod.deleting:
            return
        if not self._stop_ms(record) and self._can_stop(record):
            self._remove(record, why)
            return
        leaving = replace(pod, deleting=True, deleting_since_ms=self.clock.now_ms())
        self._update(record, replace(leaving, ready=False, ready_since_ms=0))
        self._plan_end_of(record, why)

    def adopt_pod(self, key: PodKey, owner: Owner) -> Pod:
        """Make somebody the controller of a pod, in place of whoever was.

        Raises:
            RefusedError: There is no pod of that name.
        """
        return self._give(self._pod_record(key), owner)

    def release_pod(self, key: PodKey) -> Pod:
        """Make an orphan of a pod.

        Raises:
            RefusedError: There is no pod of that name.
        """
        return self._give(self._pod_record(key), None)

    def label_pod(self, key: PodKey, put: Mapping[str, str], remove: Iterable[str] = ()) -> Pod:
        """Set and remove labels of a pod; a label that is not there need not be removed.

        Raises:
            RefusedError: There is no pod of that name.
        """
        record = self._pod_record(key)
        record.labels.update(put)
        for label in remove:
            record.labels.pop(label, None)
        return self._give(record, record.pod.owner)

    def _give(self, record: PodRecord, owner: Owner | None) -> Pod:
        """Say who controls a pod, with the labels that are shown then."""
        self._update(record, replace(record.pod, owner=owner, labels=record.labels_shown(owner)))
        return record.pod

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
        self._check_name(pod.key)
        self._foreign[pod.key] = pod

    def _check_name(self, key: PodKey) -> None:
        if key in self._pods or key in self._foreign:
            raise RefusedError(f"pod {key.namespace}/{key.name}: the name is taken")

    def _pod_record(self, key: PodKey) -> PodRecord:
        record = self._pods.get(key)
        if record is None:
            raise RefusedError(f"pod {key.namespace}/{key.name}: there is no such pod")
        return record

    def _is_current(self, record: PodRecord) -> bool:
        return self._pods.get(record.pod.key) is record

    def _update(self, record: PodRecord, pod: Pod) -> None:
        if pod != record.pod:
            record.pod = pod
            self._say(PodObserved(pod=pod))

    def _remove(self, record: PodRecord, why: str) -> None:
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

    def _stop_ms(self, record: PodRecord) -> int:
        return self.behaviour.delay_ms(self.behaviour.stop_ms, "stop", record.pod.uid)

    def _can_stop(self, record: PodRecord) -> bool:
        """Say whether a pod that is deleted goes: there must be somebody on its node to stop it, or no node."""
        home = record.home
        return home.works or not home.present or self.behaviour.unready_nodes_stop_pods

    def _plan_end_of(self, record: PodRecord, why: str) -> None:
        """Let a pod that is on its way out be gone after a while; if its node cannot stop it then, when it can."""

        def end() -> None:
            if self._can_stop(record):
                self._remove(record, why)

        if not record.home.present:
            self._remove(record, why)
        elif self._can_stop(record):
            self._agenda.later(self._stop_ms(record), end)

    def _plan_start_of(self, record: PodRecord) -> None:
        delay_ms = self.behaviour.delay_ms(self.behaviour.start_ms, "start", record.pod.uid)
        self._agenda.later(delay_ms, lambda: self._start(record))

    def _start(self, record: PodRecord) -> None:
        pod = record.pod
        if not self._is_current(record) or not record.home.works or pod.phase != "Pending":
            return
        if pod.deleting:
            return
        ready_ms = self.behaviour.delay_ms(self.behaviour.ready_ms, "ready", pod.uid)
        if ready_ms == 0 and record.fate.gets_ready:
            now_ms = self.clock.now_ms()
            running = replace(pod, phase="Running", ready=True, ready_since_ms=now_ms)
            self._update(record, running)
        else:
            self._update(record, replace(pod, phase="Running"))
            self._agenda.later(ready_ms, lambda: self._become_ready(record))
        if record.fate in {Fate.FAILS, Fate.FINISHES}:
            run_ms = self.behaviour.delay_ms(self.behaviour.run_ms, "run", pod.uid)
            self._agenda.later(run_ms, lambda: self._end(record, record.fate))

    def _become_ready(self, record: PodRecord) -> None:
        pod = record.pod
        waits = pod.phase == "Running" and not pod.ready and not pod.deleting
        if waits and self._is_current(record) and record.home.works and record.fate.gets_ready:
            now_ms = self.clock.now_ms()
            self._update(record, replace(pod, ready=True, ready_since_ms=now_ms))

    def _end(self, record: PodRecord, fate: Fate) -> Pod:
        if self._is_current(record) and not record.pod.finished:
            phase = "Failed" if fate is Fate.FAILS else "Succeeded"
            self._update(record, replace(record.pod, phase=phase, ready=False, ready_since_ms=0))
        return record.pod
