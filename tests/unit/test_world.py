"""The world of the property tests does as an adapter and its backend do: else the properties hold of nothing."""

import msgspec
import pytest
from msgspec.structs import replace

from everynode.core.commands import AdoptPod, CreatePod, DeletePod, ReleasePod
from everynode.core.events import PodGone, PodObserved
from everynode.core.values import Owner, Pod
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.hosting import adopt, create, delete, release
from everynode.testing.world import World

NODE = node()
TEMPLATE = b'{"metadata":{"labels":{"app":"agent"}},"spec":{}}'
COMMAND = replace(create(NODE), failures=2, generation=7)
OURS = Owner(name=COMMAND.daemonset, uid=COMMAND.daemonset_uid)


def carried_out(world: World, command: CreatePod | DeletePod | AdoptPod | ReleasePod) -> str:
    """Carry a command out; returns its result."""
    world.queue.append(command)
    outcome = world.carry_out()
    assert outcome is not None
    return outcome.result


def made(world: World) -> Pod:
    """Put the node and the pod of the command there."""
    world.put_node(NODE)
    assert carried_out(world, COMMAND) == "done"
    return world.pods[COMMAND.pod_key]


def ends(world: World) -> list[PodGone]:
    """The tombstones of pods on the log."""
    return [record.message for record in world.log if isinstance(record.message, PodGone)]


def test_a_pod_says_for_what_it_was_made() -> None:
    """And its end repeats it; a pod that had ended is one more of its row, a deleted one is none."""
    world = World()
    first = made(world)
    assert (first.generation, first.failures, first.ready) == (7, 2, True)
    assert carried_out(world, delete(COMMAND, first.uid)) == "done"
    second = made(world)
    world.change_pod(second.key, phase="Failed", ready=False)
    carried_out(world, delete(COMMAND, second.uid))
    assert [(end.generation, end.failures, end.revision) for end in ends(world)] == [
        (7, 0, first.revision),
        (7, 3, first.revision),
    ]
    assert world.pods == {}


def test_pods_change_hands() -> None:
    """The pod is written where it stands before it is ended where it stood; repeats and late ones do nothing."""
    world = World()
    uid = made(world).uid
    assert carried_out(world, adopt(COMMAND, uid)) == "done"
    assert carried_out(world, release(COMMAND, "another")) == "done"
    assert ends(world) == []
    for _ in range(2):
        assert carried_out(world, release(COMMAND, uid)) == "done"
        assert world.pods[COMMAND.pod_key].owner is None
    assert carried_out(world, COMMAND) == "refused"
    assert carried_out(world, adopt(COMMAND, "another")) == "superseded"
    for _ in range(2):
        assert carried_out(world, adopt(COMMAND, uid)) == "done"
        assert world.pods[COMMAND.pod_key].owner == OURS
    said = [record.message for record in world.log]
    spoken = [
        (type(one), (one.pod if isinstance(one, PodObserved) else one).owner)
        for one in said
        if isinstance(one, PodObserved | PodGone)
    ]
    observed = [(PodObserved, OURS), (PodObserved, None), (PodGone, OURS)]
    assert spoken == [*observed, (PodObserved, OURS), (PodGone, None)]


def test_a_pod_of_somebody_else_is_not_adopted() -> None:
    """Nor is one on its way out, nor released by who does not have it."""
    world = World(stop_at_once=False)
    uid = made(world).uid
    world.put_pod(replace(world.pods[COMMAND.pod_key], owner=Owner(name="other", uid="o")))
    assert carried_out(world, adopt(COMMAND, uid)) == "superseded"
    assert carried_out(world, release(COMMAND, uid)) == "done"
    assert world.pods[COMMAND.pod_key].owner == Owner(name="other", uid="o")
    world.orphan(COMMAND.pod_key)
    world.stop_pod(COMMAND.pod_key)
    assert carried_out(world, adopt(COMMAND, uid)) == "superseded"


def test_an_orphan_has_the_labels_of_its_template() -> None:
    """As far as it was not given others."""
    wanted = replace(daemonset(), template=msgspec.Raw(TEMPLATE))
    world = World()
    world.put_node(NODE)
    world.apply(wanted)
    world.run()
    (key,) = world.pods
    assert world.pods[key].labels is None
    world.orphan(key)
    assert world.pods[key].labels == {"app": "agent"}
    world.label_pod(key, {"app": "x"})
    world.orphan(key)
    assert world.pods[key].labels == {"app": "x"}


def test_pods_that_take_their_time() -> None:
    """They start and stop when the world moves on, and those of a bad revision are never ready."""
    world = World(start_ready=False, stop_at_once=False)
    first = made(world)
    assert (first.phase, first.ready) == ("Pending", False)
    assert world.move_on()
    assert world.pods[first.key].ready
    assert not world.move_on()
    carried_out(world, delete(COMMAND, first.uid))
    leaving = world.pods[first.key]
    assert (leaving.deleting, leaving.ready, leaving.deleting_since_ms) == (
        True,
        False,
        world.now_ms,
    )
    assert carried_out(world, COMMAND) == "failed"
    assert world.move_on()
    assert world.pods == {}
    world.hanging.add(COMMAND.revision)
    made(world)
    assert world.move_on()
    assert (world.pods[first.key].phase, world.pods[first.key].ready) == ("Running", False)
    assert not world.move_on()


def test_a_node_that_is_not_ready() -> None:
    """Nothing on it is ready, starts or stops until it is again, or gone."""
    world = World()
    first = made(world)
    world.set_node_ready(NODE.key, ready=False)
    assert world.nodes[NODE.key].unready_since_ms == world.now_ms
    assert not world.pods[first.key].ready
    carried_out(world, delete(COMMAND, first.uid))
    assert world.pods[first.key].deleting
    assert not world.move_on()
    carried_out(world, create(NODE, slot=1))
    assert [one.phase for one in world.pods.values()] == ["Running", "Pending"]
    world.set_node_ready(NODE.key, ready=True)
    assert world.nodes[NODE.key] == NODE
    assert world.move_on()
    assert [one.ready for one in world.pods.values()] == [True]
    world.set_node_ready(NODE.key, ready=False)
    world.stop_pod(next(iter(world.pods)))
    world.remove_node(NODE.key)
    assert world.pods == {}


@pytest.mark.parametrize("start_ready", [True, False])
def test_it_comes_to_rest(start_ready: bool) -> None:
    """With pods that take their time as with those that do not."""
    world = World(start_ready=start_ready, stop_at_once=start_ready)
    world.put_node(NODE)
    world.apply(daemonset())
    world.put_pod(pod(daemonset(), NODE, "duplicate-1"))
    world.put_pod(pod(daemonset(), NODE, "duplicate-2"))
    world.run()
    assert [one.ready for one in world.pods.values()] == [True]
