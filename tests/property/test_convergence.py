"""Properties of folding and deciding, over random histories of a small world."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.property.support_fingerprint import differences, fingerprint

from everynode.core.commands import (
    COMMANDS,
    AdoptPod,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    ReleasePod,
)
from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.events import NodeObserved, PodObserved
from everynode.core.pacing import Limits
from everynode.core.state import FleetState, Record
from everynode.core.values import DaemonSet, Node, Phase, PodKey, SetKey
from everynode.testing import strategies
from everynode.testing.world import World

PHASES: tuple[Phase, ...] = ("Pending", "Running", "Failed", "Succeeded")


class Fleets(RuleBasedStateMachine):
    """A fleet under random change, a worker that may be replaced at any time, and an adapter that may fail.

    Run to its end by ``teardown``: then every eligible node has its pod, and nothing more happens.
    """

    def __init__(self) -> None:
        """Start with an empty world."""
        super().__init__()
        self.world = World(self.limits())

    def limits(self) -> Limits:
        """Return the limits to run under."""
        return Limits()

    @rule(node=strategies.nodes())
    def put_node(self, node: Node) -> None:
        """A node joins, changes, or is made anew under its name."""
        self.world.put_node(node)

    @precondition(lambda self: self.world.nodes)
    @rule(data=st.data())
    def remove_node(self, data: st.DataObject) -> None:
        """A node leaves."""
        self.world.remove_node(data.draw(st.sampled_from(sorted(self.world.nodes))))

    @rule(daemonset=strategies.daemonsets())
    def apply(self, daemonset: DaemonSet) -> None:
        """A set is applied, or changed."""
        self.world.apply_changed(daemonset)

    @precondition(lambda self: self.world.sets)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """A set is deleted."""
        self.world.delete(data.draw(st.sampled_from(sorted(self.world.sets))))

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def lose_pod(self, data: st.DataObject) -> None:
        """A pod is deleted by someone else."""
        self.world.remove_pod(data.draw(st.sampled_from(sorted(self.world.pods))))

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data(), phase=st.sampled_from(("Failed", "Succeeded", "Running", "Pending")))
    def change_pod(self, data: st.DataObject, phase: str) -> None:
        """A pod fails, finishes, or is ready or not."""
        key = data.draw(st.sampled_from(sorted(self.world.pods)))
        self.world.change_pod(key, phase=phase, ready=phase == "Running")  # type: ignore[arg-type]

    @rule(works=st.sampled_from((True, True, True, False)))
    def carry_out(self, works: bool) -> None:
        """The adapter carries out a command, or fails to."""
        self.world.carry_out(works=works)

    @rule(duration_ms=st.sampled_from((10, 1_500, 130_000, 400_000, 700_000)))
    def pass_time(self, duration_ms: int) -> None:
        """Time passes; commands may expire."""
        self.world.now_ms += duration_ms

    @rule()
    def decide(self) -> None:
        """The worker reads the log and decides: only for nodes that are eligible now."""
        world = self.world
        for proposal in world.decide():
            for message in proposal.others:
                if isinstance(message, CreatePod):
                    daemonset = world.sets[proposal.key]
                    found = verdict(compile_constraints(daemonset), world.nodes[message.node_key])
                    assert found.should_run, f"S2: {message} for a node that is not eligible"

    @rule()
    def replace_worker(self) -> None:
        """The worker dies; another one starts from STATE and the last minutes of the log, and knows the same."""
        world = self.world
        world.read(world.worker)
        fresh = world.new_worker("next")
        # What either has forgotten for its age is no difference.
        ours, theirs = fingerprint(world.worker.fleet), fingerprint(fresh.fleet)
        found = differences(ours, theirs)
        assert not found, found
        world.worker = fresh

    @invariant()
    def one_live_pod_per_node(self) -> None:
        """S1: never two live pods of a set on a node, measured at the backend."""
        seen: dict[tuple[str, str, str], list[PodKey]] = defaultdict(list)
        for pod in self.world.pods.values():
            if pod.live and pod.owner is not None:
                seen[pod.owner.uid, pod.backend, pod.node_uid].append(pod.key)
        for pods in seen.values():
            assert len(pods) == 1, f"S1: {pods}"

    @invariant()
    def every_command_is_accounted_for(self) -> None:
        """S4, S5: a command is settled, waits in the queue, or was never issued."""
        messages = [record.message for record in self.world.log]
        issued = {m.id for m in messages if isinstance(m, COMMANDS)}
        settled = {m.id for m in messages if isinstance(m, Outcome)}
        waiting = {command.id for command in self.world.queue}
        assert settled | waiting == issued

    def teardown(self) -> None:
        """L1, L2: when the changes end, exactly the eligible nodes have their pod, and it is silent."""
        world = self.world
        world.run()
        wanted = {
            (daemonset.uid, node.uid)
            for daemonset in world.sets.values()
            for node in world.nodes.values()
            if verdict(compile_constraints(daemonset), node).should_run
        }
        allowed = {
            (daemonset.uid, node.uid)
            for daemonset in world.sets.values()
            for node in world.nodes.values()
            if verdict(compile_constraints(daemonset), node).may_stay
        }
        found = [(pod.owner.uid, pod.node_uid) for pod in world.pods.values() if pod.owner]
        assert len(found) == len(set(found)), "S1: a node has a pod too many"
        assert wanted <= set(found), "L1: a node lacks its pod"
        assert set(found) <= allowed, "L1: a pod is where it may not be"
        length = len(world.log)
        assert world.decide() == [], "L2: it is not silent"
        assert len(world.log) == length, "L2: it is not silent"


class HurriedFleets(Fleets):
    """The same with little room: commands come a few at a time."""

    def limits(self) -> Limits:
        """Allow two creates and one delete at a time."""
        return Limits(creates_max=2, changes_max=1)


TestFleets = Fleets.TestCase
TestFleets.settings = settings(stateful_step_count=40)
TestHurriedFleets = HurriedFleets.TestCase
TestHurriedFleets.settings = settings(stateful_step_count=40)


def about(record: Record, pods: Mapping[str, PodKey]) -> object:
    """Name the object that a message is about: messages about one object keep their order.

    A command is about its pod, and so is its outcome: what was so before it was decided has been read by then.

    Args:
        record: The message.
        pods: Which pod each command is about.
    """
    match record.message:
        case CreatePod() | DeletePod() | AdoptPod() | ReleasePod() | Outcome() as message:
            return pods[message.id]
        case Decision() as decision:
            return ("decision", decision.set_key)
        case PodObserved(pod=pod):
            return pod.key
        case NodeObserved(node=node):
            return node.key
        case message:
            return getattr(message, "key", None) or type(message).__name__


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Record], Limits]:
    """Draw a log: a world under random change for a while, within the time that workers remember."""
    machine = Fleets()
    world = machine.world
    for node in draw(st.lists(strategies.nodes(), max_size=4)):
        world.put_node(node)
    world.apply_changed(draw(strategies.rolling_daemonsets()))
    for _ in range(draw(st.integers(0, 4))):  # so that most histories have pods
        world.decide()
        while world.queue:
            world.carry_out()
    for _ in range(draw(st.integers(1, 25))):
        world.now_ms += 10
        match draw(st.integers(0, 12)):
            case 0 | 1 | 2:
                world.put_node(draw(strategies.nodes()))
            case 3:
                world.apply_changed(draw(strategies.daemonsets()))
            case 9 | 10:
                world.apply_changed(draw(strategies.rolling_daemonsets()))
            case 11 if owned := sorted(key for key, pod in world.pods.items() if pod.owner):
                world.orphan(draw(st.sampled_from(owned)))
            case 4 if world.nodes:
                world.remove_node(draw(st.sampled_from(sorted(world.nodes))))
            case 5 if world.pods:
                world.remove_pod(draw(st.sampled_from(sorted(world.pods))))
            case 6 if world.sets:
                world.delete(draw(st.sampled_from(sorted(world.sets))))
            case 8 if world.pods:
                key = draw(st.sampled_from(sorted(world.pods)))
                world.change_pod(
                    key, phase=draw(st.sampled_from(PHASES)), ready=draw(st.booleans())
                )
            case 7 if world.queue:
                world.carry_out(works=draw(st.booleans()))
            case _:
                world.decide()
                carried = draw(st.integers(0, len(world.queue)))
                for _ in range(carried):
                    world.carry_out()
    return world.log, world.limits


def folded(records: list[Record], limits: Limits) -> FleetState:
    """Fold a log, in the order given."""
    fleet = FleetState(limits)
    for record in records:
        fleet.fold(record)
    return fleet


@given(histories(), st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(
    history: tuple[list[Record], Limits], chance: random.Random
) -> None:
    """Any order that keeps each object's own order gives the same state and the same decisions."""
    log, limits = history
    lanes: dict[object, list[Record]] = defaultdict(list)
    commands = [record.message for record in log if isinstance(record.message, COMMANDS)]
    pods = {command.id: command.pod_key for command in commands}
    for record in log:
        lanes[about(record, pods)].append(record)
    shuffled = []
    waiting = [list(reversed(lane)) for lane in lanes.values()]
    while waiting:
        lane = chance.choice(waiting)
        shuffled.append(lane.pop())
        waiting = [lane for lane in waiting if lane]

    found = differences(fingerprint(folded(log, limits)), fingerprint(folded(shuffled, limits)))
    assert not found, found


