"""The simulated fleet: what happens to its nodes and pods as time passes, all from one seed."""

import subprocess
import sys

import pytest
from msgspec.structs import replace
from tests.unit.support_simulated import AT_ONCE, KEY, NEVER_MS, NODE, OTHER, OWNER, World

from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Pod, PodKey, Taint
from everynode.errors import RefusedError
from everynode_simulated import Behaviour, generate_node, generate_nodes
from everynode_simulated.behaviour import FATE_ANNOTATION
from everynode_simulated.feed import Feed
from everynode_simulated.generator import UNSCHEDULABLE_TAINT


class TestGenerator:
    """Nodes from a seed."""

    def test_the_same_seed_gives_the_same_nodes(self) -> None:
        """Uids, labels and taints included; another seed gives others."""
        assert generate_nodes(50, 3, "b") == generate_nodes(50, 3, "b")
        assert generate_nodes(50, 3, "b") != generate_nodes(50, 4, "b")

    def test_nothing_depends_on_the_process(self) -> None:
        """Another process with another hash seed makes the same nodes."""
        program = (
            "from everynode_simulated import generate_nodes; print(generate_nodes(40, 3, 'b'))"
        )
        printed = {
            subprocess.run(
                [sys.executable, "-c", program],
                env={"PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert printed == {f"{generate_nodes(40, 3, 'b')}\n"}

    def test_names_and_uids_are_unique(self) -> None:
        """Also in a large fleet."""
        nodes = generate_nodes(2_000, 1, "b")
        assert len(nodes) == len({node.name for node in nodes}) == len({node.uid for node in nodes})

    def test_a_fleet_is_mixed(self) -> None:
        """There are zones, architectures, a tainted control plane, gpu, spot, windows and cordoned nodes."""
        nodes = generate_nodes(1_000, 1, "b")

        def values(label: str) -> set[str]:
            return {node.labels[label] for node in nodes if label in node.labels}

        assert values("kubernetes.io/arch") == {"amd64", "arm64"}
        assert values("kubernetes.io/os") == {"linux", "windows"}
        assert len(values("topology.kubernetes.io/zone")) == 9
        assert len(values("kubernetes.io/hostname")) == 1_000
        control = [n for n in nodes if "node-role.kubernetes.io/control-plane" in n.labels]
        assert len(control) == 3
        assert all(n.taints[0].key == "node-role.kubernetes.io/control-plane" for n in control)
        keys = {taint.key for node in nodes for taint in node.taints}
        assert keys >= {"nvidia.com/gpu", "example.com/spot", "os", UNSCHEDULABLE_TAINT.key}
        cordoned = [n for n in nodes if n.unschedulable]
        assert 0 < len(cordoned) < 50
        assert all(UNSCHEDULABLE_TAINT in n.taints for n in cordoned)

    @pytest.mark.parametrize(("count", "control"), [(0, 0), (2, 0), (3, 1), (9, 1), (10, 3)])
    def test_the_control_plane_fits_the_fleet(self, count: int, control: int) -> None:
        """A fleet too small for a control plane has none, so that every node can have pods."""
        nodes = generate_nodes(count, 1, "b")
        assert len(nodes) == count
        assert sum(node.name.startswith("control-") for node in nodes) == control

    def test_a_node_by_itself(self) -> None:
        """One more node of the same seed, under a name of one's choice."""
        node = generate_node(7, 3, "b", "mine")
        assert (node.name, node.labels["kubernetes.io/hostname"]) == ("mine", "mine")


class TestPods:
    """From created to gone."""

    def test_a_pod_starts_and_becomes_ready(self) -> None:
        """Pending, Running, ready, each after its delay, and each said once."""
        world = World(NODE)
        pod = world.create()
        running = replace(pod, phase="Running")
        ready = replace(running, ready=True, ready_since_ms=1_020)
        assert (pod.node_uid, pod.created_ms, pod.phase) == ("u1", 1_000, "Pending")
        assert world.pass_ms(9) == [PodObserved(pod=pod)]
        assert world.pass_ms(1) == [PodObserved(pod=running)]
        assert world.pass_ms(NEVER_MS) == [PodObserved(pod=ready)]

    def test_without_a_delay_it_is_ready_as_it_runs(self) -> None:
        """That is one thing to say, not two."""
        world = World(NODE, behaviour=Behaviour(start_ms=(10, 10)))
        world.create()
        phases = [
            (one.pod.phase, one.pod.ready)
            for one in world.pass_ms(NEVER_MS)
            if isinstance(one, PodObserved)
        ]
        assert phases == [("Pending", False), ("Running", True)]

    @pytest.mark.parametrize(
        ("behaviour", "phase", "ready"),
        [
            (Behaviour(pods_hang=1), "Running", False),
            (Behaviour(pods_fail=1), "Failed", False),
            (Behaviour(pods_finish=1), "Succeeded", False),
            (Behaviour(), "Running", True),
        ],
    )
    def test_its_fate(self, behaviour: Behaviour, phase: str, ready: bool) -> None:
        """A pod hangs, fails, finishes or works, as its share says."""
        world = World(NODE, behaviour=behaviour)
        world.create()
        world.pass_ms(NEVER_MS)
        pod = world.fleet.pod(KEY)
        assert pod is not None
        assert (pod.phase, pod.ready, bool(pod.ready_since_ms)) == (phase, ready, ready)

    @pytest.mark.parametrize(
        ("fate", "phase"), [("fails", "Failed"), ("works", "Running"), ("nonsense", "Running")]
    )
    def test_a_template_can_ask_for_a_fate(self, fate: str, phase: str) -> None:
        """An annotation of the template decides before any share does."""
        world = World(NODE)
        template = f'{{"metadata":{{"annotations":{{"{FATE_ANNOTATION}":"{fate}"}}}}}}'
        world.create(template=template.encode())
        world.pass_ms(NEVER_MS)
        assert world.fleet.pods[KEY].phase == phase

    @pytest.mark.parametrize("template", [b"", b"[]", b"{", b'{"metadata":null}', b'{"spec":{}}'])
    def test_any_template_is_run(self, template: bytes) -> None:
        """The fleet looks at the annotation and at nothing else."""
        world = World(NODE)
        world.create(template=template)
        world.pass_ms(NEVER_MS)
        assert world.fleet.pods[KEY].ready

    def test_shares_are_kept(self) -> None:
        """Of many pods, about as many fail as the share says, and the same ones with the same seed."""
        failed = []
        for _ in range(2):
            world = World(NODE, behaviour=Behaviour(seed=5, pods_fail=0.3))
            for number in range(400):
                world.create(PodKey("b", "ns", f"p{number}"))
            world.pass_ms(NEVER_MS)
            pods = world.fleet.pods.values()
            failed.append([pod.name for pod in pods if pod.phase == "Failed"])
        assert 80 < len(failed[0]) < 160
        assert failed[0] == failed[1]

    def test_a_name_is_taken_once(self) -> None:
        """Whoever has it, a second pod of the name is refused and changes nothing."""
        world = World(NODE)
        first = world.create()
        with pytest.raises(RefusedError, match="ns/p: the name is taken"):
            world.create()
        with pytest.raises(RefusedError, match="taken"):
            world.fleet.add_foreign_pod(first)
        assert world.said() == [PodObserved(pod=first)]

    def test_a_foreign_pod_only_takes_a_name(self) -> None:
        """Nobody hears of it, but its name cannot be had."""
        world = World(NODE)
        foreign = Pod(**{f: getattr(World(NODE).create(), f) for f in Pod.__struct_fields__})
        world.fleet.add_foreign_pod(foreign)
        with pytest.raises(RefusedError, match="taken"):
            world.create()
        assert world.said() == []
        assert world.fleet.is_foreign(KEY)
        assert dict(world.fleet.pods) == {}

    def test_a_delete_at_once(self) -> None:
        """Without a delay the pod is gone, and what was planned for it does not happen."""
        world = World(NODE)
        pod = world.create()
        world.fleet.delete_pod(KEY, why="test")
        (_, gone) = world.pass_ms(NEVER_MS)
        assert gone == PodGone(
            backend="b",
            namespace="ns",
            name="p",
            uid=pod.uid,
            node="n1",
            node_uid="u1",
            owner=OWNER,
            why="test",
        )

    def test_a_delete_after_a_while(self) -> None:
        """With a delay it is on its way out first, and never becomes ready meanwhile."""
        world = World(NODE, behaviour=Behaviour(start_ms=(10, 10), stop_ms=(30, 30)))
        world.create()
        world.said()
        world.fleet.delete_pod(KEY)
        world.fleet.delete_pod(KEY)
        (stopping,) = world.pass_ms(29)
        assert isinstance(stopping, PodObserved)
        assert (stopping.pod.deleting, stopping.pod.ready) == (True, False)
        (gone,) = world.pass_ms(1)
        assert isinstance(gone, PodGone)

    def test_a_pod_that_comes_again_has_another_uid(self) -> None:
        """And what was planned for the one before it does not touch it."""
        world = World(NODE)
        first = world.create()
        world.pass_ms(5)
        world.fleet.delete_pod(KEY)
        second = world.create()
        assert first.uid != second.uid
        world.said()
        assert world.pass_ms(5) == [], "the first would have started now"
        assert len(world.pass_ms(5)) == 1

    def test_ending_a_pod(self) -> None:
        """A pod can be made to fail or finish; what has ended stays as it ended."""
        world = World(NODE)
        world.create()
        assert world.fleet.fail_pod(KEY).phase == "Failed"
        assert world.fleet.finish_pod(KEY).phase == "Failed"
        for act in (world.fleet.delete_pod, world.fleet.fail_pod, world.fleet.finish_pod):
            with pytest.raises(RefusedError, match="ns/none: there is no such pod"):
                act(PodKey("b", "ns", "none"))

    def test_a_pod_needs_a_node(self) -> None:
        """A pod for a node that is not there is refused."""
        world = World(NODE)
        with pytest.raises(RefusedError, match="node n2: there is no such node"):
            world.create(node="n2")
        assert world.said() == []


class TestNodes:
    """Joining, changing, failing, leaving."""

    def test_labels(self) -> None:
        """Labels are set and removed; a change that changes nothing is not said."""
        world = World(NODE)
        world.fleet.update_labels("n1", {"disk": "ssd"}, ["zone", "none"])
        world.fleet.update_labels("n1", {"disk": "ssd"})
        assert world.said() == [NodeObserved(node=replace(NODE, labels={"disk": "ssd"}))]

    def test_taints(self) -> None:
        """A taint replaces the one of its key and effect; one is removed by key, with or without effect."""
        world = World(NODE)
        old = Taint(key="k", value="1", effect="NoSchedule")
        new = replace(old, value="2")
        hard = replace(old, effect="NoExecute")
        assert world.fleet.update_taints("n1", [old, hard]).taints == (old, hard)
        assert world.fleet.update_taints("n1", [new]).taints == (hard, new)
        assert world.fleet.update_taints("n1", [], [replace(hard, value="")]).taints == (new,)
        assert world.fleet.update_taints("n1", [hard]).taints == (new, hard)
        assert world.fleet.update_taints("n1", [], [Taint(key="k", effect="")]).taints == ()

    def test_cordoning(self) -> None:
        """A cordoned node has the taint that Kubernetes gives it, once, until it is uncordoned."""
        world = World(NODE)
        world.fleet.cordon("n1")
        node = world.fleet.cordon("n1")
        assert (node.unschedulable, node.taints) == (True, (UNSCHEDULABLE_TAINT,))
        assert world.fleet.cordon("n1", unschedulable=False) == NODE
        assert len(world.said()) == 2

    def test_a_node_that_is_not_ready(self) -> None:
        """Its pods are not ready, those that had not started wait, and it all comes back with it."""
        world = World(NODE)
        world.create()
        world.pass_ms(100)
        late = PodKey("b", "ns", "late")
        world.create(late)
        node = world.fleet.set_node_ready("n1", ready=False)
        world.pass_ms(100)
        assert [taint.effect for taint in node.taints] == ["NoSchedule", "NoExecute"]
        assert not world.fleet.pods[KEY].ready
        assert world.fleet.pods[late].phase == "Pending"
        assert world.fleet.set_node_ready("n1", ready=True) == NODE
        world.pass_ms(100)
        assert [pod.ready for pod in world.fleet.pods.values()] == [True, True]

    def test_pods_outlive_their_node(self) -> None:
        """They stay on record, bound to it and not ready, until they are deleted."""
        world = World(NODE, OTHER)
        pod = world.create()
        world.pass_ms(100)
        world.fleet.remove_node("n1", why="test")
        assert world.said() == [
            NodeGone(backend="b", name="n1", uid="u1", why="test"),
            PodObserved(pod=replace(pod, phase="Running")),
        ]
        world.fleet.add_node(replace(NODE, uid="u3"))
        world.pass_ms(NEVER_MS)
        assert not world.fleet.pods[KEY].ready, "its node is another one than that of its name"
        world.fleet.delete_pod(KEY)
        assert dict(world.fleet.pods) == {}

    def test_pods_that_had_not_started_never_do_without_their_node(self) -> None:
        """What was planned for them does not happen."""
        world = World(NODE)
        world.create()
        world.fleet.remove_node("n1")
        world.pass_ms(NEVER_MS)
        assert world.fleet.pods[KEY].phase == "Pending"

    def test_pods_end_with_their_node(self) -> None:
        """If the behaviour says so, they are gone at once, after their node."""
        world = World(NODE, behaviour=replace_behaviour(pods_outlive_nodes=False))
        world.create()
        world.said()
        world.fleet.remove_node("n1")
        kinds = [type(one) for one in world.said()]
        assert kinds == [NodeGone, PodGone]

    def test_a_pod_that_was_stopping_ends_with_its_node(self) -> None:
        """There is nobody left to stop it."""
        world = World(NODE, behaviour=Behaviour(stop_ms=(1_000, 1_000)))
        world.create()
        world.fleet.delete_pod(KEY)
        world.fleet.remove_node("n1")
        assert dict(world.fleet.pods) == {}

    def test_unknown_and_taken_names(self) -> None:
        """What is done to a node that is not there is refused, and so is a second one of a name."""
        world = World(NODE)
        with pytest.raises(RefusedError, match="n1: it is there already"):
            world.fleet.add_node(NODE)
        with pytest.raises(RefusedError, match="n9: there is no such node"):
            world.fleet.remove_node("n9")
        assert world.said() == []

    def test_flapping(self) -> None:
        """A node that flaps is not ready and ready again, again and again, and stays the same node."""
        behaviour = Behaviour(nodes_flap=1, node_up_ms=(50, 50), node_down_ms=(20, 20))
        world = World(NODE, behaviour=behaviour)
        states = [one.node.ready for one in world.pass_ms(300) if isinstance(one, NodeObserved)]
        assert states == [False, True] * 4

    def test_vanishing(self) -> None:
        """A node that vanishes does not come back."""
        world = World(NODE, behaviour=Behaviour(nodes_vanish=1))
        assert [type(one) for one in world.pass_ms(NEVER_MS)] == [NodeGone]

    def test_being_replaced(self) -> None:
        """A node that is replaced comes back under its name, as another one."""
        behaviour = Behaviour(nodes_replaced=1, node_up_ms=(50, 50), node_down_ms=(20, 20))
        world = World(NODE, behaviour=behaviour)
        gone, back = world.pass_ms(100)
        assert isinstance(gone, NodeGone)
        assert isinstance(back, NodeObserved)
        assert (back.node.name, back.node.uid) != (gone.name, gone.uid)
        assert back.node.name == gone.name


class TestFeed:
    """Changes on their way to whoever observes."""

    def test_it_wakes_when_there_is_something(self) -> None:
        """Once for the first change, and not again until it was taken."""
        world = World(NODE)
        wakes = world.wakes
        world.fleet.cordon("n1")
        world.fleet.cordon("n1", unschedulable=False)
        assert world.wakes == wakes + 1

    def test_it_wakes_when_something_is_due_earlier(self) -> None:
        """Whoever sleeps until the next thing is due has to hear of an earlier one."""
        world = World(NODE, behaviour=Behaviour(nodes_vanish=1))
        world.said()
        wakes = world.wakes
        world.create()
        assert world.wakes == wakes + 2, "for the pod, and for its start"

    def test_it_holds_so_many_changes(self) -> None:
        """B1: who falls behind further loses them all, hears of it, and has to list again."""
        wakes: list[None] = []
        feed = Feed(lambda: wakes.append(None), lambda _: None, changes_max=2)
        change = NodeObserved(node=NODE)
        for _ in range(4):
            feed.put(change)
        assert feed.overrun
        assert list(feed.take()) == []
        assert len(wakes) == 2, "for the first, and for the loss"

    def test_closing(self) -> None:
        """A closed feed hears nothing; closing it again is harmless."""
        world = World(NODE)
        world.feed.close()
        world.feed.close()
        world.fleet.cordon("n1")
        assert world.said() == []


def replace_behaviour(*, pods_outlive_nodes: bool) -> Behaviour:
    """The usual delays, with another rule for the pods of nodes that leave."""
    return Behaviour(
        start_ms=AT_ONCE.start_ms,
        ready_ms=AT_ONCE.ready_ms,
        pods_outlive_nodes=pods_outlive_nodes,
    )
