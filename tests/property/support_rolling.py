"""A fleet under random change while templates and strategies change: the histories that rollouts are tried on.

Each decision is held to ``support_rollout`` when it is made; each step to what must hold at the backend at any time.
When a history ends, the faults end with it, and the fleet must come to where it should be, and to rest.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs
from tests.property.support_fingerprint import differences, fingerprint
from tests.property.support_rollout import (
    Basis,
    check_decision,
    check_thrift,
    pods_by_place,
    surges,
)

from everynode.core.commands import Command
from everynode.core.events import PodGone, StatusReported
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.values import (
    DaemonSet,
    Node,
    NodeKey,
    Pod,
    Selector,
    SetKey,
    Taint,
    UpdateStrategy,
)
from everynode.testing import strategies
from everynode.testing.builders import node
from everynode.testing.world import World

LABELS: tuple[dict[str, str], ...] = ({"app": "agent"}, {"app": "agent"}, {"app": "other"}, {})
KEY = SetKey("default", "agent")
SELECTOR = Selector(match_labels={"app": "agent"})

ROUNDS_MAX = 150
"""So many rounds are enough for every history to come to rest."""


STEPS = (
    *("decide", "carry out") * 3,
    *("go on", "move on", "change a pod", "change a node", "taint a node", "lose an updated node"),
)


class RollingFleet(RuleBasedStateMachine):
    """One set, one fleet, versions and strategies that change, nodes and pods that come and go.

    Attributes:
        surge: Whether strategies with surge are drawn.
        limits: What workers allow themselves.
        thrifty: Whether the budget must be used up; not if the limits are tighter than the budget.
    """

    surge = False
    limits = Limits()
    thrifty = True

    def __init__(self) -> None:
        """Start with an empty world."""
        super().__init__()
        self.world = World(self.limits)
        self.lost: list[Command] = []
        self.troubled_ms: dict[NodeKey, int] = {}
        self.has_surged: set[str] = set()
        self.late: tuple[WorkerMachine, Basis] | None = None
        self.predecessor_uids: tuple[str, ...] = ()

    @initialize(data=st.data(), start_ready=st.booleans(), stop_at_once=st.booleans())
    def begin(self, data: st.DataObject, start_ready: bool, stop_at_once: bool) -> None:
        """A history begins with a fleet that is covered."""
        self.world.start_ready, self.world.stop_at_once = start_ready, stop_at_once
        nodes, daemonset = self.first(data)
        for item in nodes:
            self.world.put_node(item)
        self.apply(daemonset)
        self.world.run()

    def first(self, data: st.DataObject) -> tuple[list[Node], DaemonSet]:
        """Begin with nodes that are all fit for the set."""
        zones = data.draw(st.lists(st.sampled_from("aab"), min_size=3, max_size=8))
        nodes = [node(f"node-{number}", zone=zone) for number, zone in enumerate(zones)]
        daemonset = data.draw(strategies.rolling_daemonsets(surge=self.surge))
        template = strategies.versioned_template("agent", "v1")
        strategy = self._strategy(data)
        return nodes, structs.replace(daemonset, template=template, update_strategy=strategy)

    # The set

    def _strategy(self, data: st.DataObject) -> UpdateStrategy:
        return data.draw(strategies.update_strategies(surge=self.surge, busy=True))

    def apply(self, daemonset: DaemonSet) -> None:
        """The set is applied, or changed, with identity and generation as ``everynode apply`` gives them."""
        changed = structs.replace(daemonset, predecessor_uids=self.predecessor_uids)
        self.world.apply_changed(changed)
        if surges(daemonset.update_strategy):
            self.has_surged.add(self.world.sets[KEY].uid)

    def is_wanted(self) -> bool:
        """Say whether there is a set."""
        return KEY in self.world.sets

    @precondition(is_wanted)
    @rule(version=st.sampled_from(strategies.VERSIONS))
    def change_template(self, version: str) -> None:
        """A new version; or an earlier one, in the middle of a rollout or after it."""
        template = strategies.versioned_template("agent", version)
        self.apply(structs.replace(self.world.sets[KEY], template=template))

    @precondition(is_wanted)
    @rule(data=st.data())
    def change_strategy(self, data: st.DataObject) -> None:
        """Another strategy."""
        wanted = self.world.sets[KEY]
        self.apply(structs.replace(wanted, update_strategy=self._strategy(data)))

    @precondition(is_wanted)
    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        """The rollout is paused, or goes on."""
        wanted = self.world.sets[KEY]
        strategy = structs.replace(wanted.update_strategy, paused=paused)
        self.apply(structs.replace(wanted, update_strategy=strategy))

    @precondition(is_wanted)
    @rule(
        version=st.sampled_from(strategies.VERSIONS),
        steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=12),
        data=st.data(),
    )
    def roll_out(self, version: str, steps: list[str], data: st.DataObject) -> None:
        """A new version, and the first steps of its rollout; in between, things happen to nodes and pods."""
        self.change_template(version)
        for step in steps:
            match step:
                case "decide":
                    self.decide()
                case "carry out" if self.world.queue:
                    self.carry_out(works=True)
                case "go on":
                    self.go_on(rounds=1)
                case "move on":
                    self.move_on()
                case "change a pod" if self.world.pods:
                    self.change_pod(data=data, phase="Running")
                case "change a node" if self.world.nodes:
                    self.flip_node(data=data, ready=data.draw(st.booleans()))
                case "taint a node" if self.world.nodes:
                    self.taint_node(data)
                case "lose an updated node":
                    self.lose_updated_node()

    def taint_node(self, data: st.DataObject) -> None:
        """A node takes no new pods any more, or does again; what runs there may stay."""
        known = self.world.nodes[data.draw(st.sampled_from(sorted(self.world.nodes)))]
        taints = () if known.taints else (Taint(key="broken", effect="NoSchedule"),)
        self.world.put_node(structs.replace(known, taints=taints))

    def lose_updated_node(self) -> None:
        """The new version may be what has made the node go away."""
        basis = Basis(self.world, self.world.sets[KEY])
        updated = sorted(key for key, node in basis.nodes.items() if basis.new(key) and node.ready)
        if updated:
            self.world.now_ms += 10
            self.world.set_node_ready(updated[0], ready=False)

    # The fleet

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data(), ready=st.booleans())
    def flip_node(self, data: st.DataObject, ready: bool) -> None:
        """A node is lost, or heard of again."""
        key = data.draw(st.sampled_from(sorted(self.world.nodes)))
        self.world.set_node_ready(key, ready=ready)

    # Pods

    def _pod(self, data: st.DataObject) -> Pod:
        return self.world.pods[data.draw(st.sampled_from(sorted(self.world.pods)))]

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data(), at_once=st.booleans())
    def lose_pod(self, data: st.DataObject, at_once: bool) -> None:
        """A pod is deleted by someone else."""
        key = self._pod(data).key
        self.world.remove_pod(key) if at_once else self.world.stop_pod(key)

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data(), phase=st.sampled_from(("Failed", "Succeeded", "Running", "Running")))
    def change_pod(self, data: st.DataObject, phase: str) -> None:
        """A pod ends, stops being ready, or is ready at last."""
        pod = self._pod(data)
        if not pod.finished:
            ready = phase == "Running" and not pod.ready and not pod.deleting
            self.world.change_pod(pod.key, phase=phase, ready=ready)  # type: ignore[arg-type] # drawn

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def restart_kubelet(self, data: st.DataObject) -> None:
        """The agent of a node starts anew: its pods stay ready, and their clocks are set back."""
        node = self._pod(data).node_key
        for pod in [pod for pod in self.world.pods.values() if pod.node_key == node and pod.ready]:
            self.world.put_pod(structs.replace(pod, ready_since_ms=self.world.now_ms))

    @rule(hangs=st.booleans())
    def break_version(self, hangs: bool) -> None:
        """What is wanted now never gets ready; or everything does again."""
        self.world.hanging.clear()
        if hangs and self.is_wanted():
            self.world.hanging.add(Basis(self.world, self.world.sets[KEY]).wanted)

    @rule()
    def move_on(self) -> None:
        """What was under way at the backend comes about."""
        self.world.now_ms += 1_000
        self.world.move_on()

    # Commands

    @precondition(lambda self: self.world.queue)
    @rule(works=st.sampled_from((True, True, True, False)))
    def carry_out(self, works: bool) -> None:
        """The adapter carries out a command, or fails to."""
        node = self.world.queue[0].node_key
        outcome = self.world.carry_out(works=works)
        if outcome is not None and outcome.result != "done":
            self.troubled_ms[node] = self.world.now_ms

    @rule(duration_ms=st.sampled_from((10, 1_500, 31_000, 130_000, 400_000, 700_000)))
    def pass_time(self, duration_ms: int) -> None:
        """Time passes; commands may expire."""
        self.world.now_ms += duration_ms

    # Workers

    @rule()
    def decide(self) -> None:
        """The worker reads the log and decides, on what is so now."""
        world = self.world
        for command in (*world.queue, *self.lost):
            if command.expires_ms <= world.now_ms:
                before_ms = self.troubled_ms.get(command.node_key, 0)
                self.troubled_ms[command.node_key] = max(before_ms, command.expires_ms)
        basis, taken, refused = None, [], -1
        while refused != world.refused:  # once more, if it did not know of a decision of long ago
            refused = world.refused
            basis = Basis(world, world.sets[KEY], self.lost) if self.is_wanted() else None
            taken = world.decide()
        if basis is None:
            return
        proposal = next(iter(taken), None)
        if proposal is not None:
            check_decision(basis, proposal)
        if self.thrifty:
            check_thrift(basis, proposal, self.troubled_ms)

    @rule(rounds=st.integers(1, 4))
    def go_on(self, rounds: int) -> None:
        """For a while everything works as it should."""
        for _ in range(rounds):
            self.world.now_ms += 1_000
            self.decide()
            while self.world.queue:
                self.carry_out(works=True)
            self.world.move_on()

    @rule()
    def replace_worker(self) -> None:
        """Another worker that starts from STATE and the last minutes of the log knows the same."""
        world = self.world
        world.read(world.worker)
        fresh = world.new_worker("next")
        found = differences(fingerprint(world.worker.fleet), fingerprint(fresh.fleet))
        assert not found, found
        world.worker = fresh

    @precondition(is_wanted)
    @rule()
    def fall_behind(self) -> None:
        """Another worker reads up to here, and no further."""
        basis = Basis(self.world, self.world.sets[KEY], self.lost)
        self.late = (self.world.new_worker("late"), basis)

    @precondition(lambda self: self.late is not None)
    @rule()
    def decide_late(self) -> None:
        """S6: the one that is behind decides: it is heard only if nobody else has decided since."""
        assert self.late is not None
        machine, basis = self.late
        self.late = None
        for proposal in machine.proposals(10):
            if self.world.offer(machine, proposal):
                check_decision(basis, proposal)
        self.world.decide(machine)  # it catches up, goes on, and says what it has seen

    # At any time

    @invariant()
    def never_too_many_pods(self) -> None:
        """S1: one live pod on a node, none beside one that is stopping; during a surge two, of two revisions."""
        for (uid, *_), pods in pods_by_place(self.world, SELECTOR).items():
            live = [pod for pod in pods if pod.live]
            if uid in self.has_surged:
                assert len(live) <= 2, f"S1: {live}"
                assert len(live) == len({pod.revision for pod in live}), f"S1: {live}"
            else:
                running = [pod for pod in pods if not pod.finished]
                assert len(running) <= 1, f"S1: {running}"

    # In the end

    def teardown(self) -> None:
        """L1, L2: when the faults end, the fleet is as it should be, and it is silent."""
        world = self.world
        if not world.log:
            return  # it never began
        world.hanging.clear()
        for key in sorted(world.nodes):
            world.set_node_ready(key, ready=True)
        try:
            world.run(rounds_max=ROUNDS_MAX)
        except AssertionError as error:
            tail = "\n".join(str(record) for record in world.log[-30:])
            raise AssertionError(f"L2: {error}; the end of the log:\n{tail}") from error
        uids = {daemonset.uid for daemonset in world.sets.values()}
        owners = {pod.owner.uid for pod in world.pods.values() if pod.owner is not None}
        assert owners <= uids, f"L1: {owners - uids} left pods behind"
        if self.is_wanted():
            check_rest(world)
        length = len(world.log)
        assert world.decide() == [], "L2: it is not silent"
        assert len(world.log) == length, "L2: it is not silent"


class TroubledFleet(RollingFleet):
    """The same, and everything else that may happen to sets, nodes, pods and commands."""

    def first(self, data: st.DataObject) -> tuple[list[Node], DaemonSet]:
        """Begin with any nodes and any set."""
        nodes = data.draw(st.lists(strategies.rolling_nodes(), min_size=1, max_size=8))
        return nodes, data.draw(strategies.rolling_daemonsets(surge=self.surge))

    def _strategy(self, data: st.DataObject) -> UpdateStrategy:
        return data.draw(strategies.update_strategies(surge=self.surge))

    @rule(data=st.data())
    def apply_anything(self, data: st.DataObject) -> None:
        """Everything about the set changes at once."""
        self.apply(data.draw(strategies.rolling_daemonsets(surge=self.surge)))

    @precondition(RollingFleet.is_wanted)
    @rule(cascade=st.sampled_from(("background", "orphan")))
    def delete(self, cascade: str) -> None:
        """The set is deleted, and its pods with it or not; it may be applied again."""
        uid = self.world.sets[KEY].uid
        self.predecessor_uids = (*self.predecessor_uids, uid)[-3:] if cascade == "orphan" else ()
        self.world.delete(KEY, cascade)  # type: ignore[arg-type] # drawn from its two values

    @rule(node=strategies.rolling_nodes())
    def put_node(self, node: Node) -> None:
        """A node joins, has its labels and taints changed, or is made anew under its name."""
        known = self.world.nodes.get(node.key)
        if known is not None and known.uid == node.uid:
            node = structs.replace(node, ready=known.ready, unready_since_ms=known.unready_since_ms)
        self.world.put_node(node)

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data())
    def remove_node(self, data: st.DataObject) -> None:
        """A node leaves."""
        self.world.remove_node(data.draw(st.sampled_from(sorted(self.world.nodes))))

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data(), labels=st.sampled_from(LABELS))
    def label_pod(self, data: st.DataObject, labels: dict[str, str]) -> None:
        """Somebody changes a pod's labels; one that is stopping would be the set's again, beside its successor."""
        pod = self._pod(data)
        if not pod.deleting:
            self.world.label_pod(pod.key, labels)

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def orphan(self, data: st.DataObject) -> None:
        """Somebody takes a pod from its set."""
        pod = self._pod(data)
        if pod.owner is not None:
            self.world.orphan(pod.key)

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data(), labels=st.sampled_from(LABELS), ready=st.booleans())
    def put_orphan(self, data: st.DataObject, labels: dict[str, str], ready: bool) -> None:
        """Somebody makes a pod by hand, of a revision that is known or not."""
        node = self.world.nodes[data.draw(st.sampled_from(sorted(self.world.nodes)))]
        known = sorted({pod.revision for pod in self.world.pods.values()})
        number = len(self.world.log)
        orphan = Pod(
            backend=node.backend,
            namespace="default",
            name=f"byhand-{number}",
            uid=f"byhand-{number}",
            node=node.name,
            node_uid=data.draw(st.sampled_from((node.uid, ""))),
            revision=data.draw(st.sampled_from(("", *known))),
            labels=labels,
            created_ms=self.world.now_ms,
            phase="Running",
            ready=ready and node.ready,
            ready_since_ms=self.world.now_ms if ready and node.ready else 0,
        )
        self.world.put_pod(orphan)

    @precondition(lambda self: self.world.queue)
    @rule(happens=st.booleans())
    def lose_outcome(self, happens: bool) -> None:
        """The adapter dies: a command is carried out or not, and nothing is said about it."""
        command = self.world.queue.pop(0)
        works = happens and command.expires_ms > self.world.now_ms
        if not works or self.world._apply(command).result != "done":
            self.lost.append(command)
        self.troubled_ms[command.node_key] = command.expires_ms


def check_rest(world: World) -> None:
    """L1: exactly one available pod on each eligible node, of the wanted revision unless that is held."""
    basis = Basis(world, world.sets[KEY])
    strategy = basis.strategy
    for key in basis.eligible:
        pods = basis.pods[key]
        assert len(pods) == 1, f"L1: {key} has {pods}"
        assert basis.is_available(pods[0]), f"L1: {pods} is not available"
    spared = {key for key in basis.tolerated - basis.eligible if basis.pods[key]}
    assert all(len(basis.pods[key]) == 1 for key in spared), "S1: more than one"
    elsewhere = {key for key in basis.nodes.keys() - basis.tolerated if basis.pods[key]}
    assert not elsewhere, f"L1: a pod is where it may not be: {elsewhere}"
    updated = {key for key in basis.eligible if basis.new(key)}
    assert not basis.open or len(basis.staying) <= basis.partition, f"L1: {basis.open} are old"
    surplus = basis.recorded - {basis.wanted}
    unused = surplus - {pod.revision for pod in basis.every_pod.values() if pod.owner is not None}
    if strategy.paused or strategy.partition or strategy.selector is not None:
        gone = (record.message for record in world.log if isinstance(record.message, PodGone))
        unused -= {message.revision for message in gone}  # successors get what there was
    limit = basis.daemonset.revision_history_limit
    assert len(surplus) <= limit or not unused, f"{unused} are still on record"
    status = next(
        record.message.status
        for record in reversed(world.kept.values())
        if isinstance(record.message, StatusReported)
    )
    counters = (
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        status.number_available,
        status.updated_number_scheduled,
        status.number_unavailable,
        status.number_misscheduled,
        status.observed_generation,
    )
    desired = len(basis.eligible)
    assert counters == (
        *(desired, desired, desired, desired, len(updated), 0, len(spared)),
        basis.daemonset.generation,
    )
    progressing = status.condition("Progressing")
    assert progressing is not None
    assert progressing.reason == reason_at_rest(strategy, everywhere=len(updated) == desired)


def reason_at_rest(strategy: UpdateStrategy, *, everywhere: bool) -> str:
    """Say why a rollout has come to rest."""
    if everywhere:
        return "RolloutComplete"
    if strategy.type == "OnDelete":
        return "OnDelete"
    return "RolloutPaused" if strategy.paused else "RolloutHeld"