@given(histories(), st.data())
def test_messages_heard_again_change_nothing(
    history: tuple[list[Record], Limits], data: st.DataObject
) -> None:
    """S1, S4: a message that comes twice, or again much later, leaves everything as it is."""
    log, limits = history
    repeated = list(log)
    for record in data.draw(st.lists(st.sampled_from(log), max_size=5)) if log else []:
        repeated.insert(data.draw(st.integers(log.index(record), len(repeated))), record)

    once = fingerprint(folded(log, limits))
    found = differences(once, fingerprint(folded(repeated, limits)))
    assert not found, found
    found = differences(once, fingerprint(folded([*log, *log], limits)))
    assert not found, found


@given(histories())
def test_a_decision_on_a_stale_view_is_refused(history: tuple[list[Record], Limits]) -> None:
    """S6: of two workers that decide on the same view, exactly one is heard."""
    world = World()
    for record in history[0]:
        if isinstance(record.message, NodeObserved):
            world.put_node(record.message.node)
        elif isinstance(record.message, Decision):
            continue
        elif type(record.message).__name__ == "DaemonSetObserved":
            world.apply(record.message.daemonset)  # type: ignore[attr-defined]
    first, second = world.new_worker("first"), world.new_worker("second")
    ours, theirs = first.proposals(100), second.proposals(100)

    assert [item.key for item in ours] == [item.key for item in theirs]
    heard = [world.offer(first, item) for item in ours]
    late = [world.offer(second, item) for item in theirs]
    assert all(heard)
    assert not any(late)
    world.worker = second
    world.run()


def test_world_is_not_always_at_rest() -> None:
    """The properties above can fail: a world in which something is to be done says so."""
    world = World()
    world.put_node(Node(backend="east", name="node-1", uid="u1"))
    world.apply_changed(daemonset())

    assert [SetKey("default", "agent")] == [item.key for item in world.decide()]
    assert len(world.queue) == 1


def daemonset() -> DaemonSet:
    """Make a set for every node."""
    return strategies.plain_daemonset()
